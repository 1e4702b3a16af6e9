import pytest
import torch

from weft.embed import OneHot
from weft.errors import BaseMismatchError, ConfigError, WeightsError
from weft.hyper import HyperNetwork, T2LConfig, average, build_t2l
from weft.types import Description, Site

SITES = [Site("model.layers.0.self_attn.q_proj", 0, "q_proj", 6, 8)]
TEXTS = ("first", "second")


def make(seed: int, *, base: str = "b", rank: int = 2, texts: tuple[str, ...] = TEXTS) -> HyperNetwork:
    torch.manual_seed(seed)
    network = build_t2l(T2LConfig(rank=rank, latent=16, head_in=16), SITES, dim=len(texts))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.randn_like(parameter)
    return HyperNetwork(
        OneHot(texts), network, base=base, name=f"net-{seed}", provenance={"seed": seed}
    ).eval()


def test_every_weight_is_the_mean():
    parts = [make(seed) for seed in range(3)]
    before = [{key: x.clone() for key, x in part.state_dict().items()} for part in parts]
    made = average(parts)
    for key, x in made.state_dict().items():
        want = sum(state[key].double() for state in before) / 3
        torch.testing.assert_close(x.double(), want, rtol=0, atol=1e-6)
    assert (made.name, made.base, made.provenance["seed"]) == ("net-0", "b", 0)
    for part, state in zip(parts, before, strict=True):  # nothing that went in has changed
        for key, x in part.state_dict().items():
            assert torch.equal(x, state[key])


def test_of_one_it_is_that_one():
    [one] = parts = [make(0)]
    cues = [Description(text) for text in TEXTS]
    got, want = average(parts).generate(cues), one.generate(cues)
    for site in SITES:
        assert torch.equal(got.a[site], want.a[site])
        assert torch.equal(got.b[site], want.b[site])


@pytest.mark.parametrize(
    ("other", "error", "match"),
    [
        ({"rank": 3}, ConfigError, "net-1 has another network or other sites than net-0"),
        ({"base": "c"}, BaseMismatchError, "net-1 is for base c, net-0 for b"),
        ({"texts": ("first", "third")}, WeightsError, "net-1 reads vectors of"),
    ],
)
def test_what_does_not_fit(other, error, match):
    with pytest.raises(error, match=match):
        average([make(0), make(1, **other)])


def test_of_none():
    with pytest.raises(ConfigError, match="no hypernetwork to average"):
        average([])
