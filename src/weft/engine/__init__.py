"""Continuing text over a mixture: the decode loop, batching, the cache, controllers."""

from weft.engine.activated import Activated
from weft.engine.batch import take_rows
from weft.engine.decode import Step, decode
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
    "Step",
    "decode",
    "nll",
    "take_rows",
]
