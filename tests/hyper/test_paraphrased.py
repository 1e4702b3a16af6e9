"""The mean adapter of several wordings."""

import pytest
import torch

from weft.adapters import cosine
from weft.embed import InputEmbedding
from weft.errors import ConfigError
from weft.host import Host
from weft.hyper import HyperNetwork, T2LConfig, adapt_paraphrased, build_t2l, paraphrases
from weft.hyper.paraphrased import MOST

TEXT = "Sort the letters."


@pytest.fixture(scope="module")
def hyper() -> HyperNetwork:
    """Random numbers over the letters base, whose tokens it reads."""
    host = Host.from_pretrained("weft/letters", target_modules=["q_proj"])
    encoder = InputEmbedding(host)
    torch.manual_seed(0)
    network = build_t2l(T2LConfig(rank=2, latent=16, head_in=16, dropout=0.0), host.sites, dim=encoder.dim)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return HyperNetwork(encoder, network, base=host.fingerprint, name="tiny")


def test_wordings_are_different_and_the_first_is_the_users() -> None:
    texts = paraphrases(TEXT, MOST)
    assert len(set(texts)) == MOST == 16
    assert texts[0] == TEXT
    assert texts[1] == "Task: sort the letters."
    assert all("sort the letters" in text.lower() for text in texts)


@pytest.mark.parametrize("count", [0, MOST + 1])
def test_counts_that_there_are_not(count: int) -> None:
    with pytest.raises(ConfigError, match="paraphrases is 1 to 16"):
        paraphrases(TEXT, count)


def test_deltas_are_averaged_exactly(hyper: HyperNetwork) -> None:
    mean, agreement = adapt_paraphrased(hyper, TEXT, 3)
    parts = [hyper.adapt(text) for text in paraphrases(TEXT, 3)]
    assert mean.rank == 6
    for site, (a_RI, b_OR, scaling) in mean.factors.items():
        wanted = sum(p.factors[site].scaling * p.factors[site].b_OR @ p.factors[site].a_RI for p in parts) / 3
        torch.testing.assert_close(scaling * b_OR @ a_RI, wanted)
    pairs = [cosine(parts[i], parts[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert agreement == pytest.approx(sum(pairs) / 3, abs=1e-5)
    assert agreement < 0.999
    assert mean.name == "sort-the-letters"
    assert mean.provenance["description"] == TEXT
    assert mean.provenance["paraphrases"] == paraphrases(TEXT, 3)


def test_one_wording_is_the_plain_adapter(hyper: HyperNetwork) -> None:
    one, agreement = adapt_paraphrased(hyper, TEXT, 1, name="x")
    assert agreement is None
    plain = hyper.adapt(TEXT, name="x")
    assert one.provenance == plain.provenance
    for site, factors in plain.factors.items():
        assert torch.equal(one.factors[site].b_OR, factors.b_OR)
