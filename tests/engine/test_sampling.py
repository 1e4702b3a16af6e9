import numpy as np
import pytest
import torch

from checked import unchecked
from weft.engine import Sampling
from weft.engine.sampling import draw, processors
from weft.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("repetition_penalty", 0.0),
        ("max_new_tokens", 0),
        ("stop", ("a", "")),
        ("max_new_tokens", 2.5),
        ("max_new_tokens", "3"),
        ("seed", None),
        ("seed", 1.5),
        ("top_k", 2.0),
        ("temperature", "1"),
        ("logit_bias", {5: 5.0}),
        ("logit_bias", [("5", 5.0)]),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"^{name} should be .*, got "):
        unchecked(Sampling.__init__, object.__new__(Sampling), **{name: value})


def test_one_stop_string_is_a_tuple_of_one():
    assert Sampling(stop="END").stop == ("END",)
    assert Sampling(stop=["a", "b"]).stop == ("a", "b")


def test_numbers_of_numpy_and_torch_are_numbers():
    given, half = object.__new__(Sampling), torch.tensor(0.5)
    unchecked(Sampling.__init__, given, temperature=np.float32(0.5), top_p=half, seed=np.int64(3), top_k=2)
    assert given == Sampling(temperature=0.5, top_p=0.5, seed=3, top_k=2)
    assert type(given.temperature) is float
    assert type(given.seed) is int


def test_greedy_has_no_warpers_and_neutral_values_add_none():
    assert processors(Sampling(top_k=5, top_p=0.5)) == []
    assert processors(Sampling(temperature=1.0)) == []
    names = [
        type(p).__name__
        for p in processors(Sampling(temperature=0.5, top_k=5, top_p=0.5, min_p=0.1, repetition_penalty=1.2))
    ]
    assert names == [
        "RepetitionPenaltyLogitsProcessor",
        "TemperatureLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "MinPLogitsWarper",
    ]


def test_a_draw_equals_multinomial_row_by_row():
    scores = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) * 3
    scores[1, 7:] = -torch.inf
    streams, twins = ([torch.Generator().manual_seed(i) for i in range(4)] for _ in range(2))
    for _ in range(5):
        want = [
            torch.multinomial(row.softmax(-1), 1, generator=g).item()
            for row, g in zip(scores, twins, strict=True)
        ]
        assert draw(scores, streams).tolist() == want


def test_draws_follow_the_distribution():
    scores = torch.tensor([[0.5, 0.3, 0.2, 0.0]]).log()
    stream = [torch.Generator().manual_seed(0)]
    counts = torch.zeros(4)
    for _ in range(2000):
        counts[draw(scores, stream)] += 1
    torch.testing.assert_close(counts / 2000, torch.tensor([0.5, 0.3, 0.2, 0.0]), atol=0.035, rtol=0)
