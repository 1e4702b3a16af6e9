"""The forwards of tree training: what a tree answers, what it decided, and how even its leaves are used."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weft.host import Host
from weft.route import Tree, TreeGate
from weft.route.place import Decisions
from weft.route.tree_losses import counts, hardening
from weft.tasks import Encoded
from weft.train.answers import Answers, answer, split_rows
from weft.train.packing import Packed
from weft.types import AbstractGate, Assignment, Mixture, Site


class _Begun(AbstractGate):
    """A gate that has decided already."""

    def __init__(self, gate: AbstractGate, state: Any) -> None:
        super().__init__()
        self.gate, self.state = gate, state

    def assign(self, x_BTI: Float[Tensor, "B T I"], site: Site, state: Any) -> Assignment:
        return self.gate.assign(x_BTI, site, self.state)


def answer_under(host: Host, tree: Tree, packed: Packed) -> tuple[Answers, Decisions]:
    """Run packed rows under a tree; also what it decided. A tree per sequence reads the prompts alone."""
    told_BT = (packed.targets_BT >= 0).long()
    prompt_BT = told_BT.cumsum(1) - told_BT == 0  # no target stands before: its line is one row
    mixture = tree.mixture
    states = host.prepare(packed.ids_BT.to(host.device), mixture, mask_BT=prompt_BT.to(host.device))
    decisions: Decisions = states[tree.gate]
    leaves, *shared = mixture.terms
    begun = Mixture((replace(leaves, gate=_Begun(tree.gate, decisions)), *shared))
    return answer(host, begun, packed), decisions


def heard(packed: Packed, gate: TreeGate) -> Bool[Tensor, "B T"]:
    """The tokens whose decisions count: those that a target follows; one per line for a tree per sequence."""
    if gate.scope == "sequence":
        return torch.ones(len(packed.ids_BT), 1, dtype=torch.bool)
    return (packed.targets_BT >= 0).flip(1).cumsum(1).flip(1) > 0


def loads(gate: TreeGate, decisions: Decisions, heard_BT: Tensor) -> Int[Tensor, "L K"]:
    """Tokens of every leaf by hard descent, for each layer that decides."""
    return torch.stack(
        [counts(gate.leaf_of(d.logits), len(gate.leaves), heard_BT) for d in decisions.values()]
    )


def evenness(load_LK: Int[Tensor, "L K"]) -> dict[str, float]:
    """The largest load of a leaf, in units of the mean, and how many leaves got no token."""
    mean_L1 = load_LK.double().mean(1, keepdim=True)
    return {"largest_load": float((load_LK / mean_L1).max()), "dead_leaves": float((load_LK == 0).sum())}


@torch.no_grad()
def measure(host: Host, tree: Tree, groups: Sequence[Sequence[Encoded]], *, tokens: int) -> dict[str, float]:
    """What a tree reaches on rows, by soft and by hard descent, and how evenly hard descent uses its leaves.

    Losses are nats per answer token; `gap` is hard over soft loss, less 1; `followed` the share of answers, 0
    to 1, that greedy decoding would give with hard descent; `entropy` that of the turns, in nats.
    `largest_load`, in units of the mean load, and `dead_leaves` are over every layer that decides.
    """
    gate, loss = tree.gate, {"base": 0.0, "soft": 0.0, "hard": 0.0}
    training, descent = gate.training, gate.descent
    gate.eval()
    places = right = rows = entropy = weight = 0
    load_LK: Tensor | int = 0
    for packed, *_ in split_rows(groups, tokens=tokens, pad_id=pad_id(host)):
        said = answer(host, None, packed)
        loss["base"] += _summed(said)
        for kind in ("soft", "hard"):
            gate.descent = kind
            said, decisions = answer_under(host, tree, packed)
            loss[kind] += _summed(said)
        heard_BT = heard(packed, gate).to(host.device)
        entropy += sum(float(hardening(d.logits, heard_BT)) for d in decisions.values()) * int(heard_BT.sum())
        weight += len(decisions) * int(heard_BT.sum())
        load_LK = load_LK + loads(gate, decisions, heard_BT)
        correct, count = packed.count_right(said.logits_NV, said.targets_N)
        places, right, rows = places + len(said.targets_N), right + correct, rows + count
    gate.train(training)
    gate.descent = descent
    return {
        **{f"{kind}/loss": total / places for kind, total in loss.items()},
        "gap": loss["hard"] / loss["soft"] - 1,
        "followed": right / rows,
        "entropy": entropy / weight,
        **evenness(torch.as_tensor(load_LK)),
    }


def _summed(said: Answers) -> float:
    return float(F.cross_entropy(said.logits_NV.float(), said.targets_N, reduction="sum"))


def pad_id(host: Host) -> int:
    """The token that fills lines."""
    # Padding is masked, so any token does where a tokenizer has none for it.
    return host.tokenizer.pad_token_id or 0
