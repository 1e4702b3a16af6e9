"""One text that is being written: the row object of the loop."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from weft.engine.sampling import Sampling
from weft.rows import AbstractController, Request, Share

Ends = Callable[[int], bool]
"""Token id -> whether the text ends with this token."""
Reason = Literal["stop", "length"]


@dataclass(eq=False)
class Row:
    """A request under way. The loop alone changes it, between two steps."""

    request: Request
    sampling: Sampling
    stop_ids: Collection[int]
    ends: Ends | None
    controller: AbstractController | None
    share: Share
    state: Any = None
    """What the controller knows of the row."""
    started: bool = False
    """Whether the controller has begun it."""
    ids: list[int] = field(default_factory=list)
    """Prompt and what was written."""
    stream: torch.Generator | None = None
    """Where its draws come from; None for greedy decoding."""
    forced: list[int] = field(default_factory=list)
    """Tokens that come next whatever the model says."""
    start: int = 0
    """Position of the first token that its cache holds, or will hold once it was read."""
    unread: int = 0
    """Index in `ids` of the first token that no cache holds."""

    @property
    def written(self) -> int:
        """How many tokens it has written."""
        return len(self.ids) - len(self.request.prompt_ids)

    def reason(self, token_id: int, *, silent: bool = False) -> Reason | None:
        """Why the row ends with this token, the last of `ids`; None where it goes on.

        A silent one is no part of the text, so `ends` does not hear of it.
        """
        if token_id in self.stop_ids or (not silent and self.ends is not None and self.ends(token_id)):
            return "stop"
        return "length" if self.written >= self.sampling.max_new_tokens else None
