"""Rules of a store for conflicts: which counts, who may bring them, and what a wrong one says."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from store_kit import commit_tree, contents, git, is_clean, lora, write_folder

from weft.cli import app
from weft.errors import AdapterFormatError, ConfigError
from weft.store import Store
from weft.store.store_file import FAIL, Rule, StoreFile, by_rules, parse_store, store_bytes


def rule(adapters: str, on_conflict: str, **options: Any) -> dict[str, Any]:
    return {"adapters": adapters, "on_conflict": on_conflict, **({"options": options} if options else {})}


def set_rules(root: Path, *rules: dict[str, Any]) -> None:
    """Edit the file by hand, as people do, and commit it."""
    file = root / "weft-store.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"merge": list(rules)}))
    git(root, "commit", "-qam", "rules")


@pytest.fixture
def conflict(root: Path, tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Two branches that change the same tensors of adapters, each in its own way; HEAD is main."""

    def make(*names: str, layers: int = 3) -> tuple[Path, Path]:
        folders = [
            write_folder(tmp_path / side, lora(seed, layers))
            for side, seed in (("start", 0), ("m", 7), ("a", 11))
        ]
        with Store(root) as store:
            for name in names:
                store.add(folders[0], name, message=f"start {name}")
            git(root, "branch", "ada")
            for branch, folder in (("main", folders[1]), ("ada", folders[2])):
                git(root, "checkout", "-q", branch)
                for name in names:
                    store.add(folder, name, message=f"{branch} {name}")
        git(root, "checkout", "-q", "main")
        return folders[1], folders[2]

    return make


def test_the_first_rule_that_matches_counts() -> None:
    rules = (Rule("a-*", "ours", {}), Rule("a-?", "theirs", {}), Rule("b", "svd", {"rank": 4}))
    policies = by_rules(StoreFile(merge=rules), (1.0, 2.0))
    assert policies("a-1").on_conflict == "ours"
    assert policies("b") == ("svd", (1.0, 2.0), {"rank": 4})
    assert policies("B").on_conflict == policies("bb").on_conflict == FAIL
    # A rule for all adapters is none for files beside them.
    assert by_rules(StoreFile(merge=(Rule("*", "theirs", {}),)))("").on_conflict == FAIL


def test_rules_are_read_and_the_flag_overrides(
    root: Path, tmp_path: Path, conflict: Callable[..., tuple[Path, Path]]
) -> None:
    set_rules(root, rule("note-*", "theirs"), rule("keep", "ours"))
    main, ada = conflict("note-1", "keep")
    head = git(root, "rev-parse", "HEAD")
    with Store(root) as store:
        done = store.merge("ada")
        assert len(done.decided) == 12
        for name, folder in (("note-1", ada), ("keep", main)):
            store.checkout(name, tmp_path / "out")
            assert contents(tmp_path / "out") == contents(folder)
        git(root, "reset", "-q", "--hard", head)
        store.merge("ada", on_conflict="theirs")
        store.checkout("keep", tmp_path / "out")
        assert contents(tmp_path / "out") == contents(ada)
        git(root, "reset", "-q", "--hard", head)
        with pytest.raises(ConfigError, match="12 conflicts, nothing was merged"):
            store.merge("ada", on_conflict="fail")
    assert is_clean(root)
    assert git(root, "rev-parse", "HEAD") == head


def test_adapters_without_a_rule_fail(root: Path, conflict: Callable[..., tuple[Path, Path]]) -> None:
    set_rules(root, rule("other", "theirs"))
    conflict("a", "other")
    head = git(root, "rev-parse", "HEAD")
    with Store(root) as store, pytest.raises(ConfigError, match=r"6 conflicts.*a: .*layers\.0"):
        store.merge("ada")
    assert git(root, "rev-parse", "HEAD") == head


def test_a_branch_cannot_bring_its_own_rules(root: Path, conflict: Callable[..., tuple[Path, Path]]) -> None:
    conflict("a")
    git(root, "checkout", "-q", "ada")
    set_rules(root, rule("*", "theirs"))
    git(root, "checkout", "-q", "main")
    with Store(root) as store, pytest.raises(ConfigError, match="6 conflicts"):
        store.merge("ada")


def test_methods_by_rule(
    root: Path, conflict: Callable[..., tuple[Path, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    set_rules(root, rule("a", "task-arithmetic", rank=3))
    conflict("a")
    head = git(root, "rev-parse", "HEAD")
    place = ("--store", str(root))
    assert app.main(["store", "merge", "ada", "--json", *place]) == 0
    assert len(json.loads(capsys.readouterr().out)["decided"]) == 6
    with Store(root) as store:
        recipe = store.show("a").lineage["recipe"]
    assert (recipe["merge"], recipe["options"]) == ("task_arithmetic", {"rank": 3})
    assert app.main(["store", "verify", "--replay", *place]) == 0
    git(root, "reset", "-q", "--hard", head)
    capsys.readouterr()
    for bad, said in ((rule("a", "tiess"), "ties"), (rule("a", "ties", rnk=3), "did you mean rank")):
        set_rules(root, bad)
        assert app.main(["store", "merge", "ada", *place]) == 1
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
        assert is_clean(root)
    assert app.main(["store", "merge", "ada", "--rank", "3", *place]) == 1
    assert "--rank is for a method; --on-conflict is fail" in capsys.readouterr().err
    set_rules(root, rule("a", "ours"))
    with Store(root) as store:
        with pytest.raises(ConfigError, match="weights are for a method, and neither"):
            store.merge("ada", weights=[1.0, 1.0])
        with pytest.raises(ConfigError, match="rank is for a method"):
            store.merge("ada", options={"rank": 3})


def test_the_merge_driver_heeds_rules(root: Path, conflict: Callable[..., tuple[Path, Path]]) -> None:
    set_rules(root, rule("a", "theirs"))
    _, ada = conflict("a", layers=1)
    # Git takes whole files from theirs where the driver says so.
    git(root, "config", "merge.weft.driver", f"{sys.executable} -m weft.cli store merge-driver %O %A %B %P")
    (root / ".git/info/attributes").write_text("adapters/** merge=weft\n")
    git(root, "merge", "-q", "ada")
    with Store(root) as store:
        store.checkout("a", root.parent / "out")
        assert contents(root.parent / "out") == contents(ada)
        assert store.verify().problems == ()


@pytest.mark.parametrize(
    ("merge", "said"),
    [
        ({"a": "ours"}, "merge should be a list"),
        (["ours"], "a merge rule states adapters and on_conflict"),
        ([{"adapters": "a"}], "a merge rule states"),
        ([rule("a", "ours") | {"weight": 1}], "a merge rule states"),
        ([rule("", "ours")], "are texts"),
        ([{"adapters": ["a"], "on_conflict": "ours"}], "are texts"),
        ([rule("a", "ties", method="svd")], "should be its own"),
        ([{"adapters": "a", "on_conflict": "ties", "options": [1]}], "should be its own"),
    ],
)
def test_a_wrong_rule_is_one_line(root: Path, merge: Any, said: str) -> None:
    commit_tree(
        root, {("weft-store.json",): json.dumps({"format": 1, "base": None, "merge": merge}).encode()}
    )
    with Store(root) as store:
        with pytest.raises(AdapterFormatError, match=said) as found:
            store.list()
        assert "\n" not in str(found.value)
        assert any(said in line for line in store.verify().problems)


def test_the_file_comes_back() -> None:
    file = StoreFile(
        "weft1-0", merge=(Rule("a*", "ties", {"density": 0.5}),), modules={"m.q": (3, 4), "a": (1, 2)}
    )
    text = store_bytes(file)
    assert parse_store(text, "x") == file
    assert b'"m.q": [3, 4]' in text  # one line for each module
    assert store_bytes(StoreFile("weft1-0")) == b'{\n  "format": 1,\n  "base": "weft1-0"\n}\n'


def test_nothing_is_read_outside_of_a_store(tmp_path: Path) -> None:
    for name in "oab":
        (tmp_path / name).write_bytes(name.encode())
    words = [sys.executable, "-m", "weft.cli", "store", "merge-driver", "o", "a", "b", "adapters/x/README.md"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "both sides changed it" in done.stderr
    assert (tmp_path / "a").read_bytes() == b"a"
    assert not subprocess.run([*words, "--on-conflict", "theirs"], cwd=tmp_path).returncode
    assert (tmp_path / "a").read_bytes() == b"b"
