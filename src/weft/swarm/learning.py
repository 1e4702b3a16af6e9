"""Whole sequences through the layers of a stage, forward and backward, for training.

A stage keeps nothing between the two: in the backward it computes its layers again from the states that it is
given, as a checkpointed network does (Chen et al. 2016, arXiv 1604.06174), and returns the gradients of the
states and of A and B. So a call may be repeated by any worker that has the layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weft.errors import MessageError
from weft.swarm.message import Message
from weft.swarm.part import Part
from weft.swarm.things import Thing, to_assignment, to_bank
from weft.types import Bank, Rows, Site, Term


def token_ids(part: Part, call: Message) -> Tensor:
    """The ids of a call to the first stage. Raises MessageError for others than the vocabulary has."""
    x = call.tensor("ids", 2)
    if x.dtype != torch.long or not x.numel() or x.min() < 0 or x.max() >= part.vocab_size:
        raise MessageError(f"token ids are whole numbers below {part.vocab_size}")
    return x


@torch.no_grad()
def read(part: Part, call: Message) -> Message:
    """States behind this stage, or the logits of the last one. Raises MessageError for an unfit call."""
    x, terms = _input(part, call), _terms(part, call)
    return Message({}, {"y": _run(part, call, x, terms)})


def backward(part: Part, call: Message) -> Message:
    """Gradients of what `read` was given: "x" where it was states, and "a0", "b0", ... of every term.

    Raises MessageError for an unfit call.
    """
    x, terms = _input(part, call), _terms(part, call)
    wanted = {} if part.is_first else {"x": x.requires_grad_()}
    for n, term in enumerate(terms):
        for i, site in enumerate(_sites(term.bank)):
            wanted[f"{n}.a{i}"] = term.bank.a[site].requires_grad_()
            wanted[f"{n}.b{i}"] = term.bank.b[site].requires_grad_()
    if not wanted:
        return Message({}, {})
    with torch.enable_grad():
        y = _run(part, call, x, terms)
    grad = call.tensors.get("grad")
    if grad is None or grad.shape != y.shape or grad.dtype != y.dtype:
        raise MessageError("a backward brings the gradient of what was said")
    found = torch.autograd.grad(y, list(wanted.values()), grad.to(y.device), allow_unused=True)
    named = zip(wanted, found, strict=True)
    return Message({}, {name: torch.zeros_like(wanted[name]) if g is None else g for name, g in named})


def _input(part: Part, call: Message) -> Tensor:
    if part.is_first:
        return token_ids(part, call).to(part.device)
    x = call.tensor("x", 3)
    if x.dtype != part.dtype or x.shape[2] != part.hidden or not x.numel():
        raise MessageError(f"states are {part.dtype} of {part.hidden} features")
    return x.to(part.device)


def _run(part: Part, call: Message, x: Tensor, terms: Sequence[Term]) -> Tensor:
    rows, tokens = x.shape[:2]
    positions_BT, mask_B1TT = call.tensor("positions", 2), call.tensors.get("mask")
    chosen_BT = call.tensors.get("chosen")
    if positions_BT.shape != (rows, tokens) or positions_BT.dtype != torch.long:
        raise MessageError("every token has a position")
    if mask_B1TT is not None and mask_B1TT.shape != (rows, 1, tokens, tokens):
        raise MessageError("a mask says of every token which it sees")
    if chosen_BT is not None and (chosen_BT.shape != (rows, tokens) or chosen_BT.dtype != torch.bool):
        raise MessageError("what is chosen is yes or no for every token")
    return part.read(
        x,
        terms,
        mask_B1TT=None if mask_B1TT is None else mask_B1TT.to(part.device),
        positions_BT=positions_BT.to(part.device),
        chosen_BT=None if chosen_BT is None else chosen_BT.to(part.device),
    )


def _terms(part: Part, call: Message) -> list[Term]:
    """The terms of a call: banks with their tensors, each under an assignment."""
    terms = []
    for n, entry in enumerate(call.list("terms")):
        if not (isinstance(entry, dict) and entry.get("combine") in ("sum", "average")):
            raise MessageError("a term says how its adapters join")
        start = f"{n}."
        own = {name.removeprefix(start): t for name, t in call.tensors.items() if name.startswith(start)}
        bank = to_bank(Thing("bank", entry, own)).to(part.device)
        unknown = {site.path for site in bank.a} - {site.path for site in part.sites}
        if unknown:
            raise MessageError(f"a term changes {min(unknown)!r:.80}, which is no site here")
        assignment = to_assignment(Thing("assignment", {"kind": entry.get("kind")}, own))
        if isinstance(assignment, Rows):
            assignment = Rows(assignment.index_B.to(part.device))
        terms.append(Term(bank, assignment, entry["combine"]))
    return terms


def _sites(bank: Bank) -> Sequence[Site]:
    """In the order in which they came."""
    return list(bank.a)
