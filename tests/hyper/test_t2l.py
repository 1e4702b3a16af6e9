import pytest
import torch
from torch import Tensor
from transformers import MistralConfig

from weft.config import parse_config
from weft.errors import ConfigError, ShapeError
from weft.host import sites_of
from weft.hyper.groups import group_sites, role_of
from weft.hyper.head_s import rotate, walsh
from weft.hyper.t2l import (
    T2L,
    HeadLConfig,
    HeadMConfig,
    HeadPConfig,
    HeadSConfig,
    HeadZConfig,
    T2LConfig,
    build_t2l,
)
from weft.types import Site

DIM = 12
HEADS = {
    "L": HeadLConfig(kind="L"),
    "L-tied": HeadLConfig(kind="L", tie_a=True),
    "M": HeadMConfig(kind="M"),
    "S": HeadSConfig(kind="S"),
    "S-learned": HeadSConfig(kind="S", position="learned"),
    "Z": HeadZConfig(kind="Z"),
    "Z-full": HeadZConfig(kind="Z", core="full"),
    "P": HeadPConfig(kind="P", bases=4),
}
# Layers 1, 4 and 5; `up` is missing in layer 5 and wider in layer 4; one site lies outside the layers.
SITES = (
    *(Site(f"net.{layer}.attn.q", layer, "q", 6, 10) for layer in (1, 4, 5)),
    Site("net.1.up", 1, "up", 6, 8),
    Site("net.4.up", 4, "up", 6, 9),
    Site("out", -1, "out", 6, 7),
)


def tiny(head: str, **options: object) -> T2L:
    torch.manual_seed(0)
    sizes = {"rank": 3, "latent": 32, "head_in": 16, "dropout": 0.0}
    return build_t2l(T2LConfig(head=HEADS[head], **(sizes | options)), SITES, dim=DIM)


def delta(network: T2L, e_BD: Tensor) -> dict[Site, Tensor]:
    return {site: b_BOR @ a_BRI for site, (a_BRI, b_BOR) in network(e_BD).items()}


def loss(network: T2L, e_BD: Tensor) -> Tensor:
    """Distance to a target of its own for every cue and site."""
    rng = torch.Generator().manual_seed(1)
    deltas = [d for _, d in sorted(delta(network, e_BD).items())]
    return sum((((d - torch.randn(d.shape, generator=rng)) ** 2).sum() for d in deltas), torch.zeros(()))


@pytest.mark.parametrize(("head", "millions"), [("L", 55.42), ("M", 34.41), ("S", 4.99), ("Z", 4.21)])
def test_parameter_counts_at_the_papers_size(head: str, millions: float) -> None:
    sites = sites_of(MistralConfig(num_key_value_heads=8), ["q_proj", "v_proj"])
    with torch.device("meta"):
        network = build_t2l(T2LConfig(head=HEADS[head]), sites, dim=1024)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert len(sites) == 64
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize("head", HEADS)
def test_every_head_emits_every_site_in_its_shape(head: str) -> None:
    factors = tiny(head)(torch.randn(5, DIM))
    assert set(factors) == set(SITES)
    for site, (a_BRI, b_BOR) in factors.items():
        assert a_BRI.shape == (5, 3, site.in_features)
        assert b_BOR.shape == (5, site.out_features, 3)


@pytest.mark.parametrize("head", HEADS)
def test_starts_at_exactly_zero_and_learns_from_there(head: str) -> None:
    network = tiny(head)
    e_BD = torch.randn(2, DIM)
    assert all((d == 0).all() for d in delta(network, e_BD).values())

    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    before = loss(network, e_BD)
    before.backward()
    emitters = [parameter for name, parameter in network.named_parameters() if name.startswith("head.linear")]
    trunk = [parameter for name, parameter in network.named_parameters() if name.startswith("trunk")]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in emitters)
    assert not any(parameter.grad.any() for parameter in trunk if parameter.grad is not None)
    optimizer.step()
    optimizer.zero_grad()

    after = loss(network, e_BD)
    assert after < before
    after.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in trunk)
    assert all((d[0] - d[1]).abs().max() > 1e-6 for d in delta(network, e_BD).values())


@pytest.mark.parametrize("head", HEADS)
def test_ranks_of_a_start_apart(head: str) -> None:
    for a_BRI, _ in tiny(head)(torch.randn(1, DIM)).values():
        assert torch.linalg.matrix_rank(a_BRI[0]) == 3


@pytest.mark.parametrize("head", HEADS)
def test_one_cue_alone_equals_its_row_in_a_batch(head: str) -> None:
    network = moved(tiny(head))
    e_BD = torch.randn(4, DIM)
    together, alone = network(e_BD), network(e_BD[2:3])
    for site in SITES:
        for batch, single in zip(together[site], alone[site], strict=True):
            torch.testing.assert_close(batch[2:3], single)


@pytest.mark.parametrize("head", HEADS)
def test_layers_and_roles_get_adapters_of_their_own(head: str) -> None:
    d = delta(moved(tiny(head)), torch.randn(1, DIM))
    assert (d[SITES[0]] - d[SITES[1]]).abs().max() > 1e-5
    assert (d[SITES[1]] - d[SITES[2]]).abs().max() > 1e-5


def moved(network: T2L) -> T2L:
    """Away from the zero start."""
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=rng)
    return network


def test_l_equals_one_product_per_cue_site_and_rank() -> None:
    network = moved(tiny("L"))
    e_BD = torch.randn(2, DIM)
    z_BSF = network.trunk.tail(network.trunk.body(e_BD))
    for i, site in enumerate(network.sites):
        group = next(g for g in network.groups if site in g.sites)
        linear = network.head.get_submodule(f"linear.{group.name}")
        a_BRI, b_BOR = network(e_BD)[site]
        for k in range(2):
            flat = linear.weight @ z_BSF[k, i] + linear.bias
            for r in range(3):
                row_a = flat[r * site.in_features : (r + 1) * site.in_features]
                start = 3 * site.in_features + r * site.out_features
                torch.testing.assert_close(a_BRI[k, r], row_a)
                torch.testing.assert_close(b_BOR[k, :, r], flat[start : start + site.out_features])


def test_z_equals_b_core_a() -> None:
    network = moved(tiny("Z-full"))
    e_BD = torch.randn(2, DIM)
    z_BSF = network.trunk.tail(network.trunk.body(e_BD))
    place = network.sites.index(SITES[1])
    linear = network.head.get_submodule("linear.q_6x10")
    core_BRR = linear(z_BSF[:, place]).view(2, 3, 3)
    a_RI, b_OR = (network.head.get_parameter(f"{x}.q_6x10")[1] for x in "ab")
    torch.testing.assert_close(delta(network, e_BD)[SITES[1]], b_OR @ core_BRR @ a_RI)


def test_p_equals_a_sum_over_bases_that_layers_share() -> None:
    network = moved(tiny("P"))
    e_BD = torch.randn(2, DIM)
    z_BSF = network.trunk.tail(network.trunk.body(e_BD))
    linear = network.head.get_submodule("linear.q_6x10")
    a_NRI, b_NOR = (network.head.get_parameter(f"{x}.q_6x10") for x in "ab")
    factors = network(e_BD)
    for site in SITES[:3]:
        mix_BN = linear(z_BSF[:, network.sites.index(site)])
        for k in range(2):
            a_RI = sum((mix_BN[k, n] * a_NRI[n] for n in range(4)), torch.zeros(3, 6))
            b_OR = sum((mix_BN[k, 4 + n] * b_NOR[n] for n in range(4)), torch.zeros(10, 3))
            torch.testing.assert_close(factors[site][0][k], a_RI)
            torch.testing.assert_close(factors[site][1][k], b_OR)


def test_tied_a_is_one_per_site_for_all_cues() -> None:
    factors = moved(tiny("L-tied"))(torch.randn(3, DIM))
    a_BRI, _ = factors[SITES[0]]
    assert (a_BRI[0] == a_BRI[2]).all()
    assert (a_BRI[0] != factors[SITES[1]][0][0]).any()


@pytest.mark.parametrize("norm", [2.0, 0.5])
def test_latents_have_the_norm_that_the_config_says(norm: float) -> None:
    trunk = moved(tiny("L", trunk_norm=norm)).trunk
    z_BSF = trunk.tail(trunk.body(torch.randn(4, DIM)))
    torch.testing.assert_close(z_BSF.norm(dim=-1), torch.full((4, len(SITES)), norm))


def test_normaliser_makes_inputs_standard() -> None:
    network = moved(tiny("L"))
    e_ND = 5 + 3 * torch.randn(50, DIM)
    e_ND[:, 0] = 7
    e_BD = torch.randn(2, DIM)
    e_BD[:, 0] = 0
    plain = delta(network, e_BD)
    network.trunk.fit_normaliser(e_ND)
    scaled = e_BD * torch.where(torch.arange(DIM) == 0, 1.0, e_ND.std(0)) + e_ND.mean(0)
    for site, d in delta(network, scaled).items():
        torch.testing.assert_close(d, plain[site], atol=1e-4, rtol=1e-4)
    with pytest.raises(ShapeError, match="at least two"):
        network.trunk.fit_normaliser(e_ND[:1])


def test_ids_depend_on_the_sites_and_not_on_their_order() -> None:
    groups = group_sites(SITES)
    assert groups == group_sites(reversed(SITES))
    assert [group.name for group in groups] == ["out_6x7", "q_6x10", "up_6x8", "up_6x9"]
    assert [site.layer for site in groups[1].sites] == [1, 4, 5]
    torch.manual_seed(0)
    config = T2LConfig(rank=2, latent=16, head_in=16, dropout=0.0)
    forward, backward = (build_t2l(config, sites, dim=DIM) for sites in (SITES, SITES[::-1]))
    assert forward.trunk.layer_S.tolist() == [0, 1, 2, 3, 1, 2]
    moved(forward)
    backward.load_state_dict(forward.state_dict())
    e_BD = torch.randn(1, DIM)
    theirs = delta(backward, e_BD)
    assert all((d == theirs[site]).all() for site, d in delta(forward, e_BD).items())


def test_role_blanks_the_layer_only() -> None:
    assert role_of(Site("model.layers.3.experts.3.up", 3, "up", 2, 2)) == "model.layers.*.experts.3.up"
    assert role_of(Site("lm_head", -1, "lm_head", 2, 2)) == "lm_head"


def test_experts_of_one_layer_differ() -> None:
    sites = [Site(f"m.0.experts.{i}.up", 0, "up", 4, 5) for i in range(2)]
    torch.manual_seed(0)
    network = moved(build_t2l(T2LConfig(latent=16, head_in=16, rank=2), sites, dim=DIM).eval())
    first, second = delta(network, torch.randn(1, DIM)).values()
    assert (first - second).abs().max() > 1e-5


def test_walsh_rows_are_orthogonal() -> None:
    w = walsh(8, 64)
    assert (w @ w.T == 64 * torch.eye(8)).all()


def test_rotation_keeps_norms_and_starts_at_the_vector_itself() -> None:
    x = torch.randn(2, 5, 8)
    turned = rotate(x, 4)
    assert (turned[:, :, 0] == x).all()
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1)[..., None].expand(2, 5, 4))
    # Turning is additive: inner products depend on the difference of ranks alone.
    dots = (turned[:, :, 1:] * turned[:, :, :-1]).sum(-1)
    torch.testing.assert_close(dots, dots[..., :1].expand_as(dots))


@pytest.mark.parametrize(
    ("options", "scaling"),
    [({}, 2.0), ({"alpha": 4.0}, 1.0), ({"alpha": 4.0, "use_rslora": True}, 2.0)],
)
def test_scaling(options: dict[str, object], scaling: float) -> None:
    assert T2LConfig(rank=4, **options).scaling == scaling


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ShapeError, match="at least one site"):
        build_t2l(T2LConfig(), [], dim=DIM)
    with pytest.raises(ShapeError, match="twice"):
        build_t2l(T2LConfig(), [SITES[0], SITES[0]], dim=DIM)
    with pytest.raises(ConfigError, match=r"recipe: latent: .* multiple of 4, got 18"):
        parse_config(T2LConfig, {"latent": 18}, "recipe")
    with pytest.raises(ShapeError, match="length 12, got 5"):
        tiny("L")(torch.randn(1, 5))
    with pytest.raises(ConfigError, match="tie_a"):
        parse_config(T2LConfig, {"head": {"kind": "M", "tie_a": True}}, "recipe")
