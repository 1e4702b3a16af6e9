"""LoraHub: the search finds what only the loss tells, and what it weighs is what it says."""

import builtins

import pytest
import torch
import torch.nn.functional as F

from weft.errors import ConfigError, MissingExtraError, ShapeError
from weft.route.lorahub import search
from weft.types import Bank, Mixture


def bowl(weight_NK):
    """Lowest at (0.5, -1, 0)."""
    return (weight_NK - torch.tensor([0.5, -1.0, 0.0])).square().sum(1)


def test_it_finds_the_bottom_of_a_bowl_and_repeats_itself():
    asked = []

    def loss(weight_NK):
        asked.extend(weight_NK.tolist())
        return bowl(weight_NK)

    found = search(loss, 3, budget=40, penalty=0.05, seed=1)
    assert len(asked) == len(found.objectives) == 40
    assert max(abs(w) for row in asked for w in row) <= 1.5
    # The objective by hand, for everything that was tried: loss + 0.05 * mean |w|.
    want = [
        sum((w - b) ** 2 for w, b in zip(row, (0.5, -1, 0), strict=True)) + 0.05 * sum(map(abs, row)) / 3
        for row in asked
    ]
    assert list(found.objectives) == pytest.approx(want, abs=1e-6)
    assert found.objective == pytest.approx(min(want), abs=1e-6)
    assert found.weight_K.tolist() == asked[want.index(min(want))]
    assert found.weight_K.tolist() == pytest.approx([0.5, -1, 0], abs=0.1)
    again = search(bowl, 3, budget=40, penalty=0.05, seed=1)
    assert torch.equal(again.weight_K, found.weight_K)
    assert again.objectives == found.objectives


def test_candidates_share_forwards():
    sizes = []

    def loss(weight_NK):
        sizes.append(len(weight_NK))
        return bowl(weight_NK)

    found = search(loss, 3, budget=25, at_once=10, seed=0)
    assert sizes == [10, 10, 5]
    assert found.objective == min(found.objectives) < 1.25  # w = 0 has 1.25


@pytest.mark.parametrize("combine", ["sum", "average"])
def test_examples_of_one_adapter_find_that_adapter(pico_host, pico_bank, combine):
    """Four candidates and three examples in one forward of twelve rows; the penalty keeps the others out."""
    bank = pico_bank(3, 2, scale=0.4)
    ids_BT = torch.randint(3, 64, (3, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        said_BT = pico_host(ids_BT, Mixture.rows(bank, [1] * 3)).logits.argmax(-1)

    def loss(weight_NK):
        many = weight_NK.repeat_interleave(3, 0)
        mixture = Mixture.dense(bank, many, combine)
        with torch.no_grad():
            logits = pico_host(ids_BT.repeat(len(weight_NK), 1), mixture).logits
        target = said_BT.repeat(len(weight_NK), 1)
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        return loss.unflatten(0, (len(weight_NK), -1)).mean(1)

    with torch.no_grad():
        base = float(loss(torch.zeros(1, 3)))
    found = search(loss, 3, budget=80, at_once=4, seed=0)
    assert found.weight_K.tolist() == pytest.approx([0, 1, 0], abs=0.25)
    assert found.objective < 0.6 * base
    # What was weighed, by one dense delta per site: a sum of deltas, or sums of factors.
    w = found.weight_K
    a, b = {}, {}
    for site in bank.sites:
        pairs = list(zip(w, bank.a[site], bank.b[site], strict=True))
        delta = sum(x * (q @ p) for x, p, q in pairs)
        if combine == "average":
            delta = sum(x * q for x, _, q in pairs) @ sum(x * p for x, p, _ in pairs)
        a[site], b[site] = torch.eye(site.in_features)[None], delta[None]
    with torch.no_grad():
        want = pico_host(ids_BT, Mixture.of(Bank(("one",), a, b))).logits
        got = pico_host(ids_BT, Mixture.dense(bank, w[None], combine)).logits
    torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)


def test_searches_that_cannot_be(monkeypatch):
    with pytest.raises(ConfigError, match="library holds 0"):
        search(bowl, 0)
    for options in ({"budget": 0}, {"at_once": 0}, {"budget": 3, "at_once": 4}, {"bound": 0.0}):
        with pytest.raises(ConfigError):
            search(bowl, 3, **options)
    with pytest.raises(ConfigError, match="penalty 0 or more"):
        search(bowl, 3, penalty=-1.0)
    with pytest.raises(ShapeError, match="nan"):
        search(lambda w: bowl(w) * float("nan"), 3)
    with pytest.raises(ShapeError, match="not a finite number for each"):
        search(lambda w: bowl(w)[None], 3)

    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "nevergrad":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtraError, match=r'pip install "weft\[route\]"'):
        search(bowl, 3)
