import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_cli import DESCRIPTIONS, Tiny

from weft.adapters import load, save
from weft.cli import main
from weft.engine import Engine
from weft.host import Host
from weft.tasks import render_prompt
from weft.types import Adapter, Bank, Factors, Mixture

PROMPTS = ("cab", "weft")


@pytest.fixture(scope="module")
def host(tiny: Tiny) -> Host:
    return Host.from_pretrained(tiny.base)


def answers(host: Host, mixture: Mixture | None, **options: object) -> list[str]:
    """The obvious twin: prompts one at a time, through the template by hand."""
    engine = Engine(host)
    return [
        engine.generate(
            render_prompt(engine.tokenizer, text), mixture=mixture, **({"max_new_tokens": 8} | options)
        ).strip()
        for text in PROMPTS
    ]


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    code = main(["generate", *argv, "--max-new-tokens", "8"])
    out, err = capsys.readouterr()
    assert code == 0
    assert re.fullmatch(r"(weft: \d of \d answers cut at --max-new-tokens 8\n)?", err)
    return out.removesuffix("\n").split("\n")


def test_the_base_alone(host: Host, tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, *PROMPTS, "--base", tiny.base) == answers(host, None)


def test_under_an_adapter(host: Host, adapter: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = answers(host, Mixture.of(load(adapter)))
    # Without --base, the base is the one that the adapter names.
    assert said(capsys, *PROMPTS, "--adapter", adapter) == expected
    assert expected != answers(host, None)


def test_a_description_makes_the_same_adapter(
    adapter: str, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    described = said(capsys, *PROMPTS, "--describe", DESCRIPTIONS[0], "--with", tiny.hyper)
    assert described == said(capsys, *PROMPTS, "--adapter", adapter)


def test_weighted_adapters_add_up(
    host: Host, adapter: str, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(tmp_path / "reverse")
    assert main(["adapt", DESCRIPTIONS[1], "-o", other, "--with", tiny.hyper]) == 0
    capsys.readouterr()
    a, b = load(adapter), load(other)
    scaled = [
        Adapter({s: Factors(f.a_RI, f.b_OR, f.scaling * w) for s, f in x.factors.items()}, base=x.base)
        for x, w in ((a, 0.7), (b, -1.5))
    ]
    expected = answers(host, Mixture.of(scaled[0]) + Mixture.of(scaled[1]))
    both = ["--adapter", adapter, "--weight", "0.7", "--adapter", other, "--weight=-1.5"]
    assert said(capsys, *PROMPTS, *both) == expected
    assert expected != answers(host, Mixture.of(a) + Mixture.of(b))


def test_zero_weight_is_the_base(host: Host, adapter: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, *PROMPTS, "--adapter", adapter, "--weight", "0") == answers(host, None)


def test_json(tiny: Tiny, host: Host, adapter: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", *PROMPTS, "--adapter", adapter, "--json", "--max-new-tokens", "8"]) == 0
    told = json.loads(capsys.readouterr().out)
    texts = answers(host, Mixture.of(load(adapter)))
    assert (told["base"], told["adapters"]) == (tiny.base, ["sort"])
    assert told["tokens_per_second"] > 0
    assert [(result["prompt"], result["text"]) for result in told["results"]] == list(
        zip(PROMPTS, texts, strict=True)
    )
    assert [result["prompt_tokens"] for result in told["results"]] == [
        len(render_prompt(host.tokenizer, prompt)) for prompt in PROMPTS
    ]
    for result in told["results"]:
        assert result["finish_reason"] == ("length" if result["completion_tokens"] == 8 else "stop")


def test_a_second_value_of_a_flag_is_no_prompt(
    tiny: Tiny, adapter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "cab", "--adapter", adapter, adapter]) == 1
    assert "is an adapter, not a prompt; write --adapter" in capsys.readouterr().err
    flags = ["--adapter", adapter, "--adapter", adapter, "--weight", "1", "0"]
    assert main(["generate", "cab", *flags]) == 1
    assert "0 is a number, not a prompt; write --weight" in capsys.readouterr().err


def test_bytes_that_are_no_text_end_in_one_line(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "caf\udce9", "--base", tiny.base]) == 1
    assert capsys.readouterr().err.startswith("weft: an argument holds a lone surrogate, character 4")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"cab\ncaf\xe9\n")))
    assert main(["generate", "--base", tiny.base]) == 1
    assert "standard input, line 2: byte 0xe9 is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("stream", [False, True])
def test_sampling_follows_the_seed(
    stream: bool, host: Host, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--base", tiny.base, "--temperature", "1.5", "--top-k", "20", "--seed", "3"]
    sampled = said(capsys, *PROMPTS, *flags, *(["--stream"] if stream else []))
    options = {"temperature": 1.5, "top_k": 20}
    assert sampled[0] == answers(host, None, seed=3, **options)[0]
    assert sampled[1] == answers(host, None, seed=4, **options)[1]


@pytest.mark.parametrize("prompts", [[""], ["cab", "  "]])
def test_an_empty_prompt_is_refused(
    prompts: list[str], tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", *prompts, "--base", tiny.base]) == 1
    count = len(prompts)
    assert capsys.readouterr().err == (
        f"weft: prompt {count} of {count} is empty; write what is to be answered\n"
    )


def test_lines_of_standard_input(
    host: Host, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("cab\n\n weft \n"))
    assert said(capsys, "--base", tiny.base) == answers(host, None)


def test_system_text_comes_before_the_question(
    host: Host, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = render_prompt(host.tokenizer, "cab", description=DESCRIPTIONS[0])
    expected = Engine(host).generate(ids, max_new_tokens=8).strip()
    assert said(capsys, "cab", "--base", tiny.base, "--system", DESCRIPTIONS[0]) == [expected]


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["generate", *argv]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_an_adapter_of_another_base_is_refused(
    tiny: Tiny, adapter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "belongs to base" in refused(capsys, "cab", "--adapter", adapter, "--base", tiny.other_base)


def test_a_hypernetwork_for_another_base_is_refused(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--describe", DESCRIPTIONS[0], "--with", tiny.hyper, "--base", tiny.other_base]
    assert "is for base" in refused(capsys, "cab", *flags)


@pytest.mark.filterwarnings("always:adapter .* was made for base")
@pytest.mark.parametrize("on_mismatch", ["warn", "allow"])
def test_an_adapter_of_another_base_is_used_on_purpose(
    tiny: Tiny, adapter: str, on_mismatch: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As QLoRA's users do: trained on 4-bit weights, run on the full ones."""
    argv = ["--adapter", adapter, "--base", tiny.other_base, "--base-mismatch", on_mismatch]
    assert main(["generate", *PROMPTS, *argv, "--max-new-tokens", "8"]) == 0
    out, err = capsys.readouterr()
    other = Host.from_pretrained(tiny.other_base)
    moved = replace(load(adapter), base=other.fingerprint)
    assert out == "\n".join(answers(other, Mixture.of(moved))) + "\n"
    assert ("was made for base" in err) == (on_mismatch == "warn")


@pytest.mark.filterwarnings("always:hypernetwork .* is for base")
def test_a_hypernetwork_for_another_base_is_used_on_purpose(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--describe", DESCRIPTIONS[0], "--with", tiny.hyper, "--base", tiny.other_base]
    assert main(["generate", "cab", *flags, "--base-mismatch", "warn", "--max-new-tokens", "8"]) == 0
    assert "is for base" in capsys.readouterr().err


def test_a_base_that_lies_on_another_machine_is_asked_for(
    adapter: str, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(adapter, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/home/someone/base"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    told = refused(capsys, "cab", "--adapter", str(folder))
    assert "no model /home/someone/base there" in told
    assert "the base that the adapter names, say by --base where it lies here" in told
    assert said(capsys, "cab", "--adapter", str(folder), "--base", tiny.base)


def test_an_adapter_that_names_no_base_asks_for_it(
    adapter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nameless = replace(load(adapter), base="", peft_config={}, provenance={})
    save(nameless, tmp_path / "nameless")
    told = refused(capsys, "cab", "--adapter", str(tmp_path / "nameless"))
    assert "no adapter names its base, so weft/letters was taken: " in told
    assert "say it by --base" in told


@pytest.mark.filterwarnings("always:.*chat template")
@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_chat_template_beside_an_adapter_is_told(
    file: str, adapter: str, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(adapter, tmp_path / "tuned")
    base = Host.from_pretrained(tiny.base).tokenizer.chat_template
    for template, is_told in (("{{ messages[0].content }}", True), (base, False)):
        text = template if file.endswith("jinja") else json.dumps({"chat_template": template})
        (folder / file).write_text(text or "")
        flags = ["--adapter", str(folder), "--base", tiny.base, "--max-new-tokens", "2"]
        assert main(["generate", "cab", *flags]) == 0
        assert ("brings a chat template of its own" in capsys.readouterr().err) == is_told


def test_tokens_that_were_added_to_the_base_change_nothing(
    host: Host, tiny: Tiny, adapter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grown = Host.from_pretrained(tiny.base)
    grown.module.resize_token_embeddings(host.module.config.vocab_size + 7, mean_resizing=False)
    grown.module.save_pretrained(tmp_path / "grown")
    host.tokenizer.save_pretrained(tmp_path / "grown")
    assert (
        main(
            [
                "generate",
                *PROMPTS,
                "--adapter",
                adapter,
                "--base",
                str(tmp_path / "grown"),
                "--max-new-tokens",
                "8",
            ]
        )
        == 0
    )


def test_an_adapter_with_foreign_sites_is_refused(
    adapter: str, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    factors = load(adapter).factors
    foreign = {replace(s, path=s.path.replace("q_proj", "q_prj")): f for s, f in factors.items()}
    save(Adapter(foreign), tmp_path / "foreign")
    err = refused(capsys, "cab", "--adapter", str(tmp_path / "foreign"), "--base", tiny.base)
    assert "did you mean model.layers.0.self_attn.q_proj" in err


def test_other_mistakes(
    tiny: Tiny, adapter: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "1 --weight for 0" in refused(capsys, "cab", "--base", tiny.base, "--weight", "1")
    assert "a finite number, got nan" in refused(capsys, "cab", "--adapter", adapter, "--weight", "nan")
    assert "choose one" in refused(capsys, "cab", "--base", tiny.base, "--stream", "--json")
    assert "no adapter folder" in refused(capsys, "cab", "--base", tiny.base, "--adapter", "nowhere")
    assert "max_new_tokens" in refused(capsys, "cab", "--base", tiny.base, "--max-new-tokens", "0")
    assert "tokens" in refused(capsys, "c" * 100, "--base", tiny.base)
    assert "device nowhere" in refused(capsys, "cab", "--base", tiny.base, "--device", "nowhere")
    assert main(["generate", "cab", "--dtype", "bfloat61"]) == 2
    assert "bfloat16" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert "there is no prompt" in refused(capsys, "--base", tiny.base)


def test_bank_of_tests_is_not_the_base(host: Host, adapter: str) -> None:
    """The tests above can fail: the adapter moves the logits by far more than rounding."""
    ids = torch.tensor([render_prompt(host.tokenizer, "cab")])
    bank = Bank.stack([load(adapter)])
    assert (host.forward(ids).logits - host.forward(ids, Mixture.of(bank)).logits).abs().max() > 0.1


def test_a_raw_prompt_goes_on_as_it_stands(
    host: Host, tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Engine(host)
    expected = [engine.generate(text, raw=True, max_new_tokens=8).strip() for text in PROMPTS]
    assert said(capsys, *PROMPTS, "--base", tiny.base, "--raw") == expected
    assert expected != answers(host, None)


def test_a_chat_is_not_raw(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps({"messages": [{"role": "user", "content": "cab"}]}) + "\n")
    assert main(["generate", "--file", str(file), "--base", tiny.base, "--raw"]) == 1
    assert "--raw goes on with texts" in capsys.readouterr().err
    assert main(["generate", "cab", "--base", tiny.base, "--raw", "--system", "be brief"]) == 1
    assert "--system is of a chat" in capsys.readouterr().err
