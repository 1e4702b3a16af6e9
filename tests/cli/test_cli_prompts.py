"""`weft generate --file`, min_p, and the model's own generation_config."""

import json
from pathlib import Path

import pytest
from tiny_cli import Tiny
from transformers import AutoModelForCausalLM, GenerationConfig

from weft.cli import main
from weft.cli.shared.lines import read_prompts
from weft.engine import Engine
from weft.engine.sampling import own_sampling
from weft.errors import ConfigError, MissingFileError
from weft.host import Host

CHAT = [{"role": "system", "content": "sort"}, {"role": "user", "content": "cab"}]


def run(capsys: pytest.CaptureFixture[str], *line: str) -> tuple[list[str], str]:
    assert main(["generate", *line, "--max-new-tokens", "6"]) == 0
    out, err = capsys.readouterr()
    return out.splitlines(), err


def test_prompts_of_a_file_are_answered_as_if_typed(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.txt").write_text("cab\n\n  dog  \n")
    typed, _ = run(capsys, "cab", "dog", "--base", tiny.base)
    assert run(capsys, "--file", str(tmp_path / "p.txt"), "--base", tiny.base)[0] == typed
    lines = [{"prompt": "cab", "completion": "abc"}, {"prompt": [{"role": "user", "content": "dog"}]}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(capsys, "--file", str(tmp_path / "p.jsonl"), "--base", tiny.base)[0] == typed


def test_a_chat_of_a_file_is_asked_without_its_answer(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = {"role": "assistant", "content": "abc"}
    (tmp_path / "p.jsonl").write_text(json.dumps({"messages": [*CHAT, answer], "prompt": "unread"}) + "\n")
    line = ["--file", str(tmp_path / "p.jsonl"), "--base", tiny.base]
    said, _ = run(capsys, *line)
    engine = Engine(Host.from_pretrained(tiny.base))
    assert said == [engine.generate(CHAT, max_new_tokens=6).strip()]
    assert main(["generate", *line, "--json", "--max-new-tokens", "6", "--system", "unread too"]) == 0
    told = json.loads(capsys.readouterr().out)["results"]
    assert told[0]["prompt"] == CHAT
    assert told[0]["text"] == said[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"text": "x"}\n', r"line 1: a line reads .*this one has \['text'\]"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}\n', "line 1: there is nothing to answer"),
        ('{"messages": [{"role": "user"}]}\n', "line 1: messages should be a list"),
        ("\n", "holds no prompts"),
    ],
)
def test_a_wrong_file_of_prompts_names_its_line(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=said):
        read_prompts(tmp_path / "p.jsonl")
    with pytest.raises(MissingFileError):
        read_prompts(tmp_path / "none.txt")


@pytest.fixture
def sampled(tiny: Tiny, tmp_path: Path) -> str:
    """The tiny base with a generation_config that samples."""
    model = AutoModelForCausalLM.from_pretrained(tiny.base)
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.7, top_p=0.9, eos_token_id=1)
    model.save_pretrained(tmp_path / "base")
    Host.from_pretrained(tiny.base).tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def test_the_models_own_way_to_draw_is_taken_as_hugging_face_does(
    sampled: str, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    host = Host.from_pretrained(sampled)
    assert own_sampling(host.generation_config) == {"temperature": 0.7, "top_k": 50, "top_p": 0.9}
    assert own_sampling(Host.from_pretrained(tiny.base).generation_config) == {}
    said, err = run(capsys, "cab", "--base", sampled, "--top-k", "5", "--min-p", "0.01", "--seed", "3")
    assert "weft: drawn as the model's generation_config says: temperature 0.7, top_p 0.9\n" in err
    options = {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.01, "seed": 3}
    assert said == [Engine(host).generate("cab", max_new_tokens=6, **options).strip()]
    greedy, err = run(capsys, "cab", "--base", sampled, "--temperature", "0")
    assert "generation_config" not in err
    assert greedy == [Engine(host).generate("cab", max_new_tokens=6).strip()]


def test_a_wrong_generation_config_is_named() -> None:
    config = GenerationConfig(do_sample=True)
    config.top_p = 7.0
    with pytest.raises(ConfigError, match="the model's generation_config: top_p should be above 0"):
        own_sampling(config)
    assert own_sampling(config, {"top_p": 0.5}) == {"temperature": 1.0, "top_k": 50}  # another was given
    assert own_sampling(config, {"temperature": 0.0}) == {}
    config.top_p, config.temperature = None, "0.7"
    with pytest.raises(ConfigError, match="the model's generation_config: temperature should be a number"):
        own_sampling(config)
    config.temperature = 0.0  # draws nothing, whatever do_sample says
    assert own_sampling(config) == {}


def test_min_p_keeps_what_is_likely_enough(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    greedy, _ = run(capsys, "cab", "--base", tiny.base)
    hot = ["cab", "--base", tiny.base, "--temperature", "5", "--seed", "1"]
    assert run(capsys, *hot, "--min-p", "1")[0] == greedy
    assert run(capsys, *hot)[0] != greedy
