"""The verbs around merges: command line, replay, the driver in git's own merge, a kill in the middle."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_kit import commit_tree, contents, git, is_clean, key, lora, tensor, write_folder

from weft.cli import app
from weft.errors import WeftError
from weft.store import Store
from weft.store.git import Git
from weft.store.merge import merge
from weft.store.replay import Replayed

KILLS = int(os.environ.get("WEFT_STORE_KILLS", "6"))
WEFT = """
import sys
from weft.cli import app
app.VERBS["store"] = "weft.cli.store:store"
sys.exit(app.main(["store", *sys.argv[1:]]))
"""


@pytest.fixture(autouse=True)
def verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(app.VERBS, "store", "weft.cli.store:store")


@pytest.fixture
def forked(root: Path, tmp_path: Path) -> Path:
    """Two branches and main, each with another layer 0; `one` also has another layer 1."""
    with Store(root) as store:
        for name, tensors in (
            ("main", lora()),
            ("one", lora(7) | {key(2): lora()[key(2)], key(2, "B"): lora()[key(2, "B")]}),
            ("two", lora() | {key(0): tensor(9, 2, 4)}),
            ("main", lora() | {key(0): tensor(11, 2, 4)}),
        ):
            git(root, "checkout", "-q", *([name] if name == "main" else ["-b", name, "main"]))
            folder = write_folder(tmp_path / "in", tensors)
            store.add(folder, "a", message=name, lineage={"author": name})
            git(root, "branch", "-f", "start", "HEAD") if name == "main" else None
            if name != "main":
                git(root, "checkout", "-q", "main")
    return root


def weft(capsys: pytest.CaptureFixture[str], root: Path, *words: str) -> tuple[int, str, str]:
    code = app.main(["store", *words, "--store", str(root)])
    out, err = capsys.readouterr()
    return code, out, err


def again(root: Path) -> Replayed:
    with Store(root) as store:
        return store.replay()


def test_the_command_line(forked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = weft(capsys, forked, "merge", "one", "two")
    assert (code, out) == (1, "")
    assert err.startswith("weft: 2 conflicts, nothing was merged: a: adapter.json lineage.author; a: ")
    assert len(err.splitlines()) == 1
    assert weft(capsys, forked, "merge", "one", "--rank", "2")[::2] == (
        1,
        "weft: --rank is for a method; --on-conflict is fail\n",
    )
    assert "no merge method tis" in weft(capsys, forked, "merge", "one", "--on-conflict", "tis")[2]
    assert "learns from data" in weft(capsys, forked, "merge", "one", "--on-conflict", "fisher")[2]
    words = ("--on-conflict", "task-arithmetic", "--rank", "2", "-w", "1", "0.5", "0.5", "-m", "All")
    code, out, err = weft(capsys, forked, "merge", "one", "two", *words, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["adapters"] == ["a"]
    assert told["decided"] == [f"a: {what}" for what in ("adapter.json lineage.author", key(0))]
    assert git(forked, "show", "-s", "--format=%s") == "All"
    assert len(git(forked, "show", "-s", "--format=%P").split()) == 3
    assert is_clean(forked)
    assert weft(capsys, forked, "merge", "one")[1] == "there was nothing to merge\n"
    code, out, err = weft(capsys, forked, "verify", "--replay")
    assert (code, err) == (0, "")
    assert "1 recipes run again" in out


def test_replay_sees_what_is_not_by_the_recipe(forked: Path, tmp_path: Path) -> None:
    with Git(forked) as opened:
        merge(opened, ["one"], on_conflict="linear")
    assert again(forked) == Replayed(1, (), ())
    with Store(forked) as store:
        store.checkout("a", tmp_path / "merged")
        told = store.show("a").lineage
        # A later version keeps the lineage and is no claim about the merge.
        store.add(write_folder(tmp_path / "later", lora(3)), "a", message="trained on")
        assert again(forked) == Replayed(1, (), ())
        store.add(write_folder(tmp_path / "other", lora(4)), "b", message="b", lineage=told)
        store.remove("b", message="gone")
    found = again(forked)
    assert (found.recipes, len(found.problems)) == (1, 1)
    assert "b: its recipe is no recipe of a merge" in found.problems[0]
    forged = forked / "adapters/a/adapter.json"
    values = json.loads(forged.read_text())
    values["lineage"]["recipe"]["options"] = {"rank": 1}
    commit_tree(forked, {("adapters", "a", "adapter.json"): json.dumps(values).encode()})
    problem = again(forked).problems[0]
    assert "tensors differ from what its recipe gives" in problem
    assert "made by weft" in problem


def test_replay_where_the_parents_are_gone(forked: Path, tmp_path: Path) -> None:
    with Git(forked) as opened:
        merge(opened, ["one"], on_conflict="concat")
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{forked}", "shallow")
    found = again(tmp_path / "shallow")
    assert (found.recipes, found.problems) == (0, ())
    assert "which is not here" in found.gone[0]


@pytest.fixture
def driven(root: Path, tmp_path: Path) -> Path:
    """A store whose git knows the driver."""
    program = tmp_path / "program.py"
    program.write_text(WEFT)
    line = f"{shlex.quote(sys.executable)} {shlex.quote(str(program))} merge-driver %O %A %B %P"
    git(root, "config", "merge.weft.driver", line)
    (root / ".git/info/attributes").write_text("adapters/** merge=weft\n")
    with Store(root) as store:
        store.add(write_folder(tmp_path / "in", lora()), "a", message="start")
    git(root, "branch", "one")
    return root


@pytest.mark.parametrize("with_driver", [True, False])
def test_plain_git_with_the_driver(with_driver: bool, driven: Path, tmp_path: Path) -> None:
    """Both sides state a lineage: lines beside each other to git, different keys to the driver."""
    if not with_driver:
        (driven / ".git/info/attributes").unlink()
    with Store(driven) as store:
        store.add(
            write_folder(tmp_path / "0", lora() | {key(0): tensor(7, 2, 4)}),
            "a",
            message="main",
            lineage={"author": "Ada"},
        )
        git(driven, "checkout", "-q", "one")
        store.add(
            write_folder(tmp_path / "1", lora() | {key(1): tensor(9, 2, 4)}),
            "a",
            message="one",
            lineage={"licence": "mit"},
        )
        git(driven, "checkout", "-q", "main")
        if not with_driver:
            with pytest.raises(AssertionError, match=r"Merge conflict in adapters/a/adapter\.json"):
                git(driven, "merge", "-q", "-m", "x", "one")
            return
        git(driven, "merge", "-q", "-m", "x", "one")
        assert store.show("a").lineage == {"author": "Ada", "licence": "mit"}
        assert store.verify().problems == ()
        store.checkout("a", tmp_path / "out")
    want = write_folder(tmp_path / "want", lora() | {key(0): tensor(7, 2, 4), key(1): tensor(9, 2, 4)})
    assert contents(tmp_path / "out") == contents(want)


def test_the_driver_names_conflicts(driven: Path, tmp_path: Path) -> None:
    with Store(driven) as store:
        for seed, side in ((7, "main"), (9, "one")):
            git(driven, "checkout", "-q", side)
            folder = write_folder(tmp_path / side, lora() | {key(0): tensor(seed, 2, 4)})
            store.add(folder, "a", message=side, lineage={"author": side})
    done = subprocess.run(["git", "merge", "-q", "main"], cwd=driven, capture_output=True, text=True)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert f"weft: conflict in a: {key(0)}: both sides changed it" in said
    assert "weft: conflict in a: adapter.json: both sides changed lineage.author" in said
    assert len(git(driven, "diff", "--name-only", "--diff-filter=U").splitlines()) == 2


def test_edits_in_the_way_are_kept(forked: Path, tmp_path: Path) -> None:
    head = git(forked, "rev-parse", "HEAD")
    file = forked / "adapters/a/tensors" / f"{key(0)}.safetensors"
    file.write_bytes(b"my work")
    (forked / "staged.txt").write_text("mine")
    git(forked, "add", "staged.txt")
    with Git(forked) as opened:
        with pytest.raises(WeftError, match="edits in files that the merge changes"):
            merge(opened, ["one"], on_conflict="theirs")
        assert git(forked, "rev-parse", "HEAD") == head
        assert file.read_bytes() == b"my work"
        git(forked, "checkout", "--", "adapters")
        merge(opened, ["one"], on_conflict="theirs")
    assert git(forked, "status", "--porcelain") == "A  staged.txt"


def test_a_bare_repository(forked: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(forked), "bare")
    with Git(tmp_path / "bare") as opened:
        done = merge(opened, ["one", "two"], on_conflict="ours")
    assert git(tmp_path / "bare", "rev-parse", "HEAD") == done.commit
    with Store(tmp_path / "bare") as store:
        assert store.verify().problems == ()


def test_someone_commits_in_between(forked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from weft.store import edit as module

    once = iter([True])
    land = module._moved

    def slowly(*words: object) -> bool:
        if next(once, False):
            git(forked, "commit", "-q", "--allow-empty", "-m", "in between")
        return land(*words)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(module, "_moved", slowly)
    with Git(forked) as opened:
        merge(opened, ["one"], on_conflict="ours")
    assert git(forked, "log", "--format=%s", "--first-parent", "-2").splitlines() == [
        "Merge one",
        "in between",
    ]
    assert is_clean(forked)


def test_killed_in_the_middle(root: Path, tmp_path: Path) -> None:
    """The whole group is killed, git with it: HEAD is the old commit or the merge, and history verifies."""
    with Store(root) as store:
        store.add(write_folder(tmp_path / "0", lora(layers=40, width=32)), "a", message="start")
        git(root, "checkout", "-q", "-b", "one")
        store.add(write_folder(tmp_path / "1", lora(7, layers=40, width=32)), "a", message="one")
        git(root, "checkout", "-q", "main")
        store.add(write_folder(tmp_path / "2", lora(9), None), "b", message="main")
    head = git(root, "rev-parse", "HEAD")
    program = tmp_path / "program.py"
    program.write_text(WEFT.replace("sys.exit", "print('go', flush=True)\nsys.exit"))
    chance, ends = random.Random(0), []
    takes = 0.0
    for turn in range(KILLS + 1):
        process = subprocess.Popen(
            [sys.executable, str(program), "merge", "one", "--store", str(root)],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        began = time.monotonic()
        if turn:
            time.sleep(chance.uniform(0, takes))
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        takes = takes or time.monotonic() - began
        for lock in (root / ".git").rglob("*.lock"):
            lock.unlink()
        now = git(root, "rev-parse", "HEAD")
        ends.append(now != head)
        if now != head:
            assert git(root, "show", "-s", "--format=%P").split() == [head, git(root, "rev-parse", "one")]
        with Store(root) as store:
            assert store.verify().problems == ()
        git(root, "reset", "-q", "--hard", head)
        git(root, "clean", "-qfd")
    assert ends[0]
    assert not all(ends)
