"""Attributes by which git would change files on their way: undone by `init`, found by `verify`."""

import subprocess
from pathlib import Path

import pytest
from store_kit import commit_tree, contents, git, is_clean

from weft.errors import ConfigError
from weft.store import Store
from weft.store.layout import ATTRIBUTES_TEXT, converting_line

HUB = b"*.bin filter=lfs diff=lfs merge=lfs -text\n*.safetensors filter=lfs diff=lfs merge=lfs -text"


@pytest.fixture
def shouting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A filter named lfs that any user may have, and that changes whatever passes it."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    for key, value in {"clean": "tr a-z A-Z", "smudge": "tr A-Z a-z", "required": "true"}.items():
        git(home, "config", "--global", f"filter.lfs.{key}", value)


@pytest.mark.parametrize(
    "line",
    [
        HUB,
        HUB + b"\n",
        b"* text=auto eol=crlf\n",
        b"*.json text eol=crlf\n*.md ident\n",
        b"*.json working-tree-encoding=UTF-16\n",
        b"[attr]weights filter=lfs -text\n*.safetensors weights\n",
        b"adapters/** filter=lfs\n",
    ],
)
def test_a_store_in_a_repository_with_attributes(
    line: bytes, shouting: None, folder: Path, tmp_path: Path
) -> None:
    hub = tmp_path / "hub"
    git(tmp_path, "init", "-q", "hub")
    (hub / ".gitattributes").write_bytes(line)
    git(hub, "add", ".")
    git(hub, "commit", "-qm", "start")
    with Store.init(hub) as store:
        store.add(folder, "a", message="a")
        assert store.verify().problems == ()
        assert is_clean(hub)
        # Plain git writes the same files, and takes them in again unchanged.
        git(tmp_path, "clone", "-q", str(hub), "again")
        for file in (hub / "adapters").rglob("*"):
            if file.is_file():
                assert (tmp_path / "again" / file.relative_to(hub)).read_bytes() == file.read_bytes()
                file.write_bytes(file.read_bytes() + b" ")
        git(hub, "add", ".")
        git(hub, "checkout", "-q", "HEAD", "--", ".")
        assert is_clean(hub)
        store.checkout("a", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(folder)
    # What is not the store's is git-lfs's as before.
    said = git(hub, "check-attr", "filter", "model.safetensors", "weights.bin")
    assert ("model.safetensors: filter: lfs" in said) == (b".safetensors" in line)


def test_attributes_that_are_not_committed_are_named(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "hub")
    (tmp_path / "hub/.gitattributes").write_bytes(HUB)
    with pytest.raises(ConfigError, match="commit it first"):
        Store.init(tmp_path / "hub")


def test_a_line_that_came_later_is_told_until_it_is_undone(root: Path, folder: Path) -> None:
    told = git(root, "show", "HEAD:.gitattributes").encode() + b"\n"
    with Store(root) as store:
        store.add(folder, "a", message="a")
        commit_tree(root, {(".gitattributes",): told + b"*.bin filter=lfs\n"})
        assert store.verify().problems == ()  # no file of a store ends so
        bad = commit_tree(root, {(".gitattributes",): told + HUB})
        (problem,) = store.verify().problems
        assert problem.startswith(bad[:12])
        assert "*.safetensors filter=lfs" in problem
        commit_tree(root, {(".gitattributes",): told + HUB + b"\n" + ATTRIBUTES_TEXT.encode()})
        assert store.verify().problems == ()
        git(root, "branch", "topic", bad)
        assert len(store.verify().problems) == 1


def test_lines_are_judged_as_git_judges_them(tmp_path: Path) -> None:
    """Where git would convert one of our files, so we say."""
    git(tmp_path, "init", "-q", "x")
    files = [
        "weft-store.json",
        "adapters/a/adapter.json",
        "adapters/a/tensors/x.safetensors",
        "accepted/b/a/README.md",
    ]
    ours = ATTRIBUTES_TEXT.encode()
    for text in (
        b"", ours, HUB, HUB + b"\n" + ours, ours + HUB, b"* -text\n*.safetensors binary\n",
        b"* text\n* -text\n", b"* filter=x\n* !filter\n", b"*.md text eol=crlf\n" + ours,
        b"*.onnx filter=lfs\n",
        b"*.JSON ident\n" + ours, b"* filter=x\n/adapters/** -filter\n", b"# * filter=x\n",
        b"\xff filter=x\n",
    ):  # fmt: skip
        (tmp_path / "x/.gitattributes").write_bytes(text)
        names = ["filter", "ident", "text", "eol", "working-tree-encoding"]
        said = subprocess.run(
            ["git", "check-attr", "-z", *names, "--", *files],
            cwd=tmp_path / "x", capture_output=True, check=True,
        ).stdout.decode().split("\0")  # fmt: skip
        rows = list(zip(said[::3], said[1::3], said[2::3], strict=False))
        is_text = {file: value for file, name, value in rows if name == "text"}
        converts = any(
            value not in ("unspecified", "unset") and not (name == "eol" and is_text[file] == "unset")
            for file, name, value in rows
        )
        assert (converting_line(text) is not None) == converts, text
