"""Segment-wise teacher forcing: streams are read part by part, each under the adapters that acted then.

    L = CE(parts) + g(t) CE(which adapter, where the library has it) + price * mean P(control | no shift)

The state that a control token is chosen from gives the vector, the vector gives the adapters, and the next
part is read under them, over the cache of the parts before: gradients flow through all three.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from weft.errors import ConfigError
from weft.host import Host
from weft.hyper.shift import Acting, Shift, Shifted
from weft.hyper.shift_controller import NEGLIGIBLE
from weft.tasks.chat import inner_ids, plain_ids
from weft.tasks.streams import Stream
from weft.train.answer_logits import language_model
from weft.types import Bank, Dense, Mixture, Rows, Term


class Pieces(NamedTuple):
    """A stream as token ids: piece 0 is the prompt and the first lead, piece i a part and the next lead."""

    pieces: tuple[tuple[int, ...], ...]
    shifts: tuple[bool, ...]
    """Whether piece i + 1 begins with a control token."""
    wanted: tuple[int, ...]
    """Place of each part's task in the library; the size of the library where it lacks the task."""
    prompt: int
    """How many tokens of piece 0 are the prompt."""
    gap: int = 0
    """Positions that are left out behind the prompt."""


class Told(NamedTuple):
    """What a batch of streams said, as sums over its tokens."""

    loss: Tensor
    """Nats, summed over the tokens of the answers."""
    guide: Tensor
    """Nats, summed over the shifts."""
    spurious: Tensor
    """Probability of a control token where none belongs, summed."""
    tokens: int
    shifts: int
    right: int
    """How many tokens were the likeliest ones."""
    missed: int
    """How many control tokens were not."""


class Judged(NamedTuple):
    """Of some tokens of answers: as in `Told`."""

    loss: Tensor
    spurious: Tensor
    right: int
    missed: int


def encode_stream(
    tokenizer: Any,
    stream: Stream,
    controls: Sequence[int],
    places: dict[str, int],
    *,
    mark: bool = True,
    gap: int = 0,
) -> Pieces:
    """Token ids of a stream. One control token marks every shift; of several, the one of the part's task.

    Without `mark` no control token stands in the pieces. A stream that is cut ends with the lead that
    follows. Raises ConfigError for a control token that its text holds.
    """
    size = len(places)
    wanted = tuple(places.get(part.task, size) for part in stream.parts)
    prompt = plain_ids(tokenizer, stream.prompt)
    pieces = [prompt + inner_ids(tokenizer, stream.parts[0].lead)]
    for i, (part, shift) in enumerate(zip(stream.parts, stream.shifts, strict=True)):
        control = [controls[wanted[i] if len(controls) > 1 else 0]] if shift and mark else []
        lead = stream.parts[i + 1].lead if i + 1 < len(stream.parts) else stream.following
        after = inner_ids(tokenizer, lead) if lead else [tokenizer.eos_token_id]
        pieces.append(control + inner_ids(tokenizer, part.text) + after)
    marks = sum(stream.shifts) if mark else 0
    if sum(token_id in controls for piece in pieces for token_id in piece) != marks:
        written = next(i for i in controls if i in [*pieces[0], *(i for p in pieces[1:] for i in p[1:])])
        raise ConfigError(
            f"control token {written} is {tokenizer.decode([written])!r}, which texts of the streams hold; "
            "choose an id that the tokenizer does not use"
        )
    return Pieces(tuple(map(tuple, pieces)), stream.shifts, wanted, len(prompt), gap)


def read_streams(
    host: Host,
    batch: Sequence[Pieces],
    speaker: Bank,
    network: Shift | None,
    library: Bank | None,
    controls: Sequence[int],
    *,
    beside: Mixture | None = None,
) -> Told:
    """Read a batch under its own shifts; differentiable.

    Without a network, the library's adapter of each part's task acts, or none where it lacks the task.
    What is `beside` the speaker acts throughout, as the speaker does. Behind the prompt of a stream with a
    gap positions go on further up, as if parts that are not there stood between.
    """
    rows, device = len(batch), host.device
    always = Mixture.of(speaker) + (beside or Mixture())
    mixture = always
    cache = DynamicCache(config=language_model(host).config)
    seen_BT = torch.zeros(rows, 0, dtype=torch.long, device=device)
    gap_B1, prompt_B1 = torch.tensor([[(p.gap, p.prompt)] for p in batch], device=device).unbind(-1)
    acting = network.nothing(rows) if network is not None else None
    deltas: list[tuple[Bank, Tensor]] = []
    zero = torch.zeros((), device=device)
    loss, guide, spurious = zero, zero, zero
    tokens = shifts = right = missed = 0
    hidden_BH: Tensor | None = None
    for step in range(max(len(pieces.pieces) for pieces in batch)):
        shift_B = torch.tensor(
            [0 < step < len(p.pieces) and p.shifts[step - 1] for p in batch], device=device
        )
        shifts += int(shift_B.sum())
        if step and network is not None and acting is not None and hidden_BH is not None:
            wanted_B = torch.tensor([p.wanted[min(step, len(p.wanted)) - 1] for p in batch], device=device)
            shifted, acting, nats = follow(network, hidden_BH, acting, shift_B, wanted_B)
            guide = guide + nats
            decay_B = torch.where(shift_B, shifted.decay_B, 1.0)
            deltas = [(bank, weight_B * decay_B) for bank, weight_B in deltas]
            deltas = [
                (bank, weight_B) for bank, weight_B in deltas if float(weight_B.detach().max()) >= NEGLIGIBLE
            ]
            if shifted.delta is not None:
                deltas.append((shifted.delta, torch.where(shift_B, shifted.amount_B, 0.0)))
            mixture = _mixture(always, acting, library, deltas)
        elif step and library is not None:
            index_B = torch.tensor([p.wanted[min(step, len(p.wanted)) - 1] for p in batch], device=device)
            mixture = always + Mixture(
                (Term(library, Rows(torch.where(index_B < len(library), index_B, -1))),)
            )
        ids_BT, target_BT, fresh_BT = _columns(batch, step, device)
        seen_BT = torch.cat([seen_BT, fresh_BT], 1)
        places_BT = (seen_BT.cumsum(1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
        positions_BT = places_BT + gap_B1 * (places_BT >= prompt_B1)
        with head_input(language_model(host)) as heard:
            said = host(ids_BT, mixture, mask_BT=seen_BT, cache=cache, position_ids=positions_BT)
        last_B = fresh_BT.sum(1) - 1
        here_BH = heard[0][torch.arange(rows, device=device), last_B.clamp(min=0)]
        hidden_BH = here_BH if hidden_BH is None else torch.where((last_B >= 0)[:, None], here_BH, hidden_BH)
        chosen_BT = target_BT >= 0
        here = judge(said.logits[chosen_BT].float(), target_BT[chosen_BT], controls)
        loss, spurious = loss + here.loss, spurious + here.spurious
        right, missed = right + here.right, missed + here.missed
        tokens += int(chosen_BT.sum())
    return Told(loss, guide, spurious, tokens, shifts, right, missed)


def follow(
    network: Shift, hidden_BH: Tensor, acting: Acting, shift_B: Tensor, wanted_B: Tensor
) -> tuple[Shifted, Acting, Tensor]:
    """A shift of the rows that have one: what it does, what acts then, and the nats of the right adapters.

    `wanted_B` are places in the library; those that the network cannot choose are not judged.
    """
    shifted = network(network.vector(hidden_BH), acting)
    acting = Acting(
        *(torch.where(shift_B[:, None], new, old) for new, old in zip(shifted.acting, acting, strict=True))
    )
    known_B = shift_B & (wanted_B < shifted.logits_BN.shape[1])
    if not network.count or not known_B.any():
        return shifted, acting, torch.zeros((), device=hidden_BH.device)
    return (
        shifted,
        acting,
        F.cross_entropy(shifted.logits_BN[known_B], wanted_B[known_B], reduction="sum"),
    )


def judge(logits_NV: Tensor, target_N: Tensor, controls: Sequence[int]) -> Judged:
    """What the logits of the tokens of answers are worth, summed over the tokens."""
    best_N = logits_NV.argmax(-1)
    control_N = torch.isin(target_N, torch.tensor(controls, dtype=torch.long, device=target_N.device))
    chance_N = logits_NV.softmax(-1)[:, list(controls)].sum(-1)
    return Judged(
        F.cross_entropy(logits_NV, target_N, reduction="sum"),
        chance_N[~control_N].sum(),
        int((best_N == target_N).sum()),
        int((best_N != target_N)[control_N].sum()),
    )


def _mixture(
    always: Mixture, acting: Acting, library: Bank | None, deltas: Sequence[tuple[Bank, Tensor]]
) -> Mixture:
    """The speaker, the library under every row's weights, and every row's deltas side by side."""
    mixture = always
    if library is not None and acting.weight_BK.shape[1]:
        mixture = mixture + Mixture((Term(library, Dense(acting.weight_BK)),))
    if deltas:
        first, _ = deltas[0]
        bank = Bank(
            first.names,
            {site: torch.cat([one.a[site] for one, _ in deltas], 1) for site in first.a},
            {
                site: torch.cat([one.b[site] * w_B[:, None, None] for one, w_B in deltas], 2)
                for site in first.b
            },
        )
        rows = torch.arange(len(bank), device=acting.weight_BK.device)
        mixture = mixture + Mixture((Term(bank, Rows(rows)),))
    return mixture


def _columns(batch: Sequence[Pieces], step: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of a step, those after them where they belong to the answer (else -1), and which are real."""
    pieces = [p.pieces[step] if step < len(p.pieces) else () for p in batch]
    width = max(map(len, pieces))
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    target = torch.full_like(ids, -1)
    fresh = torch.zeros_like(ids)
    for row, (all_of, piece) in enumerate(zip(batch, pieces, strict=True)):
        nxt = all_of.pieces[step + 1][:1] if step + 1 < len(all_of.pieces) else ()
        following = [*piece[1:], *nxt]
        ids[row, : len(piece)] = torch.tensor(piece, dtype=torch.long)
        fresh[row, : len(piece)] = 1
        target[row, : len(following)] = torch.tensor(following, dtype=torch.long)
        if step == 0:
            target[row, : all_of.prompt - 1] = -1
    return ids.to(device), target.to(device), fresh.to(device)


@contextmanager
def head_input(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what the output head reads: the states that tokens are chosen from."""
    heard: list[Tensor] = []
    handle = module.get_output_embeddings().register_forward_pre_hook(  # pyright: ignore
        lambda _, inputs: heard.append(inputs[0])
    )
    try:
        yield heard
    finally:
        handle.remove()
