"""Slots of worker processes, whose fork server may end or refuse."""

import time

import psutil
import pytest

from weft.swarm import launch
from weft.swarm.folder import Plan, ask


def address(slot):
    """Where its worker listens; as the supervisor does, a start that failed is tried again."""
    end = time.monotonic() + 120
    while (found := slot.address()) is None:
        assert time.monotonic() < end, "no worker"
        if slot.dead():
            slot.restart()
        time.sleep(0.02)
    return found


@pytest.fixture
def slot(tmp_path):
    slot = launch.ProcessSlot(Plan(base="weft/letters", workers=1), tmp_path / "worker.log")
    yield slot
    slot.close()


@pytest.mark.slow
def test_a_worker_whose_fork_server_was_killed_is_killed_too(slot):
    worker = psutil.Process(ask(address(slot), "ping").fields["pid"])
    worker.parent().kill()
    worker.suspend()
    slot.restart()
    assert psutil.wait_procs([worker], timeout=60)[0] == [worker]
    assert ask(address(slot), "ping").fields["pid"] != worker.pid
    assert not slot.dead()


@pytest.mark.slow
@pytest.mark.parametrize("error", [EOFError, BlockingIOError])
def test_a_process_that_cannot_be_started_counts_as_ended(slot, monkeypatch, error):
    def refuse(_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(launch._FORKS.Process, "start", refuse)
        slot.restart()
        assert slot.address() is None
        assert slot.dead()
        slot.close()
    slot.restart()
    address(slot)
    assert not slot.dead()
