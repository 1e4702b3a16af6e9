"""The next token of every row, each by its own options and from its own stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from weft.engine.row import Row
from weft.engine.sampling import Sampling, draw, processors


def choose(logits_BV: Float[Tensor, "B V"], rows: Sequence[Row]) -> list[int]:
    """The next token of every row: forced, most likely, or drawn from the row's own stream."""
    groups: dict[Sampling, list[int]] = {}
    for place, row in enumerate(rows):
        alike = replace(row.sampling, seed=0, max_new_tokens=1, stop=())
        groups.setdefault(alike, []).append(place)
    chosen = [0] * len(rows)
    for sampling, places in groups.items():
        members = [rows[place] for place in places]
        scores_BV = logits_BV if len(places) == len(rows) else logits_BV[places]
        if sampling.presence_penalty or sampling.frequency_penalty or sampling.logit_bias:
            scores_BV = _adjusted(scores_BV, members, sampling)
        warp = processors(sampling)
        if len(warp):
            scores_BV = warp(_seen(members, sampling, scores_BV.device), scores_BV.clone())
        if sampling.temperature == 0:
            tokens_B = scores_BV.argmax(-1)
        else:
            tokens_B = draw(scores_BV, [row.stream for row in members if row.stream is not None])
        for place, token in zip(places, tokens_B.tolist(), strict=True):
            chosen[place] = rows[place].forced.pop(0) if rows[place].forced else token
    return chosen


def _adjusted(scores_BV: Tensor, rows: Sequence[Row], sampling: Sampling) -> Tensor:
    """The logits with what the request adds to single tokens, less what the answer has used up."""
    scores_BV = scores_BV.clone()
    for score_V, row in zip(scores_BV, rows, strict=True):
        for token, bias in sampling.logit_bias:
            score_V[token] += bias
        written = torch.tensor(
            row.ids[len(row.request.prompt_ids) :], dtype=torch.long, device=score_V.device
        )
        count_V = torch.bincount(written, minlength=len(score_V)).to(score_V)
        score_V -= sampling.frequency_penalty * count_V + sampling.presence_penalty * (count_V > 0)
    return scores_BV


def _seen(rows: Sequence[Row], sampling: Sampling, device: torch.device) -> torch.LongTensor:
    """The tokens of every row, padded with its own first one: padding is no token seen."""
    if sampling.repetition_penalty == 1:
        return cast("torch.LongTensor", torch.zeros(len(rows), 1, dtype=torch.long, device=device))
    longest = max(len(row.ids) for row in rows)
    seen = [row.ids + row.ids[:1] * (longest - len(row.ids)) for row in rows]
    return cast("torch.LongTensor", torch.tensor(seen, device=device))
