"""Rows that share their beginning, packed so that it is read once.

A group is [shared prefix][row 1][row 2]...; each row sees the prefix and itself, at the positions that it
would have alone, so losses and gradients equal those of separate rows at a fraction of the tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import BFloat16, Int
from torch import Tensor

from weft.tasks import Encoded
from weft.types import IGNORE


class Packed(NamedTuple):
    """Groups, one per line, ready for a Hugging Face causal model."""

    ids_BT: Int[Tensor, "B T"]
    positions_BT: Int[Tensor, "B T"]
    mask_B1TT: BFloat16[Tensor, "B 1 T T"]
    """Added to attention scores: 0 where a token may look, the lowest value elsewhere.

    In bfloat16, which takes on the type of the scores.
    """
    targets_BT: Int[Tensor, "B T"]
    """The next token where it belongs to a completion, IGNORE elsewhere; already shifted."""
    row_BT: Int[Tensor, "B T"]
    """Which row of its group a token belongs to, from 0; -1 in the prefix and in padding."""

    def count_right(self, logits_NV: Tensor, targets_N: Tensor) -> tuple[int, int]:
        """How many rows greedy decoding would answer right, and how many there are.

        Takes what a forward says where a target stands: a row is right when each token is the likeliest one.
        """
        right_B, total_B = self.count_right_by_line(logits_NV, targets_N)
        return int(right_B.sum()), int(total_B.sum())

    def count_right_by_line(
        self, logits_NV: Tensor, targets_N: Tensor
    ) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"]]:
        """The same of every line."""
        wrong_BT = torch.zeros_like(self.targets_BT, dtype=torch.bool)
        wrong_BT[self.targets_BT >= 0] = (logits_NV.argmax(-1) != targets_N).cpu()
        total_B = self.row_BT.amax(1) + 1
        line_N, column_N = wrong_BT.nonzero(as_tuple=True)
        failed_2N = torch.stack([line_N, self.row_BT[line_N, column_N]]).unique(dim=1)
        return total_B - torch.bincount(failed_2N[0], minlength=len(total_B)), total_B


def pack(groups: Sequence[Sequence[Encoded]], *, pad_id: int, share_prefix: bool = True) -> Packed:
    """Pack groups of rows, each behind the prefix that it shares; a row keeps at least one prompt token."""
    prefixes = [_shared(group) if share_prefix else 0 for group in groups]
    width = max(n + sum(len(row.ids) - n for row in group) for n, group in zip(prefixes, groups, strict=True))
    shape = (len(groups), width)
    ids = torch.full(shape, pad_id)
    targets = torch.full(shape, IGNORE)
    positions = torch.zeros(shape, dtype=torch.long)
    branch = torch.full(shape, -1)  # -1 padding, 0 the prefix, then one number per row
    for i, (n, group) in enumerate(zip(prefixes, groups, strict=True)):
        ids[i, :n] = torch.tensor(group[0].ids[:n], dtype=torch.long)
        positions[i, :n] = torch.arange(n)
        branch[i, :n] = 0
        start = n
        for k, row in enumerate(group, 1):
            end = start + len(row.ids) - n
            ids[i, start:end] = torch.tensor(row.ids[n:])
            positions[i, start:end] = torch.arange(n, len(row.ids))
            branch[i, start:end] = k
            answer = max(end - len(row.completion_ids), start + 1)  # nothing stands before a first token
            targets[i, answer - 1 : end - 1] = ids[i, answer:end]
            start = end
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    same = branch[:, :, None] == branch[:, None, :]
    seen = causal & (same | (branch == 0)[:, None, :])
    mask = torch.zeros(seen.shape, dtype=torch.bfloat16)
    mask.masked_fill_(~seen, torch.finfo(mask.dtype).min)
    return Packed(ids, positions, mask[:, None], targets, branch.clamp_min(0) - 1)


def pack_in_chunks(groups: Sequence[Sequence[Encoded]], chunks: int, *, pad_id: int) -> list[Packed]:
    """Pack groups of like size together, in at most `chunks` parts: less padding, the same rows."""
    order = sorted(
        groups, key=lambda group: sum(len(row.ids) for row in group) - _shared(group) * (len(group) - 1)
    )
    size = -(-len(order) // chunks)
    return [pack(order[i : i + size], pad_id=pad_id) for i in range(0, len(order), size)]


def _shared(group: Sequence[Encoded]) -> int:
    shortest = min(len(row.prompt_ids) - 1 for row in group)
    first = group[0].ids
    for n in range(shortest):
        if any(row.ids[n] != first[n] for row in group):
            return n
    return max(shortest, 0)
