"""What a contribution must pass before it is merged."""

import json
import shlex
import sys
from pathlib import Path

import pytest
from store_kit import commit_tree, git, lora, write_folder

from weft.cli import app
from weft.errors import BaseMismatchError, ConfigError, MissingFileError, WeightsError
from weft.store import Store
from weft.store.gate import Gated

LOOK = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
config = json.loads((folder / "adapter_config.json").read_text())
with open(sys.argv[2], "a") as log:
    log.write(f"{folder.name} {config['r']}\\n")
sys.exit(3 if folder.name == "bad" else 0)
"""


@pytest.fixture
def branch(root: Path, tmp_path: Path) -> str:
    """`a` changed, `new` added, `gone` removed; HEAD has moved on with `b`."""
    with Store(root) as store:
        for name in ("a", "b", "gone"):
            store.add(write_folder(tmp_path / "in", lora()), name, message=name)
        git(root, "checkout", "-q", "-b", "contribution")
        store.add(write_folder(tmp_path / "in", lora(3)), "a", message="better")
        store.add(tmp_path / "in", "new", message="new")
        store.remove("gone", message="gone")
        commit = git(root, "rev-parse", "HEAD")
        git(root, "checkout", "-q", "main")
        store.add(tmp_path / "in", "b", message="meanwhile")
    return commit


@pytest.fixture
def command(tmp_path: Path) -> str:
    (tmp_path / "look.py").write_text(LOOK)
    return shlex.join([sys.executable, str(tmp_path / "look.py"), "{}", str(tmp_path / "log")])


def check(root: Path, *words: str) -> Gated:
    with Store(root) as store:
        return store.gate(*words)


def test_only_what_changed_is_evaluated(root: Path, branch: str, command: str, tmp_path: Path) -> None:
    found = check(root, "contribution", command)
    assert found == Gated(branch, ("a", "new"), ("gone",), ())
    assert (tmp_path / "log").read_text() == "a 2\nnew 2\n"
    assert check(root, "contribution") == found


def test_a_failed_evaluation_is_named(root: Path, branch: str, command: str, tmp_path: Path) -> None:
    git(root, "checkout", "-q", "contribution")
    with Store(root) as store:
        store.add(tmp_path / "in", "bad", message="bad")
    git(root, "checkout", "-q", "main")
    with pytest.raises(ConfigError, match=r"^bad did not pass: .* exited with 3$"):
        check(root, "contribution", command)
    with pytest.raises(MissingFileError, match="cannot run no-such-program"):
        check(root, "contribution", "no-such-program")
    for wrong in ("", "'open"):
        with pytest.raises(ConfigError, match="the command"):
            check(root, "contribution", wrong)


def test_content_comes_before_the_command(root: Path, branch: str, command: str, tmp_path: Path) -> None:
    git(root, "checkout", "-q", "contribution")
    commit_tree(root, {("adapters", "a", "tensors", "x.safetensors"): b"no tensor"})
    git(root, "checkout", "-q", "-f", "main")
    with pytest.raises(WeightsError, match="1 problems"):
        check(root, "contribution", command)
    assert not (tmp_path / "log").exists()


def test_other_bases_and_loose_commits_are_refused(
    root: Path, branch: str, command: str, tmp_path: Path
) -> None:
    git(root, "checkout", "-q", "contribution")
    with Store(root) as store:
        for name, base in (("a", "weft1-1111111111111111"),):
            folder = write_folder(tmp_path / "other", lora(5), {"weft_base": base})
            store.add(folder, name, message="other base")
        loose = git(root, "rev-parse", "HEAD")
        git(root, "checkout", "-q", "main")
        folder = write_folder(tmp_path / "mine", lora(6), {"weft_base": "weft1-2222222222222222"})
        store.add(folder, "a", message="my base")
    with pytest.raises(BaseMismatchError, match="a belongs to different bases"):
        check(root, "contribution", command)
    git(root, "branch", "-qD", "contribution")
    with pytest.raises(ConfigError, match="is on no branch or tag"):
        check(root, loose, command)


def test_the_command_line(
    root: Path,
    branch: str,
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(app.VERBS, "store", "weft.cli.store:store")
    words = ["store", "gate", "contribution", "--store", str(root)]
    assert app.main([*words, "--eval", command]) == 0
    assert capsys.readouterr().out == "contribution passes: a, new changed; removes gone\n"
    assert app.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changed"] == ["a", "new"]
