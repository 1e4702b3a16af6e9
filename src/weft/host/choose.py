"""Which kernel is fastest, by tables of measurements that `bench/kernels.py --table` repeats in part.

The CPU tables: one core of an AMD EPYC with AVX-512, torch 2.13, float32, sites of 768 x 768, ranks 4 to 32,
2 to 64 adapters, forward alone and with backward, sorting and gathering included, fastest of 5 to 9 runs
beside other work on the machine. A threshold is about where the two kernels cross, read off these ratios by
eye and rounded to a power of two; for rows the crossing also moves with K (2 to 32), by up to four times.
"""

from __future__ import annotations

from typing import Literal

import torch

_GROUPED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_TOKEN_CPU = ((32, 128), (None, 64))
"""(up to so many tokens, grouped beats concat from so much K * R / k), None being any number."""

_ROW_CPU = {
    False: ((1, 512), (4, 1024), (16, 4096)),
    True: ((4, 128), (16, 256), (64, 1024)),
}
"""Gradients wanted -> (up to so many tokens per row, grouped beats gather and bmm from so much B * R)."""

_TOKEN_GPU = 1024
"""K * R / k from which grouped is taken on other devices, in bfloat16: a guess, not measured."""


def choose_per_token(
    *, count: int, rank: int, tokens: int, k: int, device: torch.device, dtype: torch.dtype
) -> Literal["concat", "grouped"]:
    """The kernel for k of K = `count` adapters on each of so many tokens."""
    if device.type != "cpu":
        large = count * rank >= _TOKEN_GPU * k
        return "grouped" if large and dtype == torch.bfloat16 else "concat"
    if dtype not in _GROUPED_DTYPES:
        return "concat"
    start = next(start for most, start in _TOKEN_CPU if most is None or tokens <= most)
    return "grouped" if count * rank >= start * k else "concat"


def choose_per_row(
    *, rank: int, rows: int, columns: int, grad: bool, device: torch.device, dtype: torch.dtype
) -> Literal["bmm", "grouped"]:
    """The kernel for one adapter per row, where bmm has to gather the adapters first."""
    if device.type != "cpu" or dtype not in _GROUPED_DTYPES:
        return "bmm"
    start = next((start for most, start in _ROW_CPU[grad] if columns <= most), None)
    return "bmm" if start is None or rows * rank < start else "grouped"
