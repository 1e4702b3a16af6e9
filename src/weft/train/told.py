"""Streams read in one forward, under adapters that are known beforehand.

While the library's adapters are told, nothing of a part depends on what the network makes of the part before
it: all parts run at once, and the network learns from the states that control tokens are chosen from,

    L = CE(parts) + g(t) CE(which adapter) + price * mean P(control | no shift)

which is what `train/streams.py` gives once the network blends as it is told, for less: one forward of many
tokens in place of one per part, and no logits of the prompt. Without a library nothing acts but the speaker:
the form that a single adapter for all tasks is trained in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from weft.host import Host
from weft.hyper.shift import Shift
from weft.train.answer_logits import language_model
from weft.train.streams import Pieces, Told, follow, head_input, judge
from weft.types import Bank, Mixture, Term, Tokens


def read_told(
    host: Host,
    batch: Sequence[Pieces],
    speaker: Bank,
    network: Shift | None,
    library: Bank | None,
    controls: Sequence[int],
    *,
    beside: Mixture | None = None,
) -> Told:
    """Read a batch, each part under the library's adapter of its task where it holds it; differentiable.

    What is `beside` the speaker acts throughout, as the speaker does.
    """
    rows, device = len(batch), host.device
    flat = [[i for piece in p.pieces for i in piece] for p in batch]
    width = max(map(len, flat))
    first = 0 if library is not None and _in_head(host, library) else min(p.prompt for p in batch) - 1
    ids_BT = torch.zeros(rows, width, dtype=torch.long)
    mask_BT, target_BT = torch.zeros_like(ids_BT), torch.full_like(ids_BT, -1)
    index_BT, skip_BT = torch.full_like(ids_BT, -1), torch.zeros_like(ids_BT)
    for row, (p, ids) in enumerate(zip(batch, flat, strict=True)):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        mask_BT[row, : len(ids)] = 1
        target_BT[row, p.prompt - 1 : len(ids) - 1] = torch.tensor(ids[p.prompt :])
        skip_BT[row, p.prompt :] = p.gap
        for start, piece, wanted in zip(_starts(p), p.pieces[1:], p.wanted, strict=True):
            if library is not None and wanted < len(library):
                index_BT[row, start : start + len(piece)] = wanted
    mixture = Mixture.of(speaker) + (beside or Mixture())
    if library is not None:
        mixture = mixture + Mixture((Term(library, Tokens(index_BT.to(device))),))
    with head_input(language_model(host)) as heard:
        said = host(
            ids_BT.to(device),
            mixture,
            mask_BT=mask_BT.to(device),
            position_ids=((mask_BT.cumsum(1) - 1).clamp(min=0) + skip_BT).to(device),
            logits_to_keep=torch.arange(first, width, device=device),
        )
    kept_BT = target_BT[:, first:].to(device)
    chosen_BT = kept_BT >= 0
    here = judge(said.logits[chosen_BT].float(), kept_BT[chosen_BT], controls)
    return Told(
        here.loss,
        torch.zeros((), device=device) if network is None else _guide(network, batch, heard[0], first),
        here.spurious,
        int(chosen_BT.sum()),
        sum(sum(p.shifts) for p in batch),
        here.right,
        here.missed,
    )


def _in_head(host: Host, library: Bank) -> bool:
    """Whether a library acts on the output head, which then has to see every token."""
    head = language_model(host).get_output_embeddings()
    return any(host.module.get_submodule(site.path) is head for site in library.sites)


def _guide(network: Shift, batch: Sequence[Pieces], hidden_BTH: torch.Tensor, first: int) -> torch.Tensor:
    """Nats of the right adapters, summed over the shifts to those that the library has."""
    device = hidden_BTH.device
    total = torch.zeros((), device=device)
    acting = network.nothing(len(batch))
    for part in range(max(len(p.wanted) for p in batch)):
        places = [_starts(p)[min(part, len(p.wanted) - 1)] - 1 - first for p in batch]
        shift_B = torch.tensor([part < len(p.wanted) and p.shifts[part] for p in batch], device=device)
        wanted_B = torch.tensor([p.wanted[min(part, len(p.wanted) - 1)] for p in batch], device=device)
        hidden_BH = hidden_BTH[torch.arange(len(batch), device=device), torch.tensor(places, device=device)]
        _, acting, nats = follow(network, hidden_BH, acting, shift_B, wanted_B)
        total = total + nats
    return total


def _starts(pieces: Pieces) -> list[int]:
    """Where the piece of every part begins."""
    starts = [len(pieces.pieces[0])]
    for piece in pieces.pieces[1:-1]:
        starts.append(starts[-1] + len(piece))
    return starts
