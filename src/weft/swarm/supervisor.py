"""Watches over the workers of one swarm: starts them, divides the layers, lets spares take lost places.

`python -m weft.swarm.supervisor NAME` does so until it is told to end. A worker is lost when its process has
ended, or when it misses three pings of a second each: then it is killed, and started again as a spare. One
that does not take its layers, or whose weights are not those of the base, is refused: it stays without layers
until it is started again, and a spare takes its place.
"""

from __future__ import annotations

import logging
import multiprocessing.util
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from weft.errors import ConfigError, MessageError, SaveError, WeftError, WorkerError
from weft.swarm.folder import STATE, Plan, SwarmFolder, ask
from weft.swarm.launch import AbstractSlot, ProcessSlot, preload
from weft.swarm.load import base_fingerprint, part_bytes
from weft.swarm.member import Member, told_state, unfilled
from weft.swarm.speed import Speed, place

_LOG = logging.getLogger("weft.swarm")
_TICK = 0.05
_BEAT = 0.2
_MISSES = 3
_FALLS = 3
"""A worker that ends so often in a row before it listens will not do so the next time either."""
_REFRESH = 1.0
"""Seconds after which memory, sessions and times are written down anew."""
_PATIENCE = 1.0
"""Seconds that a ping may take."""
_MEASURE_SECONDS = 60.0
_START_SECONDS = 600.0
"""How long workers may take to listen, and stages to be loaded."""


class Supervisor:
    """The workers of a swarm and the stages that they hold."""

    def __init__(self, folder: SwarmFolder) -> None:
        self.folder, self.plan = folder, folder.plan
        self.stages: list[tuple[int, int]] = []
        self.workers: list[Member] = []
        self.error: str | None = None
        """Why it ends."""
        self.base = ""
        self.weights: dict[int, str] = {}
        """SHA-256 of the weights of each stage, as the first worker had them that took it."""
        self._lock = threading.RLock()
        self._asked = False
        self._ended = threading.Event()
        self._written, self._told_at = "", 0.0

    def end(self) -> None:
        """Let `run` come to its end; may be called by a signal's handler, which must not take a lock."""
        self._asked = True

    def run(self) -> None:
        """Watch until `end` is called, then end the workers."""
        self._write()
        slots: list[AbstractSlot] = []
        try:
            slots = start(self.plan, self.folder)
            self.workers = [Member(slot, number) for number, slot in enumerate(slots)]
            for worker in self.workers:
                threading.Thread(target=self._watch, args=(worker,), daemon=True).start()
            self._place()
            while not self._asked:
                time.sleep(_TICK)
                self._fill()
                self._write()
        except WeftError as error:
            self.error = str(error)
            self._write()
        finally:
            self._ended.set()
            for slot in slots:
                slot.close()

    def _place(self) -> None:
        """Divide the layers among the first workers that listen, as fast as each is."""
        layers, layer, first, last = part_bytes(self.plan.base, self.plan.dtype)
        self.base = base_fingerprint(self.plan.base)
        end = time.monotonic() + _START_SECONDS
        speeds: dict[int, Speed] = {}
        while len(speeds) < self.plan.workers:
            time.sleep(_TICK)
            if self._asked:
                raise WorkerError("it was told to end before the workers had started")
            self._write()
            self._check_start(late=time.monotonic() > end)
            for worker in self.workers:
                if worker.state != "spare" or worker.number in speeds or len(speeds) == self.plan.workers:
                    continue
                assert worker.address is not None
                try:
                    told = ask(worker.address, "measure", seconds=_MEASURE_SECONDS).fields
                except ConfigError as error:
                    self._refuse(worker, None, str(error))
                except (WorkerError, MessageError):
                    continue  # its watch starts it again
                else:
                    speeds[worker.number] = Speed(float(told["layer"]), float(told["head"]), self.plan.memory)
        self.stages = place(list(speeds.values()), layers, layer=layer, first=first, last=last)
        self.folder.tell("placed", stages=self.stages)
        with self._lock:
            for stage, number in enumerate(speeds):
                if self.workers[number].state == "spare":  # a spare takes the place of one that was lost
                    self._give(self.workers[number], stage)

    def _check_start(self, *, late: bool) -> None:
        """Raise WorkerError where too few workers are left, or it takes too long."""
        bad = [one for one in self.workers if one.refusal is not None or one.falls >= _FALLS]
        if late:
            bad = [one for one in self.workers if one.refusal is not None or not one.told]
        if late or len(self.workers) - len(bad) < self.plan.workers:
            reason = next((one.refusal for one in bad if one.refusal is not None), None)
            logs = ", ".join(one.slot.log for one in bad[:3]) or str(self.folder.path)
            numbers = " and ".join(str(one.number) for one in bad[:3])
            told = reason or f"worker {numbers} {'takes too long to start' if late else 'ends at its start'}"
            raise WorkerError(f"{told}; see {logs}")

    def _give(self, worker: Member, stage: int) -> None:
        worker.stage = stage
        told = (worker, stage, worker.address, worker.restarts)
        threading.Thread(target=self._load, args=told, daemon=True).start()

    def _watch(self, worker: Member) -> None:
        misses = 0
        while not self._ended.wait(_BEAT if worker.told else _TICK):
            if worker.address is None:
                worker.address = worker.slot.address()
                if worker.slot.dead():
                    worker.falls += 1
                    _LOG.warning("worker %d ended before it listened; it is started again", worker.number)
                    self._lose(worker)
                    self._ended.wait(1.0)
                continue
            try:
                told = dict(ask(worker.address, "ping", seconds=_PATIENCE).fields)
                misses = worker.falls = 0
            except WeftError:
                misses += 1
                if worker.slot.dead() or misses >= _MISSES:
                    misses = 0
                    self._lose(worker)
                continue
            if worker.stuck:
                self._lose(worker)
                continue
            with self._lock:
                if worker.address is not None:
                    worker.told = told

    def _lose(self, worker: Member) -> None:
        with self._lock:
            self.folder.tell("lost", worker=worker.number, stage=worker.stage)
            worker.forget()
            self._fill()
            self._write()
        worker.slot.restart()

    def _refuse(self, worker: Member, stage: int | None, why: str) -> None:
        """Let a worker be without layers until it is started again."""
        with self._lock:
            _LOG.warning("worker %d is refused: %s", worker.number, why)
            self.folder.tell("refused", worker=worker.number, stage=stage, why=why)
            worker.refusal, worker.stage = why, None
            self._fill()
            self._write()

    def _fill(self) -> None:
        """Let a spare take each stage that nobody holds."""
        with self._lock:
            held = {worker.stage for worker in self.workers}
            spares = [worker for worker in self.workers if worker.state == "spare"]
            for stage in range(len(self.stages)):
                if stage not in held and spares:
                    self._give(spares.pop(0), stage)

    def _load(self, worker: Member, stage: int, address: tuple[str, int], life: int) -> None:
        first, last = self.stages[stage]
        begun = time.monotonic()
        refusal, told = None, {}
        try:
            told = dict(ask(address, "load", seconds=_START_SECONDS, first=first, last=last).fields)
        except ConfigError as error:
            refusal = str(error)
        except (WorkerError, MessageError):
            with self._lock:
                worker.stuck = worker.restarts == life  # its watch lets the stage go to another one
            return
        with self._lock:
            if worker.restarts != life:
                return
            refusal = refusal or self._mismatch(stage, told)
            if refusal is not None:
                self._refuse(worker, stage, refusal)
                return
            self.weights[stage] = told["hash"]
            worker.told, worker.loaded = told, True
            seconds = time.monotonic() - begun
            self.folder.tell("ready", worker=worker.number, stage=stage, seconds=seconds)
            self._write()

    def _mismatch(self, stage: int, told: Mapping[str, Any]) -> str | None:
        """What is wrong with the weights that a worker has read; None where they are right."""
        if told.get("base") != self.base:
            return f"its files are those of base {told.get('base')}, this swarm is of {self.base}"
        if told.get("hash") != self.weights.get(stage, told.get("hash")):
            return f"its weights of stage {stage} are others than those that were there before"
        return None

    def _write(self) -> None:
        """Write down who holds what; where the disk refuses, it is tried again."""
        with self._lock:
            error = self.error or unfilled(self.workers, self.stages)
            state = told_state(self.workers, self.stages, error)
            places = repr((state["stages"], [worker.state for worker in self.workers], error))
            if places == self._written and time.monotonic() - self._told_at <= _REFRESH:
                return
            try:
                self.folder.write(STATE, state)
            except SaveError as refused:
                _LOG.warning("%s", refused)
                self._written = ""
            else:
                self._written = places
            self._told_at = time.monotonic()


def start(plan: Plan, folder: SwarmFolder) -> list[AbstractSlot]:
    """The slots of a plan. Raises MissingExtraError where it asks for Ray, which is not installed."""
    count = plan.workers + plan.spares
    if plan.launcher == "ray":
        from weft.swarm.on_ray import start_ray

        return start_ray(plan, count)
    return [ProcessSlot(plan, folder.log(number)) for number in range(count)]


def main() -> None:
    """Run the supervisor of a swarm: its name, and the descriptor that holds its lock, where there is one."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    folder = SwarmFolder(sys.argv[1])
    lock = int(sys.argv[2]) if len(sys.argv) > 2 else folder.lock()
    os.set_inheritable(lock, False)  # held as long as this process lives, and no longer
    supervisor = Supervisor(folder)
    preload()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.end())
    supervisor.run()
    logging.shutdown()
    shutil.rmtree(multiprocessing.util.get_temp_dir(), ignore_errors=True)  # the fork server's socket
    os._exit(1 if supervisor.error else 0)  # its threads wait for nobody


if __name__ == "__main__":
    main()
