"""Programs that the tests run beside themselves: `python store_loop.py contribute|loop ARGUMENTS`."""

import random
import subprocess
import sys
import time
from pathlib import Path

from weft.store import Store


def contribute(clone: str, name: str, *folders: str) -> None:
    """Add one version after another and push each; whoever comes too late rebases, as people do."""
    for number, folder in enumerate(folders):
        with Store(clone) as store:
            store.add(folder, name, message=f"{Path(clone).name} {number}")
        while subprocess.run(
            ["git", "push", "-q", "origin", "main"], cwd=clone, capture_output=True
        ).returncode:
            pulled = subprocess.run(
                ["git", "pull", "-q", "--rebase"], cwd=clone, capture_output=True, text=True
            )
            if "CONFLICT" in pulled.stdout:
                sys.exit(f"conflict: {pulled.stdout}")
            time.sleep(random.uniform(0, 0.02))


def add(root: str, count: str, name: str, folder: str) -> None:
    """Add one adapter under many names."""
    for number in range(int(count)):
        with Store(root) as store:
            store.add(folder, f"{name}-{number}", message=f"{name} {number}")


def loop(root: str, out: str, *folders: str) -> None:
    """Add and check out until killed."""
    print("go", flush=True)
    while True:
        for folder in folders:
            with Store(root) as store:
                store.add(folder, "a", message=folder)
                store.checkout("a", out)


if __name__ == "__main__":
    {"contribute": contribute, "add": add, "loop": loop}[sys.argv[1]](*sys.argv[2:])
