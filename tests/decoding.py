"""A padded batch of prompts through the loop, with the logits of every step: what tests look at."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weft.engine.batch import shares_of
from weft.engine.loop import Loop
from weft.engine.sampling import Sampling
from weft.errors import ShapeError
from weft.rows import AbstractController, AbstractHost, Request
from weft.types import Mixture

Ends = Callable[[int, int], bool]
"""(row, token id) -> whether the row ends with this token."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One token for every row that has not ended."""

    tokens: tuple[int | None, ...]
    """Row by row; None once a row has ended. A stop id is reported, as the row's last token."""
    logits_BV: Float[Tensor, "B V"]
    """What the host said, before sampling changed it; NaN once a row has ended."""


def decode(
    host: AbstractHost,
    ids_BT: Int[Tensor, "B T"],
    mask_BT: Int[Tensor, "B T"] | None = None,
    *,
    mixture: Mixture | None = None,
    controller: AbstractController | None = None,
    sampling: Sampling | None = None,
    seeds: Sequence[int] | None = None,
    stop_ids: Collection[int] = (),
    ends: Ends | None = None,
) -> Iterator[Step]:
    """Continue left-padded prompts, one token per row and step, until every row has ended.

    A row ends with one of `stop_ids`, when `ends` says so, or after `sampling.max_new_tokens`. Row i is drawn
    from its own stream, seeded `seeds[i]` (default `sampling.seed + i`), and its request is called str(i).

    Raises PromptTooLongError when a prompt and its new tokens exceed the host's window, ShapeError for an
    empty prompt, padding on the right, or seeds or a mixture made for another number of rows.
    """
    sampling = sampling or Sampling()
    mask_BT = torch.ones_like(ids_BT) if mask_BT is None else mask_BT
    rows, columns = ids_BT.shape
    seeds = range(sampling.seed, sampling.seed + rows) if seeds is None else seeds
    if len(seeds) != rows:
        raise ShapeError(f"{len(seeds)} seeds for {rows} rows")
    if mixture is not None and controller is not None:
        raise ShapeError("give a mixture or a controller, not both: a controller starts with its own mixture")
    lengths = mask_BT.sum(1).tolist()
    if not lengths or not min(lengths) or not mask_BT[:, -1].all():
        raise ShapeError(f"prompts need one token or more, padded on the left; they have {lengths} tokens")
    shares = shares_of(mixture, rows, [columns - length for length in lengths])
    loop = Loop(host, max_rows=rows)
    for row, (ids, length, share) in enumerate(zip(ids_BT.tolist(), lengths, shares, strict=True)):
        loop.submit(
            Request(str(row), tuple(ids[columns - length :]), share),
            sampling=replace(sampling, seed=seeds[row]),
            controller=controller,
            stop_ids=stop_ids,
            ends=None if ends is None else lambda token, row=row: ends(row, token),
        )
    return _steps(loop, rows)


def _steps(loop: Loop, rows: int) -> Iterator[Step]:
    while loop.busy:
        tokens: list[int | None] = [None] * rows
        logits: list[Tensor | None] = [None] * rows
        for spoken in loop.step():
            tokens[int(spoken.id)], logits[int(spoken.id)] = spoken.token_id, spoken.logits_V
        said = next(row for row in logits if row is not None)
        nothing = torch.full_like(said, torch.nan)
        yield Step(tuple(tokens), torch.stack([nothing if row is None else row for row in logits]))
