"""`weft route`, and `weft generate` with a library: prompts choose their own adapters."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_cli import DESCRIPTIONS, Tiny

from tiny_models import make_bank
from weft.adapters import load, save
from weft.cli import main
from weft.embed import OneHot, SentenceEncoder
from weft.engine import Engine
from weft.host import Host
from weft.route import Arrow, Blend, Classifier, Nearest, Smear
from weft.tasks import render_prompt
from weft.types import Bank, Mixture, Term

LABELS = {
    "double": "write every letter twice",
    "reverse": "turn the word around, last letter first",
    "upper": "use capital letters",
}
REQUESTS = ("the word in reverse, from its last letter", "with capital letters", "each letter two times")
WANTED = ("reverse", "upper", "double")


@pytest.fixture(scope="module")
def host(tiny: Tiny) -> Host:
    return Host.from_pretrained(tiny.base)


@pytest.fixture(scope="module")
def library(host: Host, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    bank = make_bank(host.sites, 3, 2, scale=0.4)
    for k, (name, text) in enumerate(LABELS.items()):
        told = {"description": text, "base_model": tiny.base}
        save(replace(bank[k], base=host.fingerprint, provenance=told), folder / name)
    return folder


@pytest.fixture(scope="module")
def bank(host: Host, library: Path) -> Bank:
    return Bank.stack([load(library / name) for name in LABELS])


@pytest.fixture(scope="module")
def index() -> Nearest:
    made = Nearest(SentenceEncoder())
    for name, text in LABELS.items():
        made.add(name, [text])
    return made


def answers(host: Host, mixtures: list[Mixture]) -> list[str]:
    """The obvious twin: one prompt at a time, each under its own mixture."""
    engine = Engine(host)
    return [
        engine.generate(render_prompt(engine.tokenizer, text), mixture=mixture, max_new_tokens=6)
        for text, mixture in zip(REQUESTS, mixtures, strict=True)
    ]


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    code = main(list(argv))
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return out


def generated(capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    told = json.loads(said(capsys, "generate", *argv, "--json", "--max-new-tokens", "6"))
    return [result["text"] for result in told["results"]]


def test_json_tells_weights_distances_and_the_runner_up(
    library: Path, index: Nearest, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads(said(capsys, "route", *REQUESTS, "--library", str(library), "--json"))
    assert (told["library"], told["router"]) == (str(library), "nearest")
    for request, result, wanted in zip(REQUESTS, told["results"], WANTED, strict=True):
        ranked = index.rank(request)
        assert result["prompt"] == request
        [only] = result["adapters"]
        assert only["adapter"] == ranked[0][0] == wanted
        assert only["weight"] == 1
        assert only["distance"] == pytest.approx(1 - ranked[0][1], abs=1e-5)
        assert only["description"] == LABELS[wanted]
        assert result["runner_up"]["adapter"] == ranked[1][0]
        assert result["runner_up"]["weight"] == 0
        assert result["runner_up"]["distance"] == pytest.approx(1 - ranked[1][1], abs=1e-5)


def test_the_table(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "route", REQUESTS[0], "--library", str(library)).splitlines()
    assert lines[0].split() == ["adapter", "weight", "distance"]
    assert lines[2].split()[:2] == ["reverse", "1.000"]
    assert len(lines) == 3
    text = said(capsys, "route", "--describe", REQUESTS[0], "--library", str(library), "--explain")
    rows = text.splitlines()[2:]
    assert rows[0].split()[0] == "reverse"
    assert "chosen" in rows[0]
    assert LABELS["reverse"] in rows[0]
    assert "runner-up" in rows[1]
    assert len(rows) == 2
    # A blend shares among all; the second of them is the runner-up.
    argv = ("route", *REQUESTS[:2], "--library", str(library), "--router", "blend", "--explain")
    rows = [row.split("  ") for row in said(capsys, *argv).splitlines()[2:]]
    assert len(rows) == 6
    assert [row[0] for row in rows] == [REQUESTS[0]] * 3 + [REQUESTS[1]] * 3
    assert ["runner-up" in "".join(row) for row in rows] == [False, True, False] * 2


def test_every_prompt_answers_under_its_own_adapters(
    host: Host, library: Path, bank: Bank, index: Nearest, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = [Mixture.of(load(library / name)) for name in WANTED]
    expected = answers(host, alone)
    assert len(set(expected)) == 3
    flags = ("--library", str(library))
    assert generated(capsys, *REQUESTS, *flags) == expected
    streamed = said(capsys, "generate", *REQUESTS, *flags, "--stream", "--max-new-tokens", "6")
    assert streamed == "".join(text + "\n" for text in expected)
    told = json.loads(said(capsys, "generate", *REQUESTS, *flags, "--json", "--max-new-tokens", "6"))
    assert [r["text"] for r in told["results"]] == expected
    assert [r["routed"] for r in told["results"]] == [{name: 1.0} for name in WANTED]
    # Two share a prompt, and one more adapter is always on.
    index.top_k = 2
    weights = index.weights(REQUESTS, bank.names)
    index.top_k = 1
    extra = Mixture.of(load(library / "upper"))
    expected = answers(host, [extra + Mixture.dense(bank, row[None]) for row in weights])
    both = ("--router-top-k", "2", "--adapter", str(library / "upper"))
    assert generated(capsys, *REQUESTS, *flags, *both) == expected
    # A text to choose by, in place of the prompts.
    expected = answers(host, alone[:1] * 3)
    assert generated(capsys, *REQUESTS, *flags, "--describe", REQUESTS[0]) == expected


def test_gates_and_saved_routers(
    host: Host, library: Path, bank: Bank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--library", str(library), "--router")
    arrow = Mixture((Term(bank, Arrow(bank, top_k=2)),))
    assert generated(capsys, *REQUESTS, *flags, "arrow", "--router-top-k", "2") == answers(host, [arrow] * 3)

    smear = Smear(3, 32)
    torch.nn.init.normal_(smear.weight_KH, generator=torch.Generator().manual_seed(0))
    smear.save_pretrained(tmp_path / "smear", bank)
    expected = answers(host, [Mixture((Term(bank, smear, "average"),))] * 3)
    assert generated(capsys, *REQUESTS, *flags, str(tmp_path / "smear")) == expected

    blend = Blend(SentenceEncoder(), LABELS, temperature=0.02)
    blend.save_pretrained(tmp_path / "blend", base=host.fingerprint)
    expected = answers(host, [blend.route(text, bank) for text in REQUESTS])
    assert generated(capsys, *REQUESTS, *flags, str(tmp_path / "blend")) == expected

    # A trained classifier that sends everything elsewhere than the words do.
    examples = [(text, "double") for text in LABELS.values()] + [("x", "upper"), ("y", "reverse")]
    Classifier.fit(SentenceEncoder(), examples).save_pretrained(tmp_path / "classifier")
    argv = ("route", LABELS["upper"], *flags, str(tmp_path / "classifier"), "--json")
    assert json.loads(said(capsys, *argv))["results"][0]["adapters"][0]["adapter"] == "double"


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_mistakes(
    tiny: Tiny, host: Host, library: Path, bank: Bank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = ("--library", str(library))
    route = ("route", "x", *here)
    assert "no router 'nearst' (did you mean nearest?)" in refused(capsys, *route, "--router", "nearst")
    assert "decides inside the forward" in refused(capsys, *route, "--router", "arrow")
    assert "a library of 3 allows 1 to 3" in refused(capsys, *route, "--top-k", "4")
    assert "a library of 3 allows 1 to 3" in refused(capsys, *route, "--top-k", "0")
    assert "there is no prompt to route" in refused(capsys, "route", *here)
    assert "no library at nowhere" in refused(capsys, "route", "x", "--library", "nowhere")
    assert "no adapter in" in refused(capsys, "route", "x", "--library", str(tmp_path))
    assert "describes something else" in refused(capsys, *route, "--router", tiny.base)
    generate = ("generate", "x", *here)
    assert "give --library too" in refused(capsys, "generate", "x", "--router", "nearest2")
    assert "allows 1 to 3" in refused(capsys, *generate, "--router", "spectr", "--router-top-k", "9")
    assert "belongs to base" in refused(capsys, *generate, "--base", tiny.other_base)
    smear = Smear(3, 32)
    smear.save_pretrained(tmp_path / "smear", bank)
    own = ("--router", str(tmp_path / "smear"))
    assert "has its own number" in refused(capsys, *generate, *own, "--router-top-k", "1")
    assert "decides inside the forward" in refused(capsys, *route, *own)

    few = tmp_path / "few"
    save(replace(bank[0], base=host.fingerprint, name="double"), few / "double")
    assert "weighs adapter 'reverse', which this library lacks" in refused(
        capsys, "generate", "x", "--library", str(few), "--base", tiny.base, *own
    )
    assert "adapter double has no description" in refused(capsys, "route", "x", "--library", str(few))
    other = Blend(OneHot(DESCRIPTIONS), {"double": DESCRIPTIONS[0]})
    other.save_pretrained(tmp_path / "other", base="weft1-other")
    other_router = ("--router", str(tmp_path / "other"))
    assert "is for base weft1-other" in refused(capsys, *route, *other_router)
    save(replace(bank[1], base="weft1-other", name="late"), few / "late")
    assert "belongs to base weft1-other" in refused(
        capsys, "generate", "x", "--library", str(few), "--base", tiny.base, "--router", "arrow", "--strict"
    )


def test_a_library_of_one(
    host: Host, library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = replace(load(library / "upper"), provenance={"description": LABELS["upper"]})
    save(one, tmp_path / "one" / "upper")
    asked = ("route", LABELS["upper"], "Kenya", "--library", str(tmp_path / "one"))
    told = json.loads(said(capsys, *asked, "--json"))
    assert told["results"][1]["adapters"] == []
    assert told["results"][1]["runner_up"]["adapter"] == "upper"
    assert "none of them" in said(capsys, *asked)
    assert "none of them" not in said(capsys, *asked, "--threshold", "-1")
    assert [fact["adapter"] for fact in told["results"][0]["adapters"]] == ["upper"]
    assert told["results"][0]["runner_up"] is None
