import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from weft.adapters import delta, load, save, truncate
from weft.cli import main
from weft.cli.app import VERBS
from weft.host import Host
from weft.types import Adapter, Mixture

# Warnings are what the verb prints here; pytest would raise them.
pytestmark = pytest.mark.filterwarnings(
    "always:the merge answers worse", "always:adapters of different bases"
)

REVERSE, UPPER = "weft/letters-adapters/reverse", "weft/letters-adapters/upper"


@pytest.fixture(autouse=True)
def verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VERBS, "merge", "weft.cli.merge:merge")
    monkeypatch.setitem(VERBS, "fold", "weft.cli.fold:fold")


def told(capsys: pytest.CaptureFixture[str], *line: object) -> dict:
    assert main([*map(str, line), "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *line: object) -> str:
    assert main([*map(str, line)]) == 1
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.count("\n") == 1
    return out.err


def test_merge_writes_an_adapter_and_tells_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "both"
    line = ("merge", "task-arithmetic", REVERSE, UPPER, "-w", 1, -0.5, "--rank", 4, "-o", out)
    facts = told(capsys, *line)
    merged = load(out)
    assert (facts["method"], facts["rank"], facts["path"]) == ("task_arithmetic", 4, str(out))
    assert [source["weight"] for source in facts["sources"]] == [1.0, -0.5]
    assert facts["sources"][0]["cosines"]["reverse"] == pytest.approx(1.0)
    assert 0 < facts["truncation error"] == merged.provenance["truncation_error"]["total"] < 1
    assert (merged.name, merged.base) == ("both", load(REVERSE).base)
    assert main([str(word) for word in line]) == 0
    printed = capsys.readouterr().out
    assert "cosine to merge" in printed
    assert "truncation error" in printed


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_merge_from_data(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ("merge", method, REVERSE, UPPER, "--data", "reverse", "upper", "--max-rows", 3)
    facts = told(capsys, *line, "-o", tmp_path / "out")
    # Both know more than nothing of either task: neither source is drowned.
    assert all(source["cosine to merge"] > 0.1 for source in facts["sources"])
    assert load(tmp_path / "out").provenance["method"] == method


def test_merge_reports_each_task_and_warns_where_routing_would_keep_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["merge", "linear", REVERSE, UPPER, "-w", "1", "0", "-o", str(tmp_path / "out"), "--json"]
    assert main([*line, "--data", "reverse", "upper", "--max-rows", "4", "--report"]) == 0
    out = capsys.readouterr()
    assert "the merge answers worse than upper on their own tasks; routing" in out.err
    reverse, upper = json.loads(out.out)["report"]
    assert (reverse["task"], upper["task"], reverse["rows"]) == ("reverse", "upper", 4)
    assert reverse["interference"] == pytest.approx(0.0, abs=1e-4)
    assert upper["interference"] == pytest.approx(upper["merge, loss"] - upper["source, loss"]) != 0
    assert upper["source, right"] > max(upper["base, right"], upper["merge, right"])


def test_merge_refuses_in_one_line_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    cases = {
        "no merge method tis (did you mean ties?)": ["tis", REVERSE, UPPER],
        "there are no adapters": ["ties"],
        "1 weights for 2 adapters": ["ties", REVERSE, UPPER, "-w", "1"],
        "ties has no option gamma": ["ties", REVERSE, UPPER, "--gamma", "0.1"],
        "density is 2.0": ["ties", REVERSE, UPPER, "--density", "2"],
        "fisher needs a task for each of 2 adapters, --data names 1": [
            "fisher", REVERSE, UPPER, "--data", "reverse",
        ],
        "no adapter folder": ["ties", REVERSE, tmp_path / "nothing"],
    }  # fmt: skip
    for message, words in cases.items():
        assert message in refused(capsys, "merge", *words, "-o", out)
        assert not out.exists()


def test_adapters_of_two_bases_merge_on_purpose_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = replace(load(UPPER), base="weft2-other", provenance={"base_model": "mistralai/Mistral-7B-v0.1"})
    save(other, tmp_path / "other")
    line = ("merge", "linear", REVERSE, tmp_path / "other", "-o", tmp_path / "out")
    assert "adapters of different bases" in refused(capsys, *line)
    assert not (tmp_path / "out").exists()
    facts = told(capsys, *line, "--base-mismatch", "allow")
    assert facts["base"] == load(REVERSE).base
    assert main([*map(str, line), "--base-mismatch", "warn"]) == 0
    assert "are taken for ones of weft/letters" in capsys.readouterr().err


def test_merge_never_replaces_a_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(load(REVERSE), tmp_path / "a")
    assert "is one of the adapters" in refused(
        capsys, "merge", "linear", tmp_path / "a", "-o", tmp_path / "a"
    )


def bits(host: Host) -> dict[str, bytes]:
    return {
        name: tensor.view(torch.uint8).numpy().tobytes() for name, tensor in host.module.state_dict().items()
    }


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The embedded base, in a folder of its own."""
    host = Host.from_pretrained("weft/letters")
    host.module.save_pretrained(tmp_path / "base")
    host.tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_folded_model_answers_like_the_adapter_and_unfolds_bit_for_bit(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = truncate(load(REVERSE), 4)
    save(adapter, tmp_path / "adapter")
    facts = told(capsys, "fold", base, tmp_path / "adapter", "-o", tmp_path / "model")
    ids = torch.arange(5, 25)[None]
    plain, folded = Host.from_pretrained(base), Host.from_pretrained(tmp_path / "model")
    assert facts["fingerprint"] == folded.fingerprint != plain.fingerprint == facts["base_fingerprint"]
    with torch.no_grad():
        expected, change = plain(ids, Mixture.of(adapter)).logits, plain(ids).logits
        logits = folded(ids).logits
    assert (expected - change).abs().max() > 0.1
    # Senseless tokens make this base touchy: float64 agrees a thousand times better.
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))
    assert folded.tokenizer("cab")["input_ids"] == plain.tokenizer("cab")["input_ids"]
    told(capsys, "fold", "--unfold", tmp_path / "model", "-o", tmp_path / "again")
    assert bits(Host.from_pretrained(tmp_path / "again")) == bits(plain)


def test_low_precision_stays_and_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    low = tmp_path / "low"
    Host.from_pretrained("weft/letters", dtype="bfloat16").module.save_pretrained(low)
    line = ("fold", low, REVERSE, UPPER, "-w", 0.5, -1, "-o", tmp_path / "model")
    assert told(capsys, *line)["dtype"] == "bfloat16"
    note = json.loads((tmp_path / "model" / "weft_fold.json").read_text())
    assert [(a["name"], a["weight"]) for a in note["adapters"]] == [("reverse", 0.5), ("upper", -1.0)]
    assert note["base"] == str(low.resolve())
    told(capsys, *line)  # a folded model may be replaced
    plain, folded = Host.from_pretrained(low), Host.from_pretrained(tmp_path / "model")
    path = load(REVERSE).sites[0].path
    # The sum is rounded to the base's type once, at the end.
    change = sum(w * delta(load(x).factors[load(x).sites[0]]) for x, w in ((REVERSE, 0.5), (UPPER, -1.0)))
    expected = (plain.module.get_submodule(path).weight.float() + change).bfloat16()
    found = folded.module.get_submodule(path).weight
    assert found.dtype == torch.bfloat16
    assert float((found != expected).float().mean()) < 1e-3, "but for sums that lie between two numbers"
    told(capsys, "fold", "--unfold", tmp_path / "model", "-o", tmp_path / "again")
    assert bits(Host.from_pretrained(tmp_path / "again")) == bits(plain)


def test_unfold_notices_another_base(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "fold", base, REVERSE, "-o", tmp_path / "model")
    host = Host.from_pretrained(base)
    with torch.no_grad():
        weight = host.module.get_submodule(host.sites[0].path).weight
        weight.view(torch.int32)[0, 1] ^= 1  # one bit, which no sample of weights would see
    host.module.save_pretrained(base)
    capsys.readouterr()  # the bar that transformers draws
    message = refused(capsys, "fold", "--unfold", tmp_path / "model", "-o", tmp_path / "again")
    assert "is no longer the base that" in message
    assert not (tmp_path / "again").exists()


def test_fold_refusals(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    out = tmp_path / "out"
    assert "needs a base and at least one adapter" in refused(capsys, "fold", "weft/letters", "-o", out)
    assert "`weft fold` did not write" in refused(
        capsys, "fold", "weft/letters", REVERSE, "-o", tmp_path / "mine"
    )
    assert "`weft fold` did not write" in refused(capsys, "fold", base, REVERSE, "-o", base)
    assert "has no weft_fold.json" in refused(capsys, "fold", "--unfold", base, "-o", out)
    assert "give neither" in refused(capsys, "fold", REVERSE, "--unfold", base, "-o", out)
    assert "1 --weight for 2" in refused(capsys, "fold", base, REVERSE, UPPER, "-w", "1", "-o", out)
    save(Adapter(load(REVERSE).factors, base="weft1-0000000000000000"), tmp_path / "foreign")
    assert "belongs to base weft1-0000000000000000" in refused(
        capsys, "fold", "weft/letters", tmp_path / "foreign", "-o", out
    )
    assert not out.exists()
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
