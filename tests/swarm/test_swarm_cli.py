"""`weft swarm`: up, a killed worker, status, down; text over it equals that of one process."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from weft.cli import main
from weft.swarm import open_swarm
from weft.swarm.folder import SwarmFolder
from weft.tasks.letters.tokenizer import build_tokenizer


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))
    tokenizer = build_tokenizer(["sort the letters"])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    config.initializer_range = 0.2
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def weft(capsys, *arguments, code=0):
    found = main(list(arguments))
    said = capsys.readouterr()
    assert found == code, said.err
    return said.out if code == 0 else said.err


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["processes", "ray"])
def test_a_swarm_of_three_loses_a_worker_and_no_token(base, capsys, launcher):
    if launcher == "ray":
        pytest.importorskip("ray")
    options = ("--max-new-tokens", "12", "--json")
    want = json.loads(weft(capsys, "generate", "cab", "abc", "--base", base, *options))["results"]
    up = ("swarm", "up", "--base", base, "--workers", "3", "--name", "S", "--threads", "1")
    told = json.loads(weft(capsys, *up, "--launcher", launcher, "--json"))
    assert [told["launcher"], told["state"], len(told["workers"])] == [launcher, "up", 4]
    assert "is up already" in weft(capsys, *up, code=1)
    try:
        got = json.loads(weft(capsys, "generate", "cab", "abc", "--host", "swarm:S", *options))["results"]
        assert got == want
        holder = next(worker for worker in told["workers"] if worker["stage"] == 1)
        weft(capsys, "swarm", "kill", "--name", "S", "--worker", str(holder["worker"]))
        got = json.loads(weft(capsys, "generate", "cab", "abc", "--host", "swarm:S", *options))["results"]
        assert got == want
        after = json.loads(weft(capsys, "swarm", "status", "--name", "S", "--json"))["workers"]
        assert after[holder["worker"]]["restarts"] == 1
        assert "there is no number 9" in weft(capsys, "swarm", "kill", "--name", "S", "--worker", "9", code=1)
    finally:
        weft(capsys, "swarm", "down", "--name", "S")
    assert "swarm S is down; start it" in weft(capsys, "generate", "cab", "--host", "swarm:S", code=1)
    assert [event["event"] for event in SwarmFolder("S").events()].count("lost") == 1


def test_names_that_are_not_there(base, capsys):
    assert "no swarm 'nobody'; start one" in weft(capsys, "swarm", "status", "--name", "nobody", code=1)
    assert "cannot name a swarm" in weft(capsys, "swarm", "down", "--name", "../up", code=1)
    assert "a host is written swarm:NAME" in weft(capsys, "generate", "cab", "--host", "there", code=1)
    assert "memory lots is no size" in weft(
        capsys, "swarm", "up", "--base", base, "--name", "S", "--memory", "lots", code=1
    )


@pytest.mark.slow
def test_a_base_that_does_not_fit_is_told_in_one_line(base, capsys):
    up = ("swarm", "up", "--base", base, "--name", "S", "--launcher", "processes", "--spares", "0")
    assert "bytes of weights, the workers take" in weft(
        capsys, *up, "--workers", "2", "--memory", "20K", code=1
    )
    with pytest.raises(ConnectionError, match="is down"):
        open_swarm("S")
