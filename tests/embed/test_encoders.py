from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from weft.embed import HostStates, Joined, Learned, OneHot, SentenceEncoder, build_encoder
from weft.errors import ConfigError, CueError, UnknownNameError
from weft.host import Host
from weft.types import AbstractEncoder, Description

NAMES = ("sort", "reverse", "count")


def words() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({"?": 0, "sort": 1, "reverse": 2}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core)


def cues(*texts: str) -> list[Description]:
    return [Description(text) for text in texts]


def test_onehot_is_a_row_of_the_unit_matrix() -> None:
    assert OneHot(NAMES).encode(cues("count", "sort")).tolist() == [[0, 0, 1], [1, 0, 0]]


def test_learned_is_a_row_of_its_table_with_gradient() -> None:
    encoder = Learned(NAMES, 5)
    e_BD = encoder.encode(cues("count", "sort", "count"))
    assert torch.equal(e_BD, encoder.table.weight[[2, 0, 2]])
    e_BD.sum().backward()
    assert encoder.table.weight.grad[:, 0].tolist() == [1, 0, 2]


def test_joined_concatenates() -> None:
    learned, onehot = Learned(NAMES, 5), OneHot(NAMES)
    encoder = Joined([learned, onehot])
    e_BD = encoder.encode(cues("count", "sort"))
    assert encoder.dim == e_BD.shape[1] == 8
    assert torch.equal(e_BD[:, :5], learned.encode(cues("count", "sort")))
    assert torch.equal(e_BD[:, 5:], onehot.encode(cues("count", "sort")))
    assert [name for name, _ in encoder.named_parameters()] == ["encoders.0.table.weight"]
    with pytest.raises(ConfigError, match="at least one"):
        Joined([])


@pytest.mark.parametrize("encoder", [OneHot(NAMES), Learned(NAMES, 2)])
def test_unknown_and_blank_names_are_refused(encoder: AbstractEncoder) -> None:
    with pytest.raises(UnknownNameError, match=r"no task 'revers' among .* \(did you mean reverse\?\)"):
        encoder.encode(cues("sort", "revers"))
    with pytest.raises(CueError, match="empty"):
        encoder.encode(cues(""))


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_names_are_all_different_and_at_least_one(names: list[str]) -> None:
    with pytest.raises(ConfigError, match="all different"):
        OneHot(names)


def test_every_encoder_comes_back_from_its_config(pico_llama: LlamaForCausalLM) -> None:
    host = Host(pico_llama, tokenizer=words())
    parts = [
        OneHot(NAMES),
        Learned(NAMES, 4),
        HostStates(host, layers=[1], pool="last"),
        SentenceEncoder(),
    ]
    for encoder in (*parts, Joined(parts), Joined([Joined(parts[:2]), parts[2]])):
        again = build_encoder(encoder.config(), host=host)
        assert type(again) is type(encoder)
        assert (again.dim, again.identity, again.config()) == (
            encoder.dim,
            encoder.identity,
            encoder.config(),
        )
    assert len({encoder.identity for encoder in parts}) == 4


def test_host_states_load_the_base_that_the_config_names(
    pico_llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    pico_llama.save_pretrained(tmp_path)
    words().save_pretrained(tmp_path)
    encoder = build_encoder({"kind": "host_states", "base": str(tmp_path)})
    wanted = HostStates(Host.from_pretrained(tmp_path))
    assert encoder.identity == wanted.identity
    assert torch.equal(encoder.encode(cues("sort")), wanted.encode(cues("sort")))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "one-hot"}, "one-hot"),
        ({"kind": "onehot", "nams": ["a"]}, "nams"),
        ({"kind": "learned", "names": ["a"], "dim": 0}, "dim"),
        ({"kind": "host_states"}, "needs a host"),
    ],
)
def test_wrong_configs_are_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_encoder(config)
