"""Names that not every file system holds, and text that is none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from store_kit import commit_tree, contents, git, is_clean, key, lora, tensor, write_folder

from weft.errors import AdapterFormatError, ConfigError, WeftError
from weft.store import Store


@pytest.mark.parametrize("name", ["CON", "aux.txt", "nul", "Com1", "lpt9.tar.gz", "prn.safetensors"])
def test_names_of_devices_are_refused(name: str, root: Path, folder: Path) -> None:
    with Store(root) as store:
        with pytest.raises(AdapterFormatError, match="device on Windows"):
            store.add(folder, name, message="x")
        with pytest.raises(AdapterFormatError, match="device on Windows"):
            store.add(folder, name)
        store.add(folder, "a", message="x")
        with pytest.raises(AdapterFormatError, match="device on Windows"):
            store.stack("a", folder, name, message="x")
        assert [row.name for row in store.list()] == ["a"]
        tree = git(root, "rev-parse", "HEAD:adapters/a")
        subprocess.run(
            ["git", "update-index", "--index-info"], cwd=root, check=True, text=True,
            input="".join(
                line.replace("\t", f"\tadapters/{name}/") + "\n"
                for line in git(root, "ls-tree", "-r", tree).splitlines()
            ),
        )  # fmt: skip
        git(root, "commit", "-qm", "made by hand")
        (problem,) = store.verify().problems
        assert name in problem
        store.remove(name, message="gone")  # and can be taken out


def test_tensors_with_names_of_devices_are_refused(root: Path, tmp_path: Path) -> None:
    named = write_folder(tmp_path / "in", {"aux.lora_A.weight": tensor(0, 2, 4)})
    with Store(root) as store, pytest.raises(AdapterFormatError, match="device on Windows"):
        store.add(named, "a", message="x")


@pytest.mark.parametrize("name", ["console", "auxiliary.1", "com", "com0", "lpt", "null", "x.con"])
def test_other_names_are_none(name: str, root: Path, folder: Path) -> None:
    with Store(root) as store:
        store.add(folder, name, message="x")
        assert store.verify().problems == ()


def test_a_message_that_is_no_text(root: Path, folder: Path) -> None:
    head = git(root, "rev-parse", "HEAD")
    with Store(root) as store:
        for call in (
            lambda message: store.add(folder, "a", message=message),
            lambda message: store.merge("HEAD", message=message),
        ):
            with pytest.raises(ConfigError, match="no text in UTF-8"):
                call("x\udcff")
        assert git(root, "rev-parse", "HEAD") == head
        assert is_clean(root)
        with pytest.raises(WeftError, match="no revision"):
            store.merge("no\udcff")
        git(root, "switch", "-qc", "b\udcff")
        store.add(folder, "a", message="a")
        git(root, "switch", "-q", "main")
        assert store.merge("b\udcff").commit
        store.add(write_folder(root.parent / "b", lora(1)), "b", message="b")
        git(root, "switch", "-q", "b\udcff")
        store.add(write_folder(root.parent / "c", lora(2)), "c", message="c")
        git(root, "switch", "-q", "main")
        store.merge("b\udcff")
        assert store.log()[0].message == "Merge b\\udcff"
    with pytest.raises(ConfigError, match="base"):
        Store.init(root.parent / "new", base="weft1-\udcff")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin1"])
def test_a_terminal_of_few_characters(encoding: str, root: Path, folder: Path, tmp_path: Path) -> None:
    """One line or the facts, whatever a commit, a card or a file is named."""
    (folder / os.fsdecode(b"left \xff \xc3\xa9")).write_bytes(b"")
    environment = os.environ | {"PYTHONIOENCODING": f"{encoding}:strict", "GIT_AUTHOR_NAME": "Zoë 漢"}

    def weft(*words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "weft.cli", "store", *words, "--store", os.fspath(root)],
            capture_output=True, env=environment,
        )  # fmt: skip

    for words in (
        ["add", os.fspath(folder), "--name", "a", "-m", "Ünïcode 漢字 \u202e"],
        ["log"],
        ["log", "--json"],
        ["show", "a"],
        ["verify", "--json"],
        ["add", os.fspath(folder), "--name", "ä", "-m", "x"],
    ):
        done = weft(*words)
        assert b"Traceback" not in done.stderr, done.stderr
        assert (done.returncode == 0) == (words[2:4] != ["--name", "ä"]), done.stderr
        assert "\u202e".encode() not in done.stdout
        if "--json" in words and words[0] == "log":
            first = json.loads(done.stdout.decode(encoding))[0]
            assert "codes" not in first
            assert first["message"].startswith("Ünïcode" if encoding != "ascii" else "")


def test_a_file_name_that_is_no_text_in_a_tree(root: Path, folder: Path, tmp_path: Path) -> None:
    with Store(root) as store:
        store.add(folder, "a", message="x")
        commit_tree(root, {(f"odd\udcff\n{key(0)}",): b"x", (".gitattributes",): b"# \xff\n"})
        assert store.verify().problems == ()
        git(root, "reset", "-q", "--hard")
        store.add(write_folder(tmp_path / "b", lora(2)), "a", message="y")
        store.checkout("a", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "b")
