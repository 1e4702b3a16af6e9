"""A router may say that no adapter of its library is meant."""

import pytest
import torch
from route_library import TASKS

from tiny_models import make_bank
from weft.embed import OneHot, SentenceEncoder
from weft.errors import ConfigError
from weft.route import Blend, Classifier, Nearest, calibrate, load_library
from weft.route.everyday import EVERYDAY
from weft.route.library import texts_of
from weft.tasks.letters.world import World
from weft.types import Dense, Rows

FAR = (
    "What is the population of Kenya?",
    "Who painted the Mona Lisa?",
    "Please summarise the meeting notes.",
    "How many legs does a spider have?",
    "thank you very much",
    "Which train goes to Paris?",
    "Explain inflation to a child.",
    "My laptop does not start.",
    "Compose a haiku about autumn.",
    "Is it going to rain tomorrow?",
)


@pytest.mark.parametrize("kind", ["nearest", "blend", "classifier"])
def test_everyday_requests_belong_to_no_letters_adapter_and_new_wordings_do(kind: str) -> None:
    """The requests of both kinds are others than the threshold and the library were made of."""
    library = load_library("weft/letters-adapters")
    encoder = SentenceEncoder()
    if kind == "blend":
        router = Blend(encoder, library.labels)
    elif kind == "classifier":
        told = [(text, name) for name, label in library.labels.items() for text in texts_of(label)]
        router = Classifier.fit(encoder, told)
    else:
        router = Nearest(encoder)
        for name, label in library.labels.items():
            router.add(name, texts_of(label))
    names = tuple(library.labels)
    router.threshold = calibrate(router.cosines, names)
    assert not set(FAR) & set(EVERYDAY)
    assert not router.weights(FAR, names).any()
    world = World()
    near = [text for name in names for text in world.find(name).unseen_descriptions]
    taken = router.weights(near, names).any(-1).float().mean()
    assert len(near) > 50
    assert taken > 0.95, "few requests that belong to the library are turned away"


def test_the_base_answers_a_request_that_is_meant_for_nobody(pico_host) -> None:
    requests = (*TASKS.values(), "something else")
    bank = make_bank(pico_host.sites, len(TASKS), 2)
    bank = type(bank)(tuple(TASKS), bank.a, bank.b, bank.base)
    index = Nearest(OneHot(requests), threshold=0.5)
    for name, text in TASKS.items():
        index.add(name, [text])
    mixture = index.route_all(requests, bank)
    assignment = mixture.terms[0].gate
    assert isinstance(assignment, Rows)
    assert assignment.index_B.tolist() == [0, 1, 2, -1]
    index.top_k = 2
    assignment = index.route_all(requests, bank).terms[0].gate
    assert isinstance(assignment, Dense)
    torch.testing.assert_close(assignment.weight.sum(-1), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    index.threshold = None
    assert index.route_all(requests, bank).terms[0].gate.weight.sum(-1).tolist() == pytest.approx([1] * 4)
    ids_BT = torch.arange(3, 9)[None].repeat(4, 1)
    index.threshold = 0.5
    logits = pico_host(ids_BT, index.route_all(requests, bank)).logits
    assert torch.equal(logits[3], pico_host(ids_BT).logits[3])
    assert not torch.equal(logits[0], pico_host(ids_BT).logits[0])


def test_a_classifier_keeps_its_centres_and_threshold(tmp_path) -> None:
    texts = ("sort it", "turn it round", "something else")
    router = Classifier.fit(OneHot(texts), [("sort it", "sort"), ("turn it round", "reverse")])
    names = ["sort", "reverse"]
    assert router.weights(texts, names)[2].sum() == 1
    router.threshold = 0.5
    assert router.weights(texts, names).tolist() == [[1, 0], [0, 1], [0, 0]]
    router.save_pretrained(tmp_path / "kept")
    kept = Classifier.from_pretrained(tmp_path / "kept")
    assert kept.threshold == 0.5
    assert torch.equal(kept.weights(texts, names), router.weights(texts, names))
    old = Classifier(router.encoder, router.names, router.weight_KD, router.bias_K)
    old.save_pretrained(tmp_path / "old")
    assert Classifier.from_pretrained(tmp_path / "old").centre_KD is None
    with pytest.raises(ConfigError, match="knows no distance"):
        Classifier(router.encoder, router.names, router.weight_KD, router.bias_K, threshold=0.5)
