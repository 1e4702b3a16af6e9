"""The best state that each of K adapters had at an evaluation, and when to stop.

Every adapter has its own best step, as if it were trained alone. In a run folder what was evaluated after the
checkpoint that a run goes on from is forgotten, and found again.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from weft.errors import WeightsError
from weft.files import replace_file, to_json
from weft.plain import reason_of
from weft.reading import read_json, shown_path
from weft.train.learned_bank import LearnedBank

_WEIGHTS, _LOSSES = "best.safetensors", "best.json"


class Best:
    """The lowest evaluation loss of each adapter so far, and its factors then."""

    def __init__(self, bank: LearnedBank, folder: Path | None = None, *, step: int = 0) -> None:
        """Take up what a folder holds up to `step`; without a folder nothing is written.

        Raises WeightsError where that is damaged.
        """
        self._bank = bank
        self._folder = folder
        self._losses: list[tuple[int, list[float]]] = []
        self._kept = {name: p.detach().clone() for name, p in bank.named_parameters()}
        if folder is None or not step or not (folder / _LOSSES).is_file():
            return
        try:
            self._losses = [(s, losses) for s, losses in read_json(folder / _LOSSES) if s <= step]
            if self._losses:
                loaded = load_file(folder / _WEIGHTS)
                self._kept = {name: loaded[name].to(p).view_as(p) for name, p in self._kept.items()}
        except (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise WeightsError(
                f"{shown_path(folder)}: {_LOSSES} and {_WEIGHTS} are damaged ({reason_of(error)}); "
                "bring back whole copies, or start again with weft train --no-resume"
            ) from error

    def see(self, step: int, losses: Sequence[float], *, write: bool = False) -> None:
        """Hear the evaluation losses of all adapters after a step, and keep those that improved.

        Infinity stands for an adapter that was not evaluated; NaN is no better.
        """
        heard = [math.inf if math.isnan(loss) else loss for loss in losses]
        before = self.losses
        self._losses.append((step, heard))
        for k, (now, best) in enumerate(zip(heard, before, strict=True)):
            if now < best:
                for name, parameter in self._bank.named_parameters():
                    self._kept[name][k] = parameter.detach()[k]
        if write and self._folder is not None:
            replace_file(self._folder / _WEIGHTS, save({n: p.contiguous() for n, p in self._kept.items()}))
            replace_file(self._folder / _LOSSES, to_json(self._losses))

    @property
    def losses(self) -> list[float]:
        """The lowest loss of each adapter; infinity before the first evaluation."""
        columns = zip(*(losses for _, losses in self._losses), strict=True)
        return [min(column) for column in columns] or [math.inf] * len(self._bank.names)

    @property
    def steps(self) -> list[int]:
        """The step of each adapter's lowest loss, the first one where there are several."""
        return [
            next(step for step, losses in self._losses if losses[k] == best)
            for k, best in enumerate(self.losses)
        ]

    def has_ended(self, patience: int | None) -> bool:
        """Whether no adapter improved in the last `patience` evaluations."""
        if patience is None or len(self._losses) <= patience:
            return False
        late = {step for step, _ in self._losses[-patience:]}
        return not late & set(self.steps)

    @torch.no_grad()
    def bring_back(self) -> None:
        """Give every adapter the factors that it had at its best."""
        for name, parameter in self._bank.named_parameters():
            parameter.copy_(self._kept[name])
