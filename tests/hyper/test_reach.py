"""How near a description is to those that a hypernetwork was trained on."""

from pathlib import Path

import pytest
import torch

from weft.embed import SentenceEncoder
from weft.errors import ConfigError
from weft.host import Host
from weft.hyper import HyperNetwork, T2LConfig, build_t2l, learn_reach, reach

KNOWN = [
    "reverse the word",
    "write it in upper case",
    "keep the vowels",
    "double each letter",
    "count the letters",
]
OTHERS = ["turn the word around", "use capital letters", "leave only the vowels", "write every letter twice"]
MEANINGLESS = ["qzkw vplt xr", "wj fhqopz mmvb", "tgrx aab llkqe", "zzpo wert qq"]


@pytest.fixture(scope="module")
def hyper(pico_host: Host) -> HyperNetwork:
    encoder = SentenceEncoder()
    torch.manual_seed(0)
    config = T2LConfig(rank=2, latent=16, head_in=16, dropout=0.0)
    return HyperNetwork(encoder, build_t2l(config, pico_host.sites, dim=encoder.dim), name="tiny")


def test_a_network_that_keeps_none_says_nothing(hyper: HyperNetwork) -> None:
    hyper.provenance.pop("reach", None)
    assert reach(hyper, "reverse the word") is None


def test_known_kept_and_meaningless_descriptions(hyper: HyperNetwork, tmp_path: Path) -> None:
    hyper.provenance["reach"] = learn_reach(hyper, KNOWN, OTHERS, MEANINGLESS)
    known = reach(hyper, "reverse the word")
    assert known is not None
    assert known.similarity == pytest.approx(1, abs=1e-4)
    assert known.nearest[0] == "reverse the word"
    assert len(known.nearest) == 3
    for text in OTHERS:
        found = reach(hyper, text)
        assert found is not None
        assert found.is_within
    for text in MEANINGLESS:
        found = reach(hyper, text)
        assert found is not None
        assert not found.is_within


def test_it_is_saved_with_the_network(hyper: HyperNetwork, tmp_path: Path) -> None:
    hyper.provenance["reach"] = learn_reach(hyper, KNOWN, OTHERS, MEANINGLESS)
    hyper.save_pretrained(tmp_path / "net")
    again = HyperNetwork.from_pretrained(tmp_path / "net")
    assert reach(again, "turn it around") == reach(hyper, "turn it around")


@pytest.mark.parametrize("kept", [[], {"known": [], "threshold": 0.5}, {"known": ["x"], "threshold": "high"}])
def test_a_damaged_record(hyper: HyperNetwork, kept: object) -> None:
    hyper.provenance["reach"] = kept
    with pytest.raises(ConfigError, match=r"provenance\.reach should hold known and threshold"):
        reach(hyper, "reverse the word")


def test_nothing_to_learn_from(hyper: HyperNetwork) -> None:
    with pytest.raises(ConfigError, match="give some of each"):
        learn_reach(hyper, KNOWN, [], MEANINGLESS)


def test_the_space_that_tells_them_apart_is_taken(hyper: HyperNetwork) -> None:
    """Where most numbers of a vector hardly vary, z-scoring blows their noise up."""
    trunk = hyper.network.trunk
    mean, std = trunk.mean.clone(), trunk.std.clone()
    try:
        trunk.std[8:] = 1e5  # what is left of a description then are eight numbers
        found = learn_reach(hyper, KNOWN, OTHERS, MEANINGLESS)
        assert found["space"] == "plain"
        hyper.provenance["reach"] = found
        assert reach(hyper, OTHERS[0]).is_within
        assert not reach(hyper, MEANINGLESS[0]).is_within
        hyper.provenance["reach"] = found | {"space": "odd"}
        with pytest.raises(ConfigError, match=r"provenance\.reach\.space is none of"):
            reach(hyper, OTHERS[0])
    finally:
        trunk.mean.copy_(mean)
        trunk.std.copy_(std)


def test_a_record_without_a_space_is_z_scored(hyper: HyperNetwork) -> None:
    hyper.provenance["reach"] = {"known": KNOWN, "threshold": 0.5}
    plain = reach(hyper, OTHERS[0])
    hyper.provenance["reach"] |= {"space": "z-scored"}
    assert reach(hyper, OTHERS[0]) == plain
