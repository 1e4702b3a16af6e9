"""`weft generate --shift` and its trace, and an activated LoRA by --adapter."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model

import weft
from weft.cli import main
from weft.cli.shared.traced import print_trace
from weft.engine.trace import Traced
from weft.host import Host
from weft.host.pool import content
from weft.hyper import Shift, ShiftConfig, Shifter, Speaker
from weft.train.shift import split_head

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
NAMES = ("reverse", "sort")


@pytest.fixture
def run(capsys):
    def call(*argv):
        code = main(list(argv))
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return call


@pytest.fixture
def fails(capsys):
    def call(*argv):
        assert main(list(argv)) == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        return err

    return call


@pytest.fixture(scope="module")
def shift(tmp_path_factory):
    """A shift that speaks its control token at once, and then blends at random."""
    host = Host.from_pretrained("weft/letters", target_modules=["all-linear", "lm_head"])
    sites, head = split_head(host)
    torch.manual_seed(0)
    speaker = Speaker(sites, head, [300], rank=1, scaling=1.0)
    with torch.no_grad():
        state = host(torch.tensor([host.tokenizer.encode("cab >")]), output_hidden_states=True)
        speaker.row_CH[0] = state.hidden_states[-1][0, -1]
    library = [weft.load(f"weft/letters-adapters/{name}") for name in NAMES]
    network = Shift(ShiftConfig(), sites, width=head.in_features, count=2)
    folder = tmp_path_factory.mktemp("shift") / "shift"
    Shifter(
        speaker,
        network,
        NAMES,
        tuple(content(adapter) for adapter in library),
        "weft/letters-adapters",
        max_shifts=1,
        base=host.fingerprint,
        provenance={"base_model": "weft/letters"},
    ).save_pretrained(folder)
    return str(folder)


def test_a_trace_says_what_acted_on_every_token(run, shift):
    told = json.loads(run("generate", "cab", "--shift", shift, "--trace-json", "--max-new-tokens", "4"))
    trace = told["results"][0]["trace"]
    assert trace[0]["token_id"] == 300
    assert trace[0]["silent"]
    assert trace[0]["acting"] == [{"adapter": "speaker", "weight": 1.0}]
    assert trace[0]["events"] == ["shift"]
    assert {"reverse", "sort"} & {one["adapter"] for one in trace[1]["acting"]}
    text = run("generate", "cab", "--shift", shift, "--trace", "--max-new-tokens", "4")
    assert "-> shift" in text
    assert "speaker:1" in text


def test_what_a_trace_prints_cannot_steer_a_terminal(capsys):
    class Tokenizer:
        def decode(self, ids):
            return "\x1b[31m"

    print_trace(Tokenizer(), "\x1b[2J", [Traced(0, (("\x1bname", 1.0),), False, ("\x1bnote",))])
    out = capsys.readouterr().out
    assert "\x1b[2J" not in out
    assert "\\x1b[31m" in out


def test_what_does_not_go_together_is_told(fails, shift):
    assert "--shift brings its adapters" in fails(
        "generate", "cab", "--shift", shift, "--adapter", "weft/letters-adapters/sort"
    )
    assert "choose one" in fails("generate", "cab", "--trace", "--json")
    swarm = ("--host", "swarm:S")
    assert "leave out --host" in fails("generate", "cab", "--shift", shift, *swarm)
    assert "--journal" in fails("generate", "cab", "--shift", shift, "--journal", "x.json")
    assert "leave out --device and --dtype" in fails("generate", "a", *swarm, "--dtype", "float32")
    assert "no shift network folder" in fails("generate", "cab", "--shift", "nowhere")


def test_a_trace_tells_what_left_the_window(run, fails, capsys):
    context = ("--context", "weft/letters-words", "--max-new-tokens", "40")
    told = json.loads(
        run("generate", "reverse cabdefgh then cab", *context, "--window", "20", "--trace-json")
    )
    trace = told["results"][0]["trace"]
    assert trace[0]["acting"] == []
    evicted = [k for k, one in enumerate(trace) if "evicted 16" in one["events"]]
    assert evicted
    assert all(one["acting"] for one in trace[evicted[0] + 1 :])
    assert main(["generate", "cab", *context, "--window", "5"]) == 1
    assert "weft: a window of 5 tokens is no larger than a chunk of 17" in capsys.readouterr().err
    assert "give --context too" in fails("generate", "cab", "--window", "20")
    assert "choose one" in fails("generate", "cab", *context, "--shift", "weft/letters-shift")
    assert "--context brings its adapters" in fails(
        "generate", "cab", *context, "--adapter", "weft/letters-adapters/sort"
    )


def test_an_activated_adapter_is_run_from_its_invocation_on(run, tmp_path):
    host = Host.from_pretrained("weft/letters")
    token = host.tokenizer.encode("cab >")[-1]
    config = LoraConfig(
        r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", alora_invocation_tokens=[token]
    )
    model = get_peft_model(host.module, config)
    model.save_pretrained(tmp_path / "alora")
    told = json.loads(
        run("generate", "cab", "--adapter", str(tmp_path / "alora"), "--base", "weft/letters", "--trace-json")
    )
    assert told["results"][0]["trace"][0]["acting"] == [{"adapter": "alora", "weight": 1.0}]


def test_a_trace_becomes_a_picture(run, fails, shift, tmp_path):
    (tmp_path / "t.json").write_text(
        run("generate", "cab", "--shift", shift, "--trace-json", "--max-new-tokens", "4")
    )
    run("plot", "trace", str(tmp_path / "t.json"), "-o", str(tmp_path / "t.png"))
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "x.json").write_text('{"results": [{"text": "no trace"}]}')
    assert "holds no trace" in fails("plot", "trace", str(tmp_path / "x.json"))
    assert "no number 1" in fails("plot", "trace", str(tmp_path / "t.json"), "--prompt", "1")


def test_the_embedded_shift_answers_three_lines(run):
    lines = "5Hozy\n6Isvk\n7Jnwe\n5-7"
    out = run("generate", lines, "--shift", "weft/letters-shift", "--dtype", "float32")
    assert out == "5Hozy >zyo\n6Isvk >sv\n7Jnwe >wne\n"
    assert json.loads(run("show", "weft/letters-shift", "--json"))["control token"] == 300
