"""A member of a swarm: a worker as its supervisor sees it, and what is written down of all of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from weft.swarm.launch import AbstractSlot


@dataclass(eq=False)
class Member:
    """What is known of the worker in one slot."""

    slot: AbstractSlot
    number: int
    address: tuple[str, int] | None = None
    told: dict[str, Any] = field(default_factory=dict)
    """What its newest answer said; empty before the first."""
    stage: int | None = None
    loaded: bool = False
    stuck: bool = False
    """Whether it lives, but did not take the layers that it was told to."""
    refusal: str | None = None
    """Why it is given no layers."""
    restarts: int = 0
    falls: int = 0
    """How often in a row it ended before it listened."""

    @property
    def state(self) -> str:
        """starting, spare, loading, ready or refused."""
        if not self.told:
            return "starting"
        if self.refusal is not None:
            return "refused"
        return "spare" if self.stage is None else "ready" if self.loaded else "loading"

    def forget(self) -> None:
        """It is lost: what was known is that of nobody now."""
        self.stage, self.told, self.address, self.refusal = None, {}, None, None
        self.loaded = self.stuck = False
        self.restarts += 1


def unfilled(workers: Sequence[Member], stages: Sequence[tuple[int, int]]) -> str | None:
    """Why a stage has no worker and will have none; None where each has one, or will."""
    held = {worker.stage for worker in workers}
    if any(worker.state in ("starting", "spare") for worker in workers):
        return None
    for stage, (first, last) in enumerate(stages):
        if stage not in held:
            reasons = [f"worker {one.number}: {one.refusal}" for one in workers if one.refusal is not None]
            return f"nobody takes layers {first}-{last - 1}; {reasons[0] if reasons else 'start it again'}"
    return None


def told_state(
    workers: Sequence[Member], stages: Sequence[tuple[int, int]], error: str | None
) -> dict[str, Any]:
    """What is written down: who holds which stage, and how every worker is."""
    holders = {worker.stage: worker for worker in workers if worker.loaded}
    filled = []
    for number, (first, last) in enumerate(stages):
        holder = holders.get(number)
        address = list(holder.address) if holder is not None and holder.address else None
        filled.append({"first": first, "last": last, "address": address})
    shown = ("pid", "rss", "weights", "sessions", "seconds")
    return {
        "supervisor": os.getpid(),
        "ready": bool(filled) and all(stage["address"] for stage in filled),
        "error": error,
        "stages": filled,
        "workers": [
            {
                "worker": worker.number,
                "state": worker.state,
                "stage": worker.stage,
                "address": worker.address and list(worker.address),
                "restarts": worker.restarts,
                "refusal": worker.refusal,
                "log": worker.slot.log,
                **{name: worker.told.get(name) for name in shown},
            }
            for worker in workers
        ],
    }
