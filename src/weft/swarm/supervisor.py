"""Watches over the workers of one swarm: starts them, divides the layers, lets spares take lost places.

`python -m weft.swarm.supervisor NAME` does so until it is told to end. A worker is lost when its process has
ended, or when it misses three pings of a second each: then it is killed, and started again as a spare.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from weft.errors import ConfigError, MessageError, WeftError, WorkerError
from weft.swarm.folder import STATE, Plan, SwarmFolder, ask
from weft.swarm.launch import AbstractSlot, ProcessSlot
from weft.swarm.load import part_bytes
from weft.swarm.speed import Speed, place

_LOG = logging.getLogger("weft.swarm")
_TICK = 0.05
_BEAT = 0.2
_MISSES = 3
_REFRESH = 1.0
"""Seconds after which memory, sessions and times are written down anew."""
_PATIENCE = 1.0
"""Seconds that a ping may take."""
_START_SECONDS = 600.0
"""How long workers may take to listen, and stages to be loaded."""


@dataclass(eq=False)
class _Worker:
    slot: AbstractSlot
    number: int
    address: tuple[str, int] | None = None
    told: dict[str, Any] = field(default_factory=dict)
    """What its newest answer said; empty before the first."""
    stage: int | None = None
    loaded: bool = False
    stuck: bool = False
    """Whether it lives, but did not take the layers that it was told to."""
    restarts: int = 0

    @property
    def state(self) -> str:
        if not self.told:
            return "starting"
        return "spare" if self.stage is None else "ready" if self.loaded else "loading"


class Supervisor:
    """The workers of a swarm and the stages that they hold."""

    def __init__(self, folder: SwarmFolder) -> None:
        self.folder, self.plan = folder, folder.plan
        self.stages: list[tuple[int, int]] = []
        self.workers: list[_Worker] = []
        self.error: str | None = None
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
            slots = start(self.plan)
            self.workers = [_Worker(slot, number) for number, slot in enumerate(slots)]
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
        end = time.monotonic() + _START_SECONDS
        while sum(bool(worker.told) for worker in self.workers) < self.plan.workers:
            time.sleep(_TICK)
            if self._asked or time.monotonic() > end:
                raise WorkerError(f"the workers did not start in time; see {self.folder.path}")
        ready = [worker for worker in self.workers if worker.told][: self.plan.workers]
        speeds = []
        for worker in ready:
            assert worker.address is not None
            told = ask(worker.address, "measure", seconds=_START_SECONDS).fields
            speeds.append(Speed(float(told["layer"]), float(told["head"]), self.plan.memory))
        layers, layer, first, last = part_bytes(self.plan.base, self.plan.dtype)
        self.stages = place(speeds, layers, layer=layer, first=first, last=last)
        self.folder.tell("placed", stages=self.stages)
        for stage, worker in enumerate(ready):
            self._give(worker, stage)

    def _give(self, worker: _Worker, stage: int) -> None:
        worker.stage = stage
        told = (worker, stage, worker.address, worker.restarts)
        threading.Thread(target=self._load, args=told, daemon=True).start()

    def _watch(self, worker: _Worker) -> None:
        misses = 0
        while not self._ended.wait(_BEAT if worker.told else _TICK):
            if worker.address is None:
                worker.address = worker.slot.address()
                if worker.slot.dead():
                    _LOG.warning("worker %d ended before it listened; it is started again", worker.number)
                    self._lose(worker)
                    self._ended.wait(1.0)
                continue
            try:
                told = dict(ask(worker.address, "ping", seconds=_PATIENCE).fields)
                misses = 0
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

    def _lose(self, worker: _Worker) -> None:
        with self._lock:
            self.folder.tell("lost", worker=worker.number, stage=worker.stage)
            worker.stage, worker.told, worker.address = None, {}, None
            worker.loaded = worker.stuck = False
            worker.restarts += 1
            self._fill()
            self._write()
        worker.slot.restart()

    def _fill(self) -> None:
        """Let a spare take each stage that nobody holds."""
        with self._lock:
            held = {worker.stage for worker in self.workers}
            spares = [worker for worker in self.workers if worker.state == "spare"]
            for stage in range(len(self.stages)):
                if stage not in held and spares:
                    self._give(spares.pop(0), stage)

    def _load(self, worker: _Worker, stage: int, address: tuple[str, int], life: int) -> None:
        first, last = self.stages[stage]
        begun = time.monotonic()
        try:
            told = dict(ask(address, "load", seconds=_START_SECONDS, first=first, last=last).fields)
        except ConfigError as error:
            self.error = str(error)
            self._write()
            self.end()
            return
        except (WorkerError, MessageError):
            with self._lock:
                worker.stuck = worker.restarts == life  # its watch lets the stage go to another one
            return
        with self._lock:
            if worker.restarts == life:
                worker.told, worker.loaded = told, True
                seconds = time.monotonic() - begun
                self.folder.tell("ready", worker=worker.number, stage=stage, seconds=seconds)
                self._write()

    def _write(self) -> None:
        with self._lock:
            holders = {worker.stage: worker for worker in self.workers if worker.loaded}
            stages = []
            for number, (first, last) in enumerate(self.stages):
                holder = holders.get(number)
                address = list(holder.address) if holder is not None and holder.address else None
                stages.append({"first": first, "last": last, "address": address})
            workers = [
                {
                    "worker": worker.number,
                    "state": worker.state,
                    "stage": worker.stage,
                    "address": worker.address and list(worker.address),
                    "restarts": worker.restarts,
                    **{
                        name: worker.told.get(name)
                        for name in ("pid", "rss", "weights", "sessions", "seconds")
                    },
                }
                for worker in self.workers
            ]
            state = {
                "supervisor": os.getpid(),
                "ready": bool(stages) and all(stage["address"] for stage in stages),
                "error": self.error,
                "stages": stages,
                "workers": workers,
            }
            places = repr((stages, [worker.state for worker in self.workers], self.error))
            if places != self._written or time.monotonic() - self._told_at > _REFRESH:
                self._written, self._told_at = places, time.monotonic()
                self.folder.write(STATE, state)


def start(plan: Plan) -> list[AbstractSlot]:
    """The slots of a plan. Raises MissingExtraError where it asks for Ray, which is not installed."""
    count = plan.workers + plan.spares
    if plan.launcher == "ray":
        from weft.swarm.on_ray import start_ray

        return start_ray(plan, count)
    return [ProcessSlot(plan) for _ in range(count)]


def main() -> None:
    """Run the supervisor of the swarm that the command line names."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    supervisor = Supervisor(SwarmFolder(sys.argv[1]))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.end())
    supervisor.run()
    logging.shutdown()
    os._exit(1 if supervisor.error else 0)  # its threads wait for nobody


if __name__ == "__main__":
    main()
