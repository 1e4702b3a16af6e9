"""The decode loop, on token ids: read, draw, report, repeat.

Rows that have ended stay in the batch, frozen behind a zero mask, until the last row ends: assignments,
gate states and the cache then need no re-indexing, and a row never notices when its mates end.

When a controller changes the mixture after token t, the cache of the tokens before t stays as it is and the
new mixture acts from token t on, as activated LoRA does (Greenewald et al. 2025, arXiv 2504.12397); a gate
that decides once does so on the prompt. With `recompute=True` the whole prefix, token t included, is read
again under the new mixture, and is what such a gate decides on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedConfig

from weft.engine.batch import check_rows
from weft.engine.sampling import Sampling, draw, generators, processors
from weft.errors import PromptTooLongError, ShapeError
from weft.host import Host
from weft.types import AbstractController, Event, Mixture

Ends = Callable[[int, int], bool]
"""(row, token id) -> whether the row ends with this token."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One token for every row that has not ended."""

    tokens: tuple[int | None, ...]
    """Row by row; None once a row has ended. A stop id is reported, as the row's last token."""
    logits_BV: Float[Tensor, "B V"]
    """What the host said, before sampling changed it."""


def decode(
    host: Host,
    ids_BT: Int[Tensor, "B T"],
    mask_BT: Int[Tensor, "B T"] | None = None,
    *,
    mixture: Mixture | None = None,
    controller: AbstractController | None = None,
    recompute: bool = False,
    sampling: Sampling | None = None,
    seeds: Sequence[int] | None = None,
    stop_ids: Collection[int] = (),
    ends: Ends | None = None,
    pad_id: int = 0,
) -> Iterator[Step]:
    """Continue left-padded prompts, one token per row and step, until every row has ended.

    A row ends with one of `stop_ids`, when `ends` says so, or after `sampling.max_new_tokens`. Row i is drawn
    from its own stream, seeded `seeds[i]` (default `sampling.seed + i`). A controller is asked after every
    token of every row, row by row; the last mixture that it returns is in force from that token on.

    Raises PromptTooLongError when a prompt and its new tokens exceed the host's window, ShapeError for an
    empty prompt, padding on the right, or seeds or a mixture made for another number of rows.
    """
    sampling = sampling or Sampling()
    mask_BT = torch.ones_like(ids_BT) if mask_BT is None else mask_BT.to(ids_BT.dtype)
    rows = ids_BT.shape[0]
    seeds = range(sampling.seed, sampling.seed + rows) if seeds is None else seeds
    if len(seeds) != rows:
        raise ShapeError(f"{len(seeds)} seeds for {rows} rows")
    if mixture is not None and controller is not None:
        raise ShapeError("give a mixture or a controller, not both: a controller starts with its own mixture")
    lengths = mask_BT.sum(1).tolist()
    if not lengths or not min(lengths) or not mask_BT[:, -1].all():
        raise ShapeError(f"prompts need one token or more, padded on the left; they have {lengths} tokens")
    check_window(host, max(lengths), sampling.max_new_tokens)
    if mixture is not None:
        check_rows(mixture, rows)
    return _steps(
        host, ids_BT, mask_BT, mixture, controller, recompute, sampling, seeds, stop_ids, ends, pad_id
    )


def check_window(host: Host, tokens: int, max_new_tokens: int) -> None:
    """Raise PromptTooLongError when the longest prompt leaves no room for its new tokens."""
    if host.window is not None and tokens + max_new_tokens > host.window:
        raise PromptTooLongError(
            f"a prompt of {tokens} tokens and {max_new_tokens} new ones exceed the model's window of "
            f"{host.window}; shorten the prompt or lower max_new_tokens"
        )


def _steps(
    host: Host,
    prompt_BT: Tensor,
    prompt_mask_BT: Tensor,
    mixture: Mixture | None,
    controller: AbstractController | None,
    recompute: bool,
    sampling: Sampling,
    seeds: Sequence[int],
    stop_ids: Collection[int],
    ends: Ends | None,
    pad_id: int,
) -> Iterator[Step]:
    rows, length = prompt_BT.shape
    starts = (length - prompt_mask_BT.sum(1)).tolist()
    room = (0, sampling.max_new_tokens)
    ids_BT = pad(prompt_BT, room, value=pad_id)
    mask_BT = pad(prompt_mask_BT, room)
    if controller is not None:
        with torch.no_grad():
            mixture = controller.start(prompt_BT, prompt_mask_BT)
        check_rows(mixture, rows)
    wants_hidden = controller is not None and controller.wants_hidden
    streams = generators(seeds, ids_BT.device)
    warp = processors(sampling)
    live = [True] * rows
    config = cast("PreTrainedConfig", host.module.config)
    cache, read, states = DynamicCache(config=config), 0, None
    for end in range(length, length + sampling.max_new_tokens):
        with torch.no_grad():
            out = host.forward(
                ids_BT[:, read:end],
                mixture,
                mask_BT=mask_BT[:, :end],
                cache=cache,
                states=states,
                logits_to_keep=1,
                output_hidden_states=wants_hidden,
            )
            read = end
            seen_BT = _unpadded(ids_BT[:, :end], mask_BT[:, :end], starts)
            scores_BV = warp(cast("torch.LongTensor", seen_BT), out.logits[:, -1].float())
            token_B = scores_BV.argmax(-1) if sampling.temperature == 0 else draw(scores_BV, streams)
            live_B = torch.tensor(live, device=ids_BT.device)
            ids_BT[:, end] = torch.where(live_B, token_B, pad_id)
            mask_BT[:, end] = live_B
            tokens = tuple(token if on else None for token, on in zip(token_B.tolist(), live, strict=True))

            changed = None
            for row, token in enumerate(tokens):
                if token is None:
                    continue
                if controller is not None:
                    hidden_H = out.hidden_states[-1][row, -1] if wants_hidden else None
                    window_T = ids_BT[row, starts[row] : end + 1]
                    event = Event(row, token, end - starts[row], hidden_H, window_T)
                    changed = controller.observe(event) or changed
                live[row] = token not in stop_ids and not (ends is not None and ends(row, token))
            if changed is not None:
                check_rows(changed, rows)
                mixture = changed
                if recompute:
                    cache, read = DynamicCache(config=config), 0
                else:
                    states = host.prepare(prompt_BT, changed, mask_BT=prompt_mask_BT)
        yield Step(tokens, out.logits[:, -1])
        if not any(live):
            return


def _unpadded(ids_BT: Tensor, mask_BT: Tensor, starts: Sequence[int]) -> Tensor:
    """A row's own first token in place of padding, so that a penalty on tokens seen never counts padding."""
    first_B = ids_BT[range(len(starts)), starts]
    return torch.where(mask_BT.bool(), ids_BT, first_B[:, None])
