import subprocess
import sys

import pytest

from weft.train.memory import keep_freed_memory

COUNT = """
import resource, sys, torch
from weft.train.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def use():
    # Of 40 MB each: glibc's own moving threshold ends at 32 MB.
    tensors = [torch.ones(10_000_000) for _ in range(3)]
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone")
def test_freed_memory_is_used_again_without_new_pages() -> None:
    faults = {
        how: int(subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, check=True).stdout)
        for how in ("keep", "leave")
    }
    # Some tensors still come fresh, where the gaps between others have no room for them.
    assert faults["keep"] < faults["leave"] / 2


def test_elsewhere_it_says_that_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert not keep_freed_memory()
