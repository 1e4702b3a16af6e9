import resource
import sys
from pathlib import Path

import pytest
import torch

from forked import elsewhere
from weft.train.memory import keep_freed_memory


def use() -> None:
    # Of 40 MB each: glibc's own moving threshold ends at 32 MB.
    _ = [torch.ones(10_000_000) for _ in range(3)]


def print_faults(keeps: bool) -> None:
    if keeps:
        assert keep_freed_memory()
    use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        use()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone")
def test_freed_memory_is_used_again_without_new_pages(tmp_path: Path) -> None:
    keep, leave = (int(elsewhere(print_faults, keeps, said=tmp_path / "said.txt")) for keeps in (True, False))
    # Some tensors still come fresh, where the gaps between others have no room for them.
    assert keep < leave / 2


def test_elsewhere_it_says_that_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert not keep_freed_memory()
