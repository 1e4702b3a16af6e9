"""Many contributors at once, and processes killed at random moments.

Small as they stand; `weft bench store-endurance` runs them at full size and reports what they record.
"""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from store_kit import contents, git, key, lora, run_beside, tensor, write_folder
from store_loop import WEIGHTS, value

from weft.store import Store
from weft.store.objects import object_id
from weft.tensor_file import build, framed

CONTRIBUTORS = int(os.environ.get("WEFT_STORE_CONTRIBUTORS", "4"))
PUSHES = int(os.environ.get("WEFT_STORE_PUSHES", "2"))
KILLS = int(os.environ.get("WEFT_STORE_KILLS", "6"))
SEED = int(os.environ.get("WEFT_STORE_SEED", "0"))
Record = Callable[[str, object], None]


@pytest.mark.parametrize("case", ["apart", "layers", "overlap"])
def test_contributors_to_one_bare_repository(
    case: str, root: Path, tmp_path: Path, record_property: Record
) -> None:
    start = lora(layers=CONTRIBUTORS)
    first = write_folder(tmp_path / "start", start)
    with Store(root) as store:
        store.add(first, "shared", message="start")
    git(tmp_path, "clone", "-q", "--bare", str(root), "hub")
    running = []
    for who in range(CONTRIBUTORS):
        git(tmp_path, "clone", "-q", str(tmp_path / "hub"), f"clone-{who}")
        words = (case, tmp_path / f"clone-{who}", who, PUSHES, first)
        # One session for all: a system that shares its time among sessions would leave others none.
        running.append(run_beside("contribute", *words, session=False))
    said = [process.communicate(timeout=4 * 3600) for process in running]
    assert [process.returncode for process in running] == [0] * CONTRIBUTORS, said
    pushed = [(who, number) for who in range(CONTRIBUTORS) for number in range(PUSHES)]
    with Store(tmp_path / "hub") as store:
        found = store.verify()
        assert found.problems == ()
        assert {f"by {who}: {number}" for who, number in pushed} <= {row.message for row in store.log()}
        # Nothing is lost: every tensor that was pushed can still be reached, and was read by `verify`.
        reached = set(git(tmp_path / "hub", "rev-list", "--objects", "--no-object-names", "--all").split())
        assert {_blob(case, who, number) for who, number in pushed} <= reached
        assert found.tensors >= len(pushed) + len(start) - 1
        if case == "apart":
            final = {
                f"own-{who}": start | {key(0): ("F32", (2, 4), _last(who))} for who in range(CONTRIBUTORS)
            }
        elif case == "layers":
            mine = {key(who): ("F32", (2, 4), _last(who)) for who in range(CONTRIBUTORS)}
            final = {"shared": start | mine}
        else:
            store.checkout("shared", tmp_path / "out")
            data = (tmp_path / "out" / WEIGHTS).read_bytes()
            winners = [who for who in range(CONTRIBUTORS) if _last(who) in data]
            final = {"shared": start | {key(0): ("F32", (2, 4), _last(winners[0]))}}
        for name, tensors in final.items():
            store.checkout(name, tmp_path / "out")
            assert contents(tmp_path / "out") == contents(write_folder(tmp_path / "expected", tensors))
    record_property("what", f"{CONTRIBUTORS} contributors x {PUSHES} pushes, {case}")
    record_property("done", len(pushed))
    record_property("came too late and caught up", sum(json.loads(out) for out, _ in said))


def _last(who: int) -> bytes:
    return value(who, PUSHES - 1)


def _blob(case: str, who: int, number: int) -> str:
    name = key(who if case == "layers" else 0)
    text = build([(name, "F32", (2, 4))]).text
    return object_id("blob", framed(text) + value(who, number), "sha1")


@pytest.mark.parametrize("group", [False, True], ids=["python", "git too"])
@pytest.mark.parametrize("verb", ["add", "merge", "checkout"])
def test_killed_at_any_moment(
    verb: str, group: bool, root: Path, tmp_path: Path, record_property: Record
) -> None:
    """The history verifies, what a commit or a folder holds is one version, whole, and work goes on."""
    layers, sides = 40, 3
    states = [lora(layers=layers, width=32)]
    for side in range(sides):
        mine = {key(side): tensor(side + 50, 2, 32), key(9): tensor(side + 70, 2, 32)}
        states.append(states[-1] | mine)
    folders = [write_folder(tmp_path / f"in-{i}", state) for i, state in enumerate(states)]
    whole = [contents(folder) for folder in folders]
    out = tmp_path / "out"
    with Store(root) as store:
        store.add(folders[0], "a", message="start")
        for side in range(sides):
            git(root, "checkout", "-q", "-b", f"side-{side}", "main")
            mine = states[0] | {name: states[side + 1][name] for name in (key(side), key(9))}
            store.add(write_folder(tmp_path / "side", mine), "a", message="side")
        git(root, "checkout", "-q", "main")
        git(root, "tag", "start")
        store.add(folders[1], "a", message="later")
        git(root, "tag", "later")
        store.checkout("a", out)
    programs = {
        "add": ("add_on", root, *folders),
        "merge": ("merge_on", root, "start", *(f"side-{side}" for side in range(sides))),
        "checkout": ("checkout_on", root, out, "start", "later"),
    }
    if verb == "merge":
        git(root, "reset", "-q", "--hard", "start")
    chance, kills = random.Random(f"{SEED} {verb} {group}"), -(-KILLS // 6)
    for _ in range(kills):
        process = run_beside(*programs[verb])
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n", process.communicate()[1]
        time.sleep(chance.uniform(0, 0.5))
        os.killpg(process.pid, signal.SIGKILL) if group else process.kill()
        process.communicate()
        _end_of(process.pid)
        if group:
            # What git leaves behind when git is killed, and how its own message says to go on.
            for lock in (root / ".git").rglob("*.lock"):
                lock.unlink()
            git(root, "reset", "-q", "--hard")
            git(root, "clean", "-qfd")
        else:
            git(root, "diff", "--exit-code", "--stat")
        assert contents(out) in whole
        with Store(root) as store:
            assert store.verify().problems == ()
            store.checkout("a", tmp_path / "checked")
            assert contents(tmp_path / "checked") in whole
            store.add(folders[0], "b", message="after")
            store.remove("b", message="after")
        if verb == "merge":
            git(root, "reset", "-q", "--hard", "start")
            with Store(root) as store:
                for side in range(sides):
                    store.merge(f"side-{side}", on_conflict="theirs")
                store.checkout("a", tmp_path / "checked")
            assert contents(tmp_path / "checked") == whole[-1]
            git(root, "reset", "-q", "--hard", "start")
    record_property("what", f"SIGKILL in {verb}, {'git as well' if group else 'Python alone'}")
    record_property("done", kills)


def _end_of(group: int) -> None:
    """Wait for what a killed process has left running."""
    with suppress(ProcessLookupError):
        for _ in range(1000):
            os.killpg(group, 0)
            time.sleep(0.01)
