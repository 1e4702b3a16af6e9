"""Cue -> adapters: networks that write the weights of another."""

from weft.hyper.average import average
from weft.hyper.hypernetwork import HyperNetwork
from weft.hyper.reach import Reach, learn_reach, reach
from weft.hyper.shift import Shift, ShiftConfig
from weft.hyper.shift_controller import ShiftController
from weft.hyper.shifter import Shifter
from weft.hyper.speaker import Speaker
from weft.hyper.t2l import (
    T2L,
    HeadLConfig,
    HeadMConfig,
    HeadPConfig,
    HeadSConfig,
    HeadZConfig,
    T2LConfig,
    build_t2l,
)

__all__ = [
    "T2L",
    "HeadLConfig",
    "HeadMConfig",
    "HeadPConfig",
    "HeadSConfig",
    "HeadZConfig",
    "HyperNetwork",
    "Reach",
    "Shift",
    "ShiftConfig",
    "ShiftController",
    "Shifter",
    "Speaker",
    "T2LConfig",
    "average",
    "build_t2l",
    "learn_reach",
    "reach",
]
