"""The same merges by PEFT 0.21.2, where PEFT is right; where it is not, the comment says why."""

import pytest
import torch
from merge_cases import dense
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from weft.adapters import site_at
from weft.merging import merge
from weft.types import Adapter, Factors, Site

NAMES = ("one", "two", "three")


class Two(nn.Module):
    """Two linear modules; the first alone where `sites` asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(12, 10, bias=False)
        self.down = nn.Linear(10, 12, bias=False)


def peer_of(
    modules: list[str], *, ranks: tuple[int, ...] = (3, 3, 3), use_rslora: bool = False
) -> tuple[PeftModel, list[Adapter]]:
    """A PEFT model with three random adapters of other alphas, and the same adapters here."""
    torch.manual_seed(0)
    peer, adapters = None, []
    for name, rank, alpha in zip(NAMES, ranks, (6, 3, 9), strict=True):
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=modules, use_rslora=use_rslora)
        if peer is None:
            peer = get_peft_model(Two(), config, adapter_name=name)
        else:
            peer.add_adapter(name, config)
        factors = {}
        for module in modules:
            layer = peer.base_model.model.get_submodule(module)
            a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
            nn.init.normal_(a)
            nn.init.normal_(b)
            site = site_at(module, layer.in_features, layer.out_features)
            factors[site] = Factors(a.detach().clone(), b.detach().clone(), layer.scaling[name])
        adapters.append(Adapter(factors, name=name))
    assert peer is not None
    return peer, adapters


def theirs(peer: PeftModel, site: Site, **options: object) -> Tensor:
    if "merged" not in peer.peft_config:
        peer.add_weighted_adapter(list(NAMES), adapter_name="merged", **options)
    return peer.base_model.model.get_submodule(site.path).get_delta_weight("merged").double()


def assert_alike(merged: Adapter, peer: PeftModel, **options: object) -> None:
    for site in merged.sites:
        expected = theirs(peer, site, **options)
        torch.testing.assert_close(dense(merged, site), expected, rtol=0, atol=1e-5 * float(expected.norm()))


def test_cat() -> None:
    peer, adapters = peer_of(["up", "down"], ranks=(2, 3, 4))
    weights = [0.5, -0.3, 0.8]
    assert_alike(merge("concat", adapters, weights=weights), peer, weights=weights, combination_type="cat")


@pytest.mark.parametrize("rank", [None, 2, 5])
def test_svd(rank: int | None) -> None:
    peer, adapters = peer_of(["up", "down"], ranks=(2, 3, 4))
    weights = [0.5, 0.3, 0.8]
    merged = merge("svd", adapters, weights=weights, rank=rank)
    assert_alike(merged, peer, weights=weights, combination_type="svd", svd_rank=rank)


def test_linear_is_our_peft_linear_and_not_the_sum() -> None:
    peer, adapters = peer_of(["up", "down"])
    weights = [0.5, -0.3, 0.8]
    assert_alike(
        merge("peft_linear", adapters, weights=weights), peer, weights=weights, combination_type="linear"
    )
    # PEFT's own documents call it a very rough approximation: cross terms between all adapters.
    exact = merge("linear", adapters, weights=weights)
    for site in exact.sites:
        error = (theirs(peer, site) - dense(exact, site)).norm() / dense(exact, site).norm()
        assert float(error) > 0.3


def test_ties_svd_with_its_trim_per_tensor() -> None:
    # Weights of 1: PEFT elects before it weighs and divides by the number of adapters that agree.
    peer, adapters = peer_of(["up", "down"])
    merged = merge("ties", adapters, weights=[1.0, 1.0, 1.0], density=0.4, trim="tensor", rank=5)
    options = {"combination_type": "ties_svd", "density": 0.4, "svd_rank": 5}
    assert_alike(merged, peer, weights=[1.0, 1.0, 1.0], **options)


def test_magnitude_prune_svd() -> None:
    peer, adapters = peer_of(["up", "down"])
    weights = [0.5, 0.3, 0.8]
    merged = merge("magnitude_prune", adapters, weights=weights, density=0.4, rank=5)
    options = {"combination_type": "magnitude_prune_svd", "density": 0.4, "svd_rank": 5}
    assert_alike(merged, peer, weights=weights, **options)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_dare_svd_under_the_same_draws(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # PEFT draws by another function, so it is given ours; one site, so that the order is the same.
    peer, adapters = peer_of(["up"])
    chance = torch.Generator().manual_seed(5)
    monkeypatch.setattr(torch, "bernoulli", lambda p: (torch.rand(p.shape, generator=chance) < p).to(p.dtype))
    weights = [1.0, 1.0, 1.0]
    options = {"combination_type": f"{method}_svd", "density": 0.5, "svd_rank": 5}
    expected = theirs(peer, adapters[0].sites[0], weights=weights, **options)
    merged = merge(method, adapters, weights=weights, density=0.5, seed=5, rank=5)
    torch.testing.assert_close(
        dense(merged, merged.sites[0]), expected, rtol=0, atol=1e-5 * float(expected.norm())
    )


def test_rslora_sources_are_right_here_and_not_there() -> None:
    # PEFT gives the result the sources' use_rslora, and so a scaling of sqrt(rank) that nobody asked for.
    peer, adapters = peer_of(["up"], use_rslora=True)
    weights = [0.5, 0.3, 0.8]
    site = adapters[0].sites[0]
    merged = dense(merge("svd", adapters, weights=weights, rank=9), site)
    exact = sum(w * dense(a, site) for a, w in zip(adapters, weights, strict=True))
    torch.testing.assert_close(merged, exact, rtol=0, atol=1e-5)
    wrong = theirs(peer, site, weights=weights, combination_type="svd", svd_rank=9)
    torch.testing.assert_close(wrong, 3 * exact, rtol=0, atol=1e-3)
