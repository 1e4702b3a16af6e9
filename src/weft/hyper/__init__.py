"""Cue -> adapters: networks that write the weights of another."""

from weft.hyper.accumulator import Accumulator, AccumulatorConfig
from weft.hyper.average import average
from weft.hyper.context import ContextConfig, ContextNetwork
from weft.hyper.hypernetwork import HyperNetwork
from weft.hyper.paraphrased import Paraphrased, adapt_paraphrased, paraphrases
from weft.hyper.perceiver import Perceiver, PerceiverConfig
from weft.hyper.reach import Reach, learn_reach, reach
from weft.hyper.shift import Shift, ShiftConfig
from weft.hyper.shift_controller import ShiftController
from weft.hyper.shifter import Shifter
from weft.hyper.speaker import Speaker
from weft.hyper.stack import Stack, StackConfig
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
from weft.hyper.window import WindowController

__all__ = [
    "T2L",
    "Accumulator",
    "AccumulatorConfig",
    "ContextConfig",
    "ContextNetwork",
    "HeadLConfig",
    "HeadMConfig",
    "HeadPConfig",
    "HeadSConfig",
    "HeadZConfig",
    "HyperNetwork",
    "Paraphrased",
    "Perceiver",
    "PerceiverConfig",
    "Reach",
    "Shift",
    "ShiftConfig",
    "ShiftController",
    "Shifter",
    "Speaker",
    "Stack",
    "StackConfig",
    "T2LConfig",
    "WindowController",
    "adapt_paraphrased",
    "average",
    "build_t2l",
    "learn_reach",
    "paraphrases",
    "reach",
]
