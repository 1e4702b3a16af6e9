"""The supervisor over workers that are told of, not started."""

import threading
import time

from weft.errors import MessageError
from weft.swarm import supervisor
from weft.swarm.folder import PLAN, Plan, SwarmFolder
from weft.swarm.launch import AbstractSlot
from weft.swarm.message import Message


class Slot(AbstractSlot):
    """A worker that is always there, at a port that tells how often it was started."""

    def __init__(self, number: int) -> None:
        self.number, self.starts = number, 0

    def address(self) -> tuple[str, int] | None:
        return "127.0.0.1", 100 * self.number + self.starts

    def dead(self) -> bool:
        return False

    def restart(self) -> None:
        self.starts += 1

    def close(self) -> None:
        pass


def test_a_worker_that_lives_and_does_not_load_gives_its_stage_to_a_spare(tmp_path, monkeypatch):
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path))
    slots = [Slot(number) for number in range(3)]

    def ask(address: tuple[str, int], kind: str, **_: object) -> Message:
        if kind == "load" and address[1] // 100 == 1:
            raise MessageError("a message ends after 0 of 32 bytes")
        return Message({"layer": 1.0, "head": 1.0} if kind == "measure" else {"pid": address[1]})

    monkeypatch.setattr(supervisor, "ask", ask)
    monkeypatch.setattr(supervisor, "start", lambda plan: slots)
    folder = SwarmFolder("s")
    folder.write(PLAN, Plan(base="weft/letters", workers=2, spares=1).model_dump(mode="json"))
    watching = supervisor.Supervisor(folder)
    thread = threading.Thread(target=watching.run)
    thread.start()
    try:
        end = time.monotonic() + 20
        while not folder.state.get("ready") and time.monotonic() < end:
            time.sleep(0.02)
        assert folder.state["ready"]
        workers = folder.state["workers"]
        assert [one["worker"] for one in workers if one["state"] == "ready"] == [0, 2]
        assert slots[1].starts >= 1
    finally:
        watching.end()
        thread.join()
