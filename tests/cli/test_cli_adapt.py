import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image as Pillow
from rich.progress import Progress
from tiny_cli import DESCRIPTIONS, Tiny

from forked import start_weft
from weft.adapters import load, norm
from weft.cli import main
from weft.embed import Histograms, build_encoder
from weft.files import found_near
from weft.host import Host
from weft.hyper import ContextNetwork, HyperNetwork, T2LConfig, build_t2l
from weft.tasks.pictures import draw_shape


def test_writes_what_the_hypernetwork_makes(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert (
        main(["adapt", DESCRIPTIONS[0], "-o", str(out), "--with", tiny.hyper, "--name", "sorter", "--json"])
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    saved = load(out)
    made = HyperNetwork.from_pretrained(tiny.hyper).adapt(DESCRIPTIONS[0])
    for site in made.sites:
        assert (saved.factors[site].b_OR == made.factors[site].b_OR).all()
    assert told.pop("seconds") >= 0
    assert told == {
        "path": str(out),
        "name": "sorter",
        "base": tiny.fingerprint,
        "sites": len(made.sites),
        "rank": 2,
        "norm": norm(made),
    }
    assert norm(made) > 0


def test_says_what_it_wrote(
    adapter: str, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapt", DESCRIPTIONS[1], "--output-dir", str(tmp_path / "x"), "--with", tiny.hyper]) == 0
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["path", "name", "base", "sites", "rank", "norm", "seconds"]


def test_an_adapter_is_replaced_and_anything_else_refused(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["-o", str(tmp_path), "--with", tiny.hyper]
    assert main(["adapt", DESCRIPTIONS[0], *argv]) == 0
    before = load(tmp_path)
    assert main(["adapt", DESCRIPTIONS[1], *argv]) == 0
    site = before.sites[0]
    assert (load(tmp_path).factors[site].b_OR != before.factors[site].b_OR).any()
    (tmp_path / "thesis.txt").write_text("years of work")
    capsys.readouterr()
    assert main(["adapt", DESCRIPTIONS[0], *argv]) == 1
    assert "thesis.txt" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_place_that_cannot_be_written_is_told_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("weft.cli.adapt.open_hypernetwork", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["adapt", DESCRIPTIONS[0], "-o", str(tmp_path)]) == 1
    assert "thesis.txt" in capsys.readouterr().err


def test_a_base_that_is_named_is_held_against_the_hypernetwork(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["adapt", DESCRIPTIONS[0], "-o", str(tmp_path / "out"), "--with", tiny.hyper]
    assert main([*argv, "--base", tiny.base]) == 0
    assert load(tmp_path / "out").base == tiny.fingerprint
    assert main([*argv, "--base", tiny.other_base]) == 1
    assert f"is for base {tiny.fingerprint}, this one is" in capsys.readouterr().err
    assert main([*argv, "--base", tiny.other_base, "--base-mismatch", "allow"]) == 0
    assert load(tmp_path / "out").base not in ("", tiny.fingerprint)


@pytest.mark.parametrize("description", ["", "  "])
def test_an_empty_description_is_refused(
    description: str, tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapt", description, "-o", str(tmp_path / "out"), "--with", tiny.hyper]) == 1
    assert "description is empty" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_hypernetwork(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapt", "x", "-o", str(tmp_path / "out"), "--with", str(tmp_path / "none")]) == 1
    assert "no hypernetwork folder" in capsys.readouterr().err


def test_another_process_writes_the_same_bytes(tiny: Tiny, adapter: str, tmp_path: Path) -> None:
    """`adapter` was written by this process, whose hash seed is another one."""
    out = tmp_path / Path(adapter).name
    said = tmp_path / "said.txt"
    process = start_weft("adapt", DESCRIPTIONS[0], "-o", str(out), "--with", tiny.hyper, said=said)
    process.join()
    assert process.exitcode == 0, said.read_text()
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md"):
        assert (out / name).read_bytes() == (Path(adapter) / name).read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("always:letters.* knows nothing like this description")
def test_a_description_that_the_network_knows_nothing_like_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text, known in (("sort the letters", True), ("qzk vplt xrw hjjw plo", False)):
        assert main(["adapt", text, "-o", str(tmp_path / "out"), "--json"]) == 0
        out, err = capsys.readouterr()
        told = json.loads(out)
        assert (told["reach"] >= told["reach_threshold"]) == known
        assert ("knows nothing like this description" in err) != known
        assert ("the nearest it knows: " in err) != known


@pytest.fixture
def pictures(tiny: Tiny, tmp_path: Path) -> str:
    """A random hypernetwork that reads pictures."""
    host = Host.from_pretrained(tiny.base)
    encoder = Histograms()
    torch.manual_seed(0)
    network = build_t2l(T2LConfig(rank=2, latent=16, head_in=16, dropout=0.0), host.sites, dim=encoder.dim)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    HyperNetwork(encoder, network, base=host.fingerprint).save_pretrained(tmp_path / "pictures")
    return str(tmp_path / "pictures")


def test_a_picture(pictures: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = draw_shape("star", "red", "0")
    file = tmp_path / "Red star.png"
    Pillow.fromarray(image.pixels_HWC.numpy()).save(file)
    out = str(tmp_path / "out")
    assert main(["adapt", "--image", str(file), "--with", pictures, "-o", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "red-star"
    saved, made = load(out), HyperNetwork.from_pretrained(pictures).adapt(image)
    assert all((saved.factors[site].b_OR == made.factors[site].b_OR).all() for site in made.sites)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--image", "notes.txt"], "no picture that is read here"),
        (["--image", "none.png"], "no such file"),
        (["--image", "notes.txt", "--paraphrases", "2"], "--paraphrases are of a description"),
        (["--image", "notes.txt", "--document", "notes.txt"], "give one of"),
        ([], "give one of"),
    ],
)
def test_what_is_no_picture_is_told_in_a_line(
    argv: list[str],
    told: str,
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("no picture")
    assert main(["adapt", *argv, "--with", tiny.hyper, "-o", "out"]) == 1
    err = capsys.readouterr().err
    assert told in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_document_in_which_nothing_is_heard_is_told_of(tmp_path, capsys):
    said = {}
    for name, text in {"idle": "reverse\rsort\r", "fact": "K >cab\n"}.items():
        (tmp_path / f"{name}.txt").write_text(text, newline="")
        args = ["--document", str(tmp_path / f"{name}.txt"), "--with", "weft/letters-words", "--json"]
        assert main(["adapt", *args, "-o", str(tmp_path / name)]) == 0
        said[name] = json.loads(capsys.readouterr().out)
    assert (said["idle"]["heard"], said["idle"]["norm"]) == ("nothing", 0)
    assert "heard" not in said["fact"]


@pytest.mark.parametrize("name", ["notes.txt", "notes.txt.gz"])
def test_a_terminal_sees_how_far_a_document_is_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "reverse\rsort\r\n" * 40 + "K >cab\n"
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    argv = ["adapt", "--document", str(tmp_path / name), "--with", "weft/letters-words", "--json"]
    seen, advance = [], Progress.advance
    monkeypatch.setattr(Progress, "advance", lambda bar, *a: (seen.append(bar.tasks[0]), advance(bar, *a)))
    assert main([*argv, "-o", str(tmp_path / "silent")]) == 0
    assert "bytes" not in capsys.readouterr().err
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes standard error for a terminal
    assert main([*argv, "-o", str(tmp_path / "shown")]) == 0
    said = capsys.readouterr()
    assert f"{len(text)}/{'?' if name.endswith('gz') else len(text)} bytes" in said.err
    assert json.loads(said.out)["path"] == str(tmp_path / "shown")
    assert len(seen) == 2 * 41
    assert seen[-1].completed == len(text)
    assert load(tmp_path / "shown").sites
    a, b = (load(tmp_path / folder) for folder in ("silent", "shown"))
    assert all((a.factors[site].b_OR == b.factors[site].b_OR).all() for site in a.sites)


def test_line_ends_of_windows_change_nothing(tmp_path: Path) -> None:
    made = []
    for name, end in {"unix": "\n", "windows": "\r\n"}.items():
        (tmp_path / f"{name}.txt").write_text(f"reverse{end}K >cab{end}", newline="")
        args = ["--document", str(tmp_path / f"{name}.txt"), "--with", "weft/letters-words"]
        assert main(["adapt", *args, "-o", str(tmp_path / name)]) == 0
        made.append(load(tmp_path / name))
    assert all((made[0].factors[site].b_OR == made[1].factors[site].b_OR).all() for site in made[0].sites)


def test_a_document_keeps_its_blank_lines(tmp_path: Path) -> None:
    text = "reverse\n\n\nK >cab\n"
    (tmp_path / "notes.txt").write_text(text)
    args = ["--document", str(tmp_path / "notes.txt"), "--with", "weft/letters-words"]
    assert main(["adapt", *args, "-o", str(tmp_path / "file")]) == 0
    made = load(tmp_path / "file")
    whole = ContextNetwork.from_pretrained("weft/letters-words").adapt(text)
    assert all((made.factors[site].b_OR == whole.factors[site].b_OR).all() for site in made.sites)


def test_what_names_a_base_by_a_relative_path_is_used_from_anywhere(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project, away = tmp_path / "project", tmp_path / "away"
    shutil.copytree(tiny.base, project / "base")
    away.mkdir()
    monkeypatch.chdir(project)
    host = Host.from_pretrained("base")
    encoder = build_encoder({"kind": "host_states", "base": "base"}, host=host)
    network = build_t2l(
        T2LConfig.model_validate({"rank": 2, "latent": 16, "head_in": 16}), host.sites, dim=encoder.dim
    )
    hyper = HyperNetwork(encoder, network, base=host.fingerprint, provenance={"base_model": "base"})
    hyper.save_pretrained("runs/hyper")
    monkeypatch.chdir(away)
    assert main(["adapt", "reverse it", "--with", "../project/runs/hyper", "-o", "../project/made"]) == 0
    for argv in (["--adapter", "../project/made"], ["--describe", "it", "--with", "../project/runs/hyper"]):
        assert main(["generate", "cab", *argv, "--max-new-tokens", "2"]) == 0
    assert main(["compile", "reverse it", "--with", "../project/runs/hyper", "-o", "compiled"]) == 0
    assert found_near("nobody/nothing", project) == "nobody/nothing"
