"""The supervisor over workers that are told of, not started."""

import os
import threading
import time

import pytest

from weft.errors import ConfigError, MessageError, SaveError, WorkerError
from weft.swarm import folder as swarm_folder
from weft.swarm import listen, supervisor
from weft.swarm.folder import PLAN, Plan, SwarmFolder
from weft.swarm.launch import AbstractSlot
from weft.swarm.message import Message
from weft.swarm.on_ray import _check_there, start_ray


class Slot(AbstractSlot):
    """A worker that is always there, at a port that tells how often it was started; or ends at once."""

    log = "worker.log"

    def __init__(self, number: int, *, falls: bool = False) -> None:
        self.number, self.starts, self.falls = number, 0, falls

    def address(self) -> tuple[str, int] | None:
        return None if self.falls else ("127.0.0.1", 100 * self.number + self.starts)

    def dead(self) -> bool:
        return self.falls

    def restart(self) -> None:
        self.starts += 1

    def close(self) -> None:
        pass


class Watching:
    """A supervisor that runs in a thread; `load(worker)` is what a worker answers when it is given layers."""

    def __init__(self, monkeypatch, tmp_path, slots, load, *, workers=2):
        monkeypatch.setenv("WEFT_CACHE", str(tmp_path))
        monkeypatch.setattr(supervisor, "ask", self.ask)
        monkeypatch.setattr(supervisor, "start", lambda plan, folder: slots)
        monkeypatch.setattr(supervisor, "base_fingerprint", lambda name: "b")
        self.load = load
        self.folder = SwarmFolder("s")
        spares = len(slots) - workers
        plan = Plan(base="weft/letters", workers=workers, spares=spares)
        self.folder.write(PLAN, plan.model_dump(mode="json"))
        self.supervisor = supervisor.Supervisor(self.folder)
        self.thread = threading.Thread(target=self.supervisor.run)
        self.thread.start()

    def ask(self, address: tuple[str, int], kind: str, **fields: object) -> Message:
        if kind == "load":
            told = self.load(address[1] // 100)
            return Message({"pid": address[1], "base": "b", "hash": f"h{fields['first']}", **told})
        return Message({"layer": 1.0, "head": 1.0} if kind == "measure" else {"pid": address[1]})

    def until(self, true):
        end = time.monotonic() + 20
        while not true(self.folder.state) and time.monotonic() < end:
            time.sleep(0.02)
        assert true(self.folder.state), self.folder.state

    def holders(self):
        return [one["worker"] for one in self.folder.state["workers"] if one["state"] == "ready"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.supervisor.end()
        self.thread.join()


def is_ready(state):
    return bool(state.get("ready"))


def test_a_worker_that_lives_and_does_not_load_gives_its_stage_to_a_spare(tmp_path, monkeypatch):
    def load(worker):
        if worker == 1:
            raise MessageError("a message ends after 0 of 32 bytes")
        return {}

    slots = [Slot(number) for number in range(3)]
    with Watching(monkeypatch, tmp_path, slots, load) as watching:
        watching.until(is_ready)
        assert watching.holders() == [0, 2]
        watching.until(lambda _: slots[1].starts)  # after the spare was given its place


@pytest.mark.parametrize("told", [{"base": "another"}, "refuses"])
def test_a_refused_worker_is_left_out_and_the_others_go_on(tmp_path, monkeypatch, told):
    def load(worker):
        if worker == 1 and told == "refuses":
            raise ConfigError("worker 127.0.0.1:100: layers 3 to 6 are too large")
        return told if worker == 1 else {}

    slots = [Slot(number) for number in range(3)]
    with Watching(monkeypatch, tmp_path, slots, load) as watching:
        watching.until(is_ready)
        assert watching.holders() == [0, 2]
        state = watching.folder.state
        assert state["error"] is None
        assert state["workers"][1]["state"] == "refused"
        assert ("too large" if told == "refuses" else "those of base another") in state["workers"][1][
            "refusal"
        ]
        assert slots[1].starts == 0


def test_a_replacement_with_other_weights_is_refused(tmp_path, monkeypatch):
    def load(worker):
        return {"hash": "others"} if worker == 2 else {}

    slots = [Slot(number) for number in range(4)]
    with Watching(monkeypatch, tmp_path, slots, load) as watching:
        watching.until(is_ready)
        assert watching.holders() == [0, 1]
        watching.supervisor._lose(watching.supervisor.workers[1])
        watching.until(lambda state: state["workers"][2]["state"] == "refused" and state["ready"])
        assert "others than those" in watching.folder.state["workers"][2]["refusal"]
        assert watching.holders() == [0, 3]


def test_where_all_are_refused_it_is_told_and_the_rest_stays(tmp_path, monkeypatch):
    def load(worker):
        return {"base": "another"} if worker else {}

    with Watching(monkeypatch, tmp_path, [Slot(number) for number in range(3)], load) as watching:
        watching.until(lambda state: state.get("error"))
        state = watching.folder.state
        assert "nobody takes layers 3-5; worker 1: its files are those of base another" in state["error"]
        assert watching.thread.is_alive()
        assert watching.holders() == [0]
        monkeypatch.setattr(SwarmFolder, "supervisor", watching)
        with pytest.raises(WorkerError, match="nobody takes layers"):
            watching.folder.connect(1)(0)


def test_workers_that_end_at_their_start_end_the_wait(tmp_path, monkeypatch):
    slots = [Slot(0), Slot(1, falls=True)]
    with Watching(monkeypatch, tmp_path, slots, lambda worker: {}) as watching:
        watching.thread.join(20)
        assert not watching.thread.is_alive()
        assert watching.supervisor.error == "worker 1 ends at its start; see worker.log"
        assert watching.folder.state["error"] == watching.supervisor.error


def test_a_full_disk_ends_no_swarm(tmp_path, monkeypatch):
    with Watching(monkeypatch, tmp_path, [Slot(number) for number in range(3)], lambda _: {}) as watching:
        watching.until(is_ready)
        write = SwarmFolder.write

        def refuse(self, file, value):
            raise SaveError("no space left on device")

        monkeypatch.setattr(SwarmFolder, "write", refuse)
        watching.supervisor._lose(watching.supervisor.workers[1])
        time.sleep(0.5)
        assert watching.thread.is_alive()
        monkeypatch.setattr(SwarmFolder, "write", write)
        watching.until(lambda state: state["ready"] and state["workers"][1]["restarts"] == 1)


def test_one_supervisor_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path))
    held = SwarmFolder("s").lock()
    with pytest.raises(ConfigError, match="swarm s is up already, or starts"):
        SwarmFolder("s").lock()
    os.close(held)
    os.close(SwarmFolder("s").lock())


def test_what_happened_does_not_grow_without_end(tmp_path, monkeypatch):
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path))
    monkeypatch.setattr(swarm_folder, "_EVENT_BYTES", 2000)
    folder = SwarmFolder("s")
    folder.path.mkdir(parents=True)
    for i in range(200):
        folder.tell("step", number=i)
    numbers = [event["number"] for event in folder.events()]
    assert numbers == list(range(numbers[0], 200))
    assert sum(file.stat().st_size for file in folder.path.iterdir()) < 5000


def test_a_cluster_that_is_not_there_is_told_at_once():
    with listen() as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    plan = Plan(base="weft/letters", workers=1, launcher="ray", address=address)
    with pytest.raises(WorkerError, match=f"no Ray cluster at {address}: .*; start it: ray start --head"):
        start_ray(plan, 2)


def test_addresses_of_clusters(monkeypatch):
    tried = []
    monkeypatch.setattr("socket.socket.connect", lambda _, where: tried.append(where[:2]))
    for address in ("auto", "ray://host:10001", "127.0.0.1:6379", "[::1]:6379"):
        _check_there(address)
    assert tried == [("127.0.0.1", 6379), ("::1", 6379)]
    with pytest.raises(WorkerError, match="no Ray cluster at"):
        _check_there(f"{'a' * 64}.org:6379")
