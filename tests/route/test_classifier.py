"""The classifier of requests: against plain gradient descent, and what it refuses."""

import math

import pytest
import torch
from route_library import Letters

from tiny_models import make_bank
from weft.embed import OneHot, SentenceEncoder
from weft.errors import ConfigError, ShapeError, UnknownNameError
from weft.route import Classifier, routed
from weft.types import Bank, Dense, Rows

EXAMPLES = [
    ("abc", "late"),
    ("cba", "early"),
    ("aab", "late"),
    ("zzc", "early"),
    ("zy", "middle"),
    ("b", "middle"),
]


@pytest.fixture(scope="module")
def bank(pico_host):
    made = make_bank(pico_host.sites, 3, 2)
    return Bank(("late", "middle", "early"), made.a, made.b)


def chances(weights, bias, x):
    scores = [
        sum(w * v for w, v in zip(row, x, strict=True)) + c for row, c in zip(weights, bias, strict=True)
    ]
    top = max(scores)
    e = [math.exp(s - top) for s in scores]
    return [v / sum(e) for v in e]


def unit(text):
    x = [float(text.count(chr(97 + i))) for i in range(26)]
    size = math.sqrt(sum(v * v for v in x))
    return [v / size for v in x]


def test_it_is_the_minimum_of_its_loss():
    """The gradient of the loss, by loops, is nought there; a convex loss has no other such place."""
    l2 = 0.01
    made = Classifier.fit(Letters(), EXAMPLES, l2=l2)
    assert made.names == ("early", "late", "middle")
    weights, bias = made.weight_KD.tolist(), made.bias_K.tolist()
    slope = [[l2 * w for w in row] for row in weights]
    tilt = [0.0] * 3
    for text, name in EXAMPLES:
        x = unit(text)
        for k, p in enumerate(chances(weights, bias, x)):
            off = (p - (made.names[k] == name)) / len(EXAMPLES)
            tilt[k] += off
            for i, v in enumerate(x):
                slope[k][i] += off * v
    assert max(abs(g) for row in slope for g in row) < 1e-5
    assert max(map(abs, tilt)) < 1e-5
    again = Classifier.fit(Letters(), EXAMPLES, l2=l2)
    assert torch.equal(again.weight_KD, made.weight_KD)


def test_weights_are_chances(bank):
    made = Classifier.fit(Letters(), EXAMPLES, top_k=None, temperature=2.0)
    want = {}
    for text in ("cab", "zz"):
        half = [[w / 2 for w in row] for row in made.weight_KD.tolist()]
        found = chances(half, [c / 2 for c in made.bias_K.tolist()], unit(text))
        want[text] = dict(zip(made.names, found, strict=True))
    mixture = routed(made, list(want), bank)
    assert isinstance(mixture.terms[0].gate, Dense)
    for row, text in zip(mixture.terms[0].gate.weight, want, strict=True):
        assert dict(zip(bank.names, row.tolist(), strict=True)) == pytest.approx(want[text], abs=1e-5)
    # Of the two best, the chances among themselves; the best alone, as it is.
    made.top_k = 2
    [row] = made.weights(["zz"], bank.names).tolist()
    kept = sorted(want["zz"].values())[1:]
    assert sorted(row) == pytest.approx([0, kept[0] / sum(kept), kept[1] / sum(kept)], abs=1e-5)
    made.top_k = 1
    [term] = made.route("cab", bank).terms
    assert isinstance(term.gate, Rows)
    assert bank.names[int(term.gate.index_B)] == max(want["cab"], key=want["cab"].get)


def test_a_real_encoder_learns_what_the_words_do_not_say():
    """Orders of a shop's own, each with an adapter that no wording names."""
    examples = [
        (f"{verb} {thing}", name)
        for verb in ("please", "kindly", "now")
        for thing, name in (("turn it round", "a"), ("make it loud", "b"), ("how long is it", "c"))
    ]
    made = Classifier.fit(SentenceEncoder(), examples)
    asked = ["I would like to have it turned round", "it should be very loud", "tell me how long it is"]
    assert made.weights(asked, ["a", "b", "c"]).argmax(-1).tolist() == [0, 1, 2]


def test_one_adapter_equal_adapters_and_bad_input(bank):
    alone = Classifier.fit(Letters(), [("abc", "only")])
    assert alone.weights(["zzz"], ["only"]).tolist() == [[1.0]]
    twins = Classifier.fit(Letters(), [("abc", "a"), ("abc", "b")], top_k=None)
    assert twins.weights(["abc"], ["a", "b"])[0].tolist() == pytest.approx([0.5, 0.5], abs=1e-4)
    made = Classifier.fit(Letters(), EXAMPLES)
    with pytest.raises(UnknownNameError, match=r"does not know adapter 'earl' .did you mean early"):
        made.weights(["abc"], ["earl"])
    with pytest.raises(ShapeError, match="empty"):
        made.weights(["abc"], [])
    with pytest.raises(ShapeError, match="no request"):
        routed(made, [], bank)
    with pytest.raises(ConfigError, match="a bank of 3 allows 1 to 3"):
        routed(Classifier.fit(Letters(), EXAMPLES, top_k=4), ["abc"], bank)
    with pytest.raises(ConfigError, match="needs examples"):
        Classifier.fit(Letters(), [])
    for options in ({"l2": 0.0}, {"max_iter": 0}, {"top_k": 0}, {"temperature": 0.0}):
        with pytest.raises(ConfigError):
            Classifier.fit(Letters(), EXAMPLES, **options)
    two = OneHot(["a", "b"])
    with pytest.raises(ShapeError, match=r"2 adapters and 2 features need \(2, 2\)"):
        Classifier(two, ["a", "b"], torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(ShapeError, match="NaN"):
        Classifier(two, ["a", "b"], torch.full((2, 2), float("nan")), torch.zeros(2))


def test_a_request_without_direction_is_still_told(bank):
    """No letter at all: the classifier falls back on its bias, and nothing is NaN."""
    made = Classifier.fit(Letters(), EXAMPLES, top_k=None)
    assert torch.isfinite(made.weights(["..."], list(made.names))).all()
