"""Programs that the tests run beside themselves: `python store_loop.py PROGRAM ARGUMENTS`."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

from store_kit import key

from weft.store import Store

WEIGHTS = "adapter_model.safetensors"


def value(who: int, number: int) -> bytes:
    """The 8 floats of one contribution: no byte is above 59, so no exponent is full."""
    chance = random.Random(f"{who} {number}")
    return bytes(chance.randrange(60) for _ in range(32))


def contribute(case: str, clone: str, who: str, pushes: str, first: str) -> None:
    """Edit one tensor and push, again and again; whoever comes too late catches up and tries again.

    `apart`: an adapter of one's own. `layers`: one adapter, a layer of one's own. `overlap`: one adapter, one
    layer, and conflicts are decided by the policy. Prints how often one came too late.
    """
    name = f"own-{who}" if case == "apart" else "shared"
    edited = key(int(who) if case == "layers" else 0)
    work = Path(clone).with_name(f"work-{who}")
    # How many come too late is learned, and forgotten slowly: who waits too little makes all late again.
    chance, late, crowd = random.Random(int(who)), 0, 0
    for number in range(int(pushes)):
        with Store(clone) as store:
            known = name in {row.name for row in store.list()}
            store.checkout(name, work) if known else _copy(Path(first), work)
            _overwrite(work / WEIGHTS, edited, value(int(who), number))
            store.add(work, name, message=f"by {who}: {number}")
        while _git(clone, "push", "-q", "origin", "main").returncode:
            late, crowd = late + 1, min(crowd + 1, 8)
            time.sleep(chance.uniform(0, 0.08 * 2**crowd))
            if case == "overlap":
                _git(clone, "fetch", "-q")
                with Store(clone) as store:
                    store.merge("origin/main", on_conflict="ours")
            else:
                pulled = _git(clone, "pull", "-q", "--rebase")
                if pulled.returncode:
                    sys.exit(f"conflict: {pulled.stdout}{pulled.stderr}")
        crowd = max(crowd - 1, 0)
    print(json.dumps(late))


def add(root: str, count: str, name: str, folder: str) -> None:
    """Add one adapter under many names."""
    for number in range(int(count)):
        with Store(root) as store:
            store.add(folder, f"{name}-{number}", message=f"{name} {number}")


def add_on(root: str, *folders: str) -> None:
    """Add one version after another until killed."""
    print("go", flush=True)
    while True:
        for folder in folders:
            with Store(root) as store:
                store.add(folder, "a", message=folder)


def checkout_on(root: str, out: str, *revisions: str) -> None:
    """Check out one version after another until killed."""
    print("go", flush=True)
    while True:
        for revision in revisions:
            with Store(root) as store:
                store.checkout("a", out, rev=revision)


def merge_on(root: str, start: str, *branches: str) -> None:
    """Merge one branch after another, and all again from the start, until killed."""
    print("go", flush=True)
    while True:
        for branch in branches:
            with Store(root) as store:
                store.merge(branch, on_conflict="theirs")
        _git(root, "reset", "-q", "--hard", start)


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())


def _overwrite(file: Path, name: str, value: bytes) -> None:
    data = bytearray(file.read_bytes())
    size = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + size])[name]["data_offsets"]
    data[8 + size + begin : 8 + size + end] = value
    file.write_bytes(data)


def _git(folder: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)


if __name__ == "__main__":
    programs = (contribute, add, add_on, checkout_on, merge_on)
    {program.__name__: program for program in programs}[sys.argv[1]](*sys.argv[2:])
