"""The forwards of tree training: what a tree answers, what it decided, and how even its leaves are used."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weft.host import Host
from weft.route import TreeGate, XLora
from weft.route.tree import Scope
from weft.route.tree_losses import balance, counts, hardening
from weft.tasks import Encoded
from weft.tasks.batch import pad_id
from weft.train.answer_logits import AnswerLogits, answer_logits, split_rows
from weft.train.packing import Packed
from weft.types import UNDECIDED, AbstractGate, Assignment, Mixture, Site, State


class _Begun(AbstractGate):
    """A gate that has begun to decide, and what it has decided so far."""

    def __init__(self, gate: AbstractGate, state: State) -> None:
        super().__init__()
        self.gate, self.state = gate, state

    def assign(self, x_BTI: Float[Tensor, "B T I"], site: Site, state: State) -> tuple[Assignment, State]:
        assignment, self.state = self.gate.assign(x_BTI, site, self.state)
        return assignment, self.state


def answer_under(host: Host, mixture: Mixture, packed: Packed) -> tuple[AnswerLogits, State]:
    """Run packed rows under a mixture; also what its first gate decided, if it decides by layer.

    A gate that decides per sequence reads the prompts alone.
    """
    told_BT = (packed.targets_BT >= 0).long()
    prompt_BT = told_BT.cumsum(1) - told_BT == 0  # no target stands before: its line is one row
    first, *others = mixture.terms
    states = host.prepare(packed.ids_BT.to(host.device), mixture, mask_BT=prompt_BT.to(host.device))
    assert isinstance(first.gate, AbstractGate)
    begun = _Begun(first.gate, states.get(first.gate, UNDECIDED))
    said = answer_logits(host, Mixture((replace(first, gate=begun), *others)), packed)
    return said, begun.state


def heard(packed: Packed, scope: Scope) -> Bool[Tensor, "B T"]:
    """The tokens whose decisions count: those that a target follows; one per line for a tree per sequence."""
    if scope == "sequence":
        return torch.ones(len(packed.ids_BT), 1, dtype=torch.bool)
    return (packed.targets_BT >= 0).flip(1).cumsum(1).flip(1) > 0


def watch(gate: AbstractGate, decisions: State, packed: Packed) -> tuple[Tensor, Tensor, Tensor]:
    """Hardening and balance, means over the layers that decide, and the loads [L, K] by hard descent.

    By hard descent the first two carry no gradient. A gate that does not decide by layer has one leaf here.
    """
    zero = torch.zeros((), device=packed.ids_BT.device)
    if not decisions or not isinstance(gate, TreeGate | XLora):
        return zero, zero, torch.ones(1, 1, dtype=torch.long)
    entropy, uneven, load = [], [], []
    for decided in decisions.values():
        logits = decided.logits
        if isinstance(gate, TreeGate):
            logits = logits if gate.descent == "soft" else logits.detach()
            heard_BT = heard(packed, gate.scope).to(logits.device)
            weight_BTK, index_BT = gate.weights_of(logits), gate.leaf_of(logits)
            entropy.append(hardening(logits / gate.temperature, heard_BT))
        else:
            assert isinstance(gate, XLora)
            heard_BT = heard(packed, "token").to(logits.device)
            weight_BTK, index_BT = logits.softmax(-1), logits.argmax(-1)
        uneven.append(balance(weight_BTK, index_BT, heard_BT))
        load.append(counts(index_BT, weight_BTK.shape[-1], heard_BT))
    return torch.stack(entropy or [zero]).mean(), torch.stack(uneven).mean(), torch.stack(load)


def evenness(load_LK: Int[Tensor, "L K"]) -> dict[str, float]:
    """The largest load of a leaf, in units of the mean, and how many leaves got no token."""
    mean_L1 = load_LK.double().mean(1, keepdim=True)
    return {"largest_load": float((load_LK / mean_L1).max()), "dead_leaves": float((load_LK == 0).sum())}


@torch.no_grad()
def measure(
    host: Host, mixture: Mixture, groups: Sequence[Sequence[Encoded]], *, tokens: int
) -> dict[str, float]:
    """What a mixture reaches on rows, by soft and by hard descent, and how evenly the leaves are used.

    Losses are nats per answer token; `gap` is hard over soft loss, less 1; `followed` the share of answers, 0
    to 1, that greedy decoding would give with hard descent; `entropy` that of the turns, in nats.
    `largest_load`, in units of the mean load, and `dead_leaves` are over every layer that decides. A gate
    that is no tree's has one descent, whose loss stands for both.
    """
    gate = mixture.terms[0].gate
    assert isinstance(gate, AbstractGate)
    training = gate.training
    descent = gate.descent if isinstance(gate, TreeGate) else "hard"
    gate.eval()
    loss = {"base": 0.0, "soft": 0.0, "hard": 0.0}
    places = right = rows = 0
    entropy, load_LK = 0.0, torch.zeros(1, 1, dtype=torch.long)
    for packed, *_ in split_rows(groups, tokens=tokens, pad_id=pad_id(host)):
        loss["base"] += float(answer_logits(host, None, packed).nats())
        if isinstance(gate, TreeGate):
            gate.descent = "soft"
            loss["soft"] += float(answer_under(host, mixture, packed)[0].nats())
            gate.descent = "hard"
        said, decisions = answer_under(host, mixture, packed)
        loss["hard"] += float(said.nats())
        turns, _, load = watch(gate, decisions, packed)
        entropy += float(turns) * len(said.targets_N)
        load_LK = load_LK + load
        correct, count = packed.count_right(said.logits_NV, said.targets_N)
        places, right, rows = places + len(said.targets_N), right + correct, rows + count
    gate.train(training)
    if isinstance(gate, TreeGate):
        gate.descent = descent
    else:
        loss["soft"] = loss["hard"]
    return {
        **{f"{kind}/loss": total / places for kind, total in loss.items()},
        "gap": loss["hard"] / loss["soft"] - 1,
        "followed": right / rows,
        "entropy": entropy / places,
        **evenness(load_LK),
    }
