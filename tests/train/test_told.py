"""Streams read in one forward: what reading by parts gives, and a training over functions that uses it."""

import pytest
import torch
from pydantic import ValidationError
from transformers import LlamaConfig, LlamaForCausalLM

import weft
from weft.errors import ConfigError
from weft.host import Host
from weft.hyper import Shift, ShiftConfig, Shifter, Speaker
from weft.tasks.functions.streams import FunctionStreams, line_task
from weft.tasks.source import LinesSource, build_source_tokenizer
from weft.train.library import LibraryRecipe, train_library
from weft.train.shift import ShiftRecipe, split_head, train_shift
from weft.train.streams import encode_stream, read_streams
from weft.train.told import read_told
from weft.types import Bank

TASKS = ("mail_domain", "name_swap", "time_dot_2")
PLACES = {"mail_domain": 0, "name_swap": 1}


@pytest.fixture(scope="module")
def host():
    tasks = [line_task(name, seed=0, train_rows=20, test_rows=2) for name in TASKS]
    text = build_source_tokenizer(LinesSource(kind="lines", functions=TASKS, vocab_size=280), tasks)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(text) + 1,  # the last one is the control token
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.2,
        pad_token_id=text.pad_token_id,
        eos_token_id=text.eos_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    return Host(model, tokenizer=text, name="tiny", target_modules=["all-linear", "lm_head"])


@pytest.fixture(scope="module")
def control(host):
    return host.module.config.vocab_size - 1


@pytest.fixture(scope="module")
def library(host, tmp_path_factory):
    recipe = LibraryRecipe(
        output_dir=str(tmp_path_factory.mktemp("library")),
        base="unused",
        data={"kind": "lines", "functions": TASKS, "train_rows": 12, "test_rows": 2},
        raw=True,
        r=2,
        target_modules="unused",
        max_steps=2,
        rows_per_task=2,
    )
    return train_library(recipe, host=host)


@pytest.fixture(scope="module")
def bank(host, library):
    adapters = [weft.load(library / name) for name in PLACES]
    return Bank.stack(adapters).to(host.dtype)


@pytest.fixture
def speaker(host, control):
    torch.manual_seed(0)
    speaker = Speaker(*split_head(host), [control], rank=2, scaling=1.0)
    for parameter in speaker.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return speaker


@pytest.fixture(scope="module")
def batch(host, control):
    streams = FunctionStreams(TASKS, cut=0.5, lines=4)
    drawn = [*streams.train(0, 3, [2]), *streams.train(1, 3, [3])]
    pieces = [encode_stream(host.tokenizer, stream, [control], PLACES) for stream in drawn]
    for stream, one in zip(drawn, pieces, strict=True):
        ids = [i for piece in one.pieces for i in piece if i != control]
        text = stream.prompt + "".join(part.lead + part.text for part in stream.parts) + stream.following
        assert host.tokenizer.decode(ids, skip_special_tokens=True) == text
    return [one._replace(gap=3 * (row % 2)) for row, one in enumerate(pieces)]


@pytest.mark.parametrize("told", [True, False])
def test_one_forward_says_what_part_by_part_says(host, control, bank, speaker, batch, told):
    some = bank if told else None
    parts = read_streams(host, batch, speaker.bank(), None, some, [control])
    whole = read_told(host, batch, speaker.bank(), None, some, [control])
    assert float(whole.loss.detach()) == pytest.approx(float(parts.loss.detach()), rel=1e-4)
    assert float(whole.spurious.detach()) == pytest.approx(float(parts.spurious.detach()), rel=1e-4)
    assert (whole.tokens, whole.shifts, whole.missed) == (parts.tokens, parts.shifts, parts.missed)
    none = read_told(host, batch, speaker.bank(), None, None, [control])
    assert (float(none.loss.detach()) != float(whole.loss.detach())) == told


def test_the_network_learns_which_adapter_from_the_states_of_its_first_shifts(
    host, control, bank, speaker, batch
):
    """The first vector of a stream is the same part by part: nothing but the speaker acted before it."""
    sites, head = split_head(host)
    network = Shift(ShiftConfig(mode="blend"), sites, width=head.in_features, count=2)
    first = [one._replace(pieces=one.pieces[:2], shifts=(True,), wanted=one.wanted[:1]) for one in batch]
    parts = read_streams(host, first, speaker.bank(), network, bank, [control])
    whole = read_told(host, first, speaker.bank(), network, bank, [control])
    assert float(whole.guide.detach()) == pytest.approx(float(parts.guide.detach()), rel=1e-4)
    read_told(host, batch, speaker.bank(), network, bank, [control]).guide.backward()
    for parameter in (network.key_KD, network.signal[0].weight, speaker.b[0]):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


def test_a_run_that_tells_first_gives_a_folder_that_generates(host, control, library, tmp_path):
    values = {
        "run": {"output_dir": str(tmp_path), "max_steps": 2},
        "base": "unused",
        "library": str(library),
        "control": control,
        "data": {"kind": "functions", "tasks": TASKS, "lengths": [2]},
        "network": {"mode": "blend"},
        "speaker_modules": r"model\.layers\.1\..*",
        "told_until": 0.5,
        "streams_per_batch": 2,
    }
    shifter = Shifter.from_pretrained(train_shift(ShiftRecipe(**values), host=host), host=host)
    assert {site.path.split(".")[2] for site in shifter.speaker.sites} == {"1"}
    controller = shifter.controller([weft.load(library / name) for name in shifter.library])
    prompt = FunctionStreams(TASKS).test(1, [2])[0].prompt
    assert isinstance(
        weft.Engine(host).generate(prompt, controller=controller, raw=True, max_new_tokens=8), str
    )
    with pytest.raises(ConfigError, match=r"told_until .* lacks time_dot_2"):
        train_shift(ShiftRecipe(**values, adapters=tuple(PLACES)), host=host, resume=False)
    with pytest.raises(ConfigError, match="'nothing' matches no linear module"):
        train_shift(ShiftRecipe(**(values | {"speaker_modules": "nothing"})), host=host, resume=False)
    with pytest.raises(ConfigError, match=r"speaker_modules: .*'\(' is not a regular expression"):
        train_shift(ShiftRecipe(**(values | {"speaker_modules": "("})), host=host, resume=False)
    with pytest.raises(ValidationError, match="at least 1 item"):
        ShiftRecipe(**(values | {"data": values["data"] | {"lengths": []}}))
    with pytest.raises(ConfigError, match="a network that generates has none"):
        train_shift(ShiftRecipe(**(values | {"network": {"mode": "generate"}})), host=host, resume=False)
