"""Continuing text over a mixture: the loop of rows, batching, the cache, controllers."""

from weft.engine.activated import Activated
from weft.engine.batch import take_rows
from weft.engine.engine import Completion, Engine
from weft.engine.loop import Loop, Spoken
from weft.engine.sampling import Sampling
from weft.engine.score import nll

__all__ = [
    "Activated",
    "Completion",
    "Engine",
    "Loop",
    "Sampling",
    "Spoken",
    "nll",
    "take_rows",
]
