import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaForCausalLM

from tiny_models import make_bank, make_llama
from weft.embed import (
    InputEmbedding,
    Task2Vec,
    build_encoder,
    distances,
    task2vec,
)
from weft.errors import ConfigError, CueError, PromptTooLongError, ShapeError
from weft.host import Host
from weft.tasks import Row, render
from weft.tasks.letters.tokenizer import build_tokenizer
from weft.types import Description, Document, Examples, Mixture

ROWS = (Row("cab", "bac"), Row("ab", "baba"), Row("dcba", "a"))
CUES = (Examples((("cab", "bac"), ("ab", "ba"))), Examples((("xyz", "aaaa"),)))


@pytest.fixture(scope="module")
def host() -> Host:
    tokenizer = build_tokenizer(("sort the letters",))
    return Host(
        make_llama(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1),
        tokenizer=tokenizer,
        name="pico",
    )


@pytest.fixture(scope="module")
def deaf(pico_llama: LlamaForCausalLM) -> Host:
    return Host(pico_llama)


def slow_task2vec(host: Host, rows: tuple[Row, ...]) -> Tensor:
    """The exact Fisher, by the weights' own gradients: every position, every label, one at a time."""
    weights = [host.module.get_submodule(site.path).weight for site in host.sites]
    total = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    for row in rows:
        encoded = render(host.tokenizer, row)
        log_p_TV = host(torch.tensor([encoded.ids])).logits[0].double().log_softmax(-1)
        for t in range(len(encoded.prompt_ids) - 1, len(encoded.ids) - 1):
            for label in range(log_p_TV.shape[1]):
                gradients = torch.autograd.grad(log_p_TV[t, label], weights, retain_graph=True)
                for f_OI, g_OI in zip(total, gradients, strict=True):
                    f_OI += log_p_TV[t, label].exp().detach() * g_OI.double() ** 2
    for weight in weights:
        weight.requires_grad_(False)
    return torch.cat([f_OI.mean(1) / len(rows) for f_OI in total])


def test_sampled_labels_come_near_the_exact_fisher(host: Host) -> None:
    row = Row("b", "ab")
    wanted = slow_task2vec(host, (row,))
    found = task2vec(host, [row], samples=300)
    assert found.shape == (sum(site.out_features for site in host.sites),)
    assert float((found - wanted).norm() / wanted.norm()) < 0.1


def test_batches_and_seeds(host: Host) -> None:
    whole = task2vec(host, ROWS, samples=4)
    assert torch.equal(task2vec(host, ROWS, samples=4), whole)
    assert not torch.equal(task2vec(host, ROWS, samples=4, seed=1), whole)
    # In other batches other labels are drawn, for the same expectation.
    one = task2vec(host, ROWS, samples=80, batch_size=1)
    three = task2vec(host, ROWS, samples=80, batch_size=3)
    assert float((one - three).norm() / three.norm()) < 0.3


def test_the_probe_may_carry_an_adapter(host: Host) -> None:
    bank = make_bank(host.sites, 1, 2)
    plain = task2vec(host, ROWS)
    assert not torch.allclose(task2vec(host, ROWS, mixture=Mixture.of(bank)), plain)
    assert task2vec(host, ROWS, sites=host.sites[:1]).shape == (host.sites[0].out_features,)


def slow_distance(a: list[float], b: list[float]) -> float:
    """Loops over neurons, with Python numbers."""
    dot = square_a = square_b = 0.0
    for x, y in zip(a, b, strict=True):
        if x + y > 0:
            u, v = x / (x + y), y / (x + y)
            dot, square_a, square_b = dot + u * v, square_a + u * u, square_b + v * v
    return 1 - dot / (square_a * square_b) ** 0.5


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3))
def test_distances(seed: int, scale: float) -> None:
    chance = torch.Generator().manual_seed(seed)
    f_QD = torch.rand(3, 7, generator=chance, dtype=torch.float64) ** 3
    f_KD = torch.rand(2, 7, generator=chance, dtype=torch.float64) ** 3
    f_QD[:, 0] = 0.0
    f_KD[:, 0] = 0.0
    found = distances(f_QD, f_KD)
    wanted = [[slow_distance(a.tolist(), b.tolist()) for b in f_KD] for a in f_QD]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(found, distances(f_KD, f_QD).mT, atol=1e-12, rtol=0)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert float(distances(f_QD, scale * f_QD).diagonal().abs().max()) < 1e-9


def test_tasks_without_anything_in_common_are_farthest() -> None:
    assert float(distances(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))[0, 0]) == 1.0


@pytest.mark.parametrize("wrong", [[torch.nan, 1.0], [-1.0, 1.0], [0.0, 0.0]])
def test_what_is_no_fisher_is_refused(wrong: list[float]) -> None:
    good = torch.ones(1, 2)
    for pair in ((torch.tensor([wrong]), good), (good, torch.tensor([wrong]))):
        with pytest.raises(ShapeError, match="task 0 has a Fisher that is"):
            distances(*pair)
    with pytest.raises(ShapeError, match="tasks of 2 and of 3 neurons"):
        distances(good, torch.ones(1, 3))


def test_the_encoder_is_the_function(host: Host) -> None:
    encoder = Task2Vec(host, samples=2, seed=3)
    e_BD = encoder.encode(CUES)
    for cue, e_D in zip(CUES, e_BD, strict=True):
        rows = [Row(prompt, completion) for prompt, completion in cue.pairs]
        assert torch.equal(e_D, task2vec(host, rows, samples=2, seed=3))
    assert e_BD.shape[1] == encoder.dim
    assert encoder.encode([]).shape == (0, encoder.dim)
    assert not e_BD.requires_grad


def test_input_embedding_is_the_mean_of_the_tokens(host: Host) -> None:
    encoder = InputEmbedding(host)
    table = host.module.get_input_embeddings().weight
    e_BD = encoder.encode([*CUES, Description("cab")])
    for text, e_D in zip(("cabbacabba", "xyzaaaa", "cab"), e_BD, strict=True):
        ids = [i for letter in text for i in host.tokenizer.encode(letter, add_special_tokens=False)]
        assert len(ids) == len(text)
        torch.testing.assert_close(e_D, sum(table[i] for i in ids) / len(ids))
    assert encoder.encode([]).shape == (0, encoder.dim)
    described = Examples(CUES[0].pairs, description="sort the letters")
    assert torch.equal(encoder.encode([described])[0], e_BD[0])


def test_encoders_come_back_from_their_configs(host: Host) -> None:
    encoders = [InputEmbedding(host), Task2Vec(host), Task2Vec(host, samples=2)]
    for encoder in encoders:
        again = build_encoder(encoder.config(), host=host)
        assert (again.identity, again.dim, again.config()) == (
            encoder.identity,
            encoder.dim,
            encoder.config(),
        )
        assert not encoder.state_dict()
    assert len({encoder.identity for encoder in encoders}) == 3
    with pytest.raises(ConfigError, match="inputs needs a host"):
        build_encoder({"kind": "inputs"})


def test_wrong_use_is_refused(host: Host, deaf: Host) -> None:
    with pytest.raises(ConfigError, match="tokenizer"):
        InputEmbedding(deaf)
    with pytest.raises(ConfigError, match="tokenizer"):
        Task2Vec(deaf)
    with pytest.raises(ConfigError, match="tokenizer"):
        task2vec(deaf, ROWS)
    with pytest.raises(ConfigError, match="got 0"):
        Task2Vec(host, samples=0)
    with pytest.raises(ShapeError, match="0 rows"):
        task2vec(host, ())
    with pytest.raises(PromptTooLongError):
        task2vec(host, [Row("a" * 200, "b")])
    with pytest.raises(CueError, match="at least one pair"):
        Task2Vec(host).encode([Examples(())])
    with pytest.raises(CueError, match="got Description"):
        Task2Vec(host).encode([Description("sort")])
    with pytest.raises(CueError, match="empty"):
        InputEmbedding(host).encode([Examples(())])
    with pytest.raises(CueError, match="nothing to read"):
        InputEmbedding(host).encode([Examples((("", ""),))])
    with pytest.raises(CueError, match="got Document"):
        InputEmbedding(host).encode([Document("text")])
