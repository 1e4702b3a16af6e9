import json
import subprocess
import sys
from pathlib import Path

import pytest
from store_kit import contents, git, key, lora, tensor, write_folder

from weft.cli import app


@pytest.fixture(autouse=True)
def verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.VERBS, "store", "weft.cli.store:store")


def weft(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = app.main(["store", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_walk_through_the_verbs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = write_folder(tmp_path / "one", lora(), {"format": "pt"})
    two = write_folder(tmp_path / "two", lora() | {key(1): tensor(50, 2, 4)}, {"format": "pt"})
    Path("lineage.json").write_text('{"author": "Ada"}')

    assert weft(capsys, "init", "s", "--base", "weft1-0123456789abcdef")[0] == 0
    assert weft(capsys, "init", "s") == (1, "", f"weft: {tmp_path}/s is a store already\n")
    place = ("--store", "s")
    code, out, _ = weft(
        capsys, "add", "one", "--name", "a", "-m", "first", "--lineage", "lineage.json", *place
    )
    head = git(tmp_path / "s", "rev-parse", "HEAD")
    assert (code, out) == (0, f"a: committed as {head[:12]}, 6 of 6 tensors are new\n")
    assert (
        weft(capsys, "add", "one", "-n", "a", "-m", "again", *place)[1]
        == "a: unchanged, 0 of 6 tensors are new\n"
    )
    assert weft(capsys, "add", "two", "-n", "a", *place)[1] == "a: staged, 1 of 6 tensors are new\n"
    git(tmp_path / "s", "commit", "-qm", "second")

    rows = json.loads(weft(capsys, "log", "a", "--json", *place)[1])
    assert [(row["message"], row["author"], row["signature"]) for row in rows] == [
        ("second", "Ada", "none"),
        ("first", "Ada", "none"),
    ]
    assert "second" in weft(capsys, "log", *place)[1]
    rows = json.loads(weft(capsys, "diff", "HEAD~1", "HEAD", "--json", *place)[1])
    assert rows == [{"adapter": "a", "layer": "layers.1.q_proj", "what": key(1), "change": "changed"}]
    rows = json.loads(weft(capsys, "diff", "HEAD~1", "HEAD", "--values", "--json", *place)[1])
    assert [row["layer"] for row in rows] == ["layers.1.q_proj"]
    assert json.loads(weft(capsys, "list", "--json", *place)[1])[0]["tensors"] == 6
    shown = json.loads(weft(capsys, "show", "a", "--json", *place)[1])
    assert (shown["base"], shown["lineage"]) == ("weft1-0123456789abcdef", {"author": "Ada"})
    assert "lineage.author" in weft(capsys, "show", "a", *place)[1]

    assert weft(capsys, "checkout", "a", "-o", "out", *place) == (0, "wrote out\n", "")
    assert contents(tmp_path / "out") == contents(two)
    assert weft(capsys, "checkout", "a", "-o", "out", "--rev", "HEAD~1", *place)[0] == 0
    assert contents(tmp_path / "out") == contents(one)
    assert weft(capsys, "export", "a", "-o", "hub", *place)[1] == "wrote hub and a model card for it\n"
    assert json.loads(weft(capsys, "verify", "--json", *place)[1])["problems"] == []
    assert "3 commits, 2 versions of adapters, 7 tensors read" in weft(capsys, "verify", *place)[1]
    assert weft(capsys, "rm", "a", "-m", "gone", *place)[1].startswith("a: removed in ")
    assert weft(capsys, "list", *place) == (0, "", "")
    assert weft(capsys, "checkout", "a", "-o", "out", *place)[2].count("\n") == 1


def test_a_broken_store_is_an_error(root: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ("--store", str(root))
    assert weft(capsys, "add", str(folder), "-n", "a", "-m", "x", *place)[0] == 0
    (root / "adapters/a/adapter.json").write_text("{}")
    git(root, "commit", "-qam", "broken")
    code, out, err = weft(capsys, "verify", *place)
    assert code == 1
    assert "has format None" in out
    assert err.startswith(f"weft: {root} has 1 problems; the first: ")
    assert err.count("\n") == 1


def test_the_base_of_a_store_is_a_fingerprint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from weft.host import Host

    code, out, _ = weft(capsys, "init", str(tmp_path / "s"), "--base", "weft/letters", "--json")
    assert code == 0
    assert json.loads(out)["base"] == Host.from_pretrained("weft/letters").fingerprint
    assert weft(capsys, "init", str(tmp_path / "t"), "--base", str(tmp_path / "nothing"))[0] == 1
    assert not (tmp_path / "t").exists()


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = weft(capsys, "--help")
    assert code == 0
    for verb in ("init", "add", "checkout", "export", "log", "diff", "verify", "list", "show", "rm"):
        assert f" {verb} " in out
    rows = [line.split() for line in out.splitlines() if line.startswith("│ ") and line[2] != " "]
    assert len(rows) == 20
    assert all(len(words) > 3 for words in rows), rows  # each says what it does
    assert weft(capsys, "add", "--help")[0] == 0
    assert weft(capsys, "nothing")[0] == 2


def test_nothing_heavy_is_imported(root: Path, folder: Path, tmp_path: Path) -> None:
    program = f"""
import sys
from weft.cli import app
app.VERBS["store"] = "weft.cli.store:store"
heavy = {{"torch", "numpy", "transformers", "peft", "safetensors", "yaml"}}
for words in (
    ["add", {str(folder)!r}, "-n", "a", "-m", "x"], ["checkout", "a", "-o", {str(tmp_path / "out")!r}],
    ["log", "--json"], ["diff", "HEAD~1", "HEAD", "--json"], ["list"], ["show", "a"], ["verify"],
):
    assert app.main(["store", *words, "--store", {str(root)!r}]) == 0, words
    assert not heavy & set(sys.modules), (words, heavy & set(sys.modules))
    assert "rich.table" not in sys.modules or words[0] in ("list", "show", "verify"), words
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_add_and_checkout_load_no_numbers(root: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", lora())
    lines = (
        ["store", "add", str(folder), "--name", "a", "-m", "x", "--store", str(root)],
        ["store", "checkout", "a", "-o", str(tmp_path / "out"), "--store", str(root)],
    )
    program = (
        "import sys; from weft.cli import main; main(sys.argv[1:]);"
        "print(*({'torch', 'numpy'} & sys.modules.keys()), end='')"
    )
    said = [
        subprocess.run([sys.executable, "-c", program, *line], capture_output=True, text=True, check=True)
        for line in lines
    ]
    head = git(root, "rev-parse", "--short=12", "HEAD")
    assert said[0].stdout == f"a: committed as {head}, 6 of 6 tensors are new\n"
    assert said[1].stdout == f"wrote {tmp_path / 'out'}\n"
    assert contents(tmp_path / "out") == contents(folder)
