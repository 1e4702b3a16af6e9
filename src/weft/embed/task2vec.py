"""Task2Vec: a task is what a fixed network would have to keep in order to solve it.

Achille et al. 2019, "Task2Vec: Task Embedding for Meta-Learning" (arXiv 1902.03545), sections 3 and 4:

    F_o = mean over inputs i of F_oi        F: diagonal Fisher of the probe's weights, labels y ~ p(y | x)
    d(a, b) = 1 - cos( F_a / (F_a + F_b), F_b / (F_a + F_b) )                        symmetric, in [0, 1]
    d(a -> b) = d(a, b) - alpha * d(a, trivial)                                      a source, b target

An output neuron of a linear site is what a filter is in the paper. d does not see the scale of the whole.

Departs from the paper in: an example predicts many tokens, each a label of its own; no head is fitted, since
a language model has one (a mixture can be the fitted part); gradients are squared for each example, where
the published code squares the mean over a batch; the trivial task has the mean of F_a at every neuron.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from weft.errors import ConfigError, CueError, ShapeError
from weft.host import Host
from weft.host.fisher import fisher_diagonal
from weft.tasks import Row, collate, render
from weft.tasks.batch import pad_id
from weft.types import AbstractEncoder, Cue, Examples, Mixture, Site


def task2vec(
    host: Host,
    rows: Sequence[Row],
    *,
    mixture: Mixture | None = None,
    samples: int = 1,
    seed: int = 0,
    sites: Sequence[Site] | None = None,
    batch_size: int = 16,
) -> Float[Tensor, " D"]:
    """Fisher of every output neuron of the sites, in their order, on a task's rows; D is their number.

    The probe is the base, under `mixture` where given. The completions only say where the model predicts, and
    what came before. Holds one float32 copy of the sites' weights. Raises ConfigError for a base without
    tokenizer and what `fisher_diagonal` refuses, ShapeError for no rows, PromptTooLongError.
    """
    if host.tokenizer is None:
        raise ConfigError("the base has no tokenizer to read rows with")
    if not rows or batch_size < 1:
        raise ShapeError(f"{len(rows)} rows in batches of {batch_size}; need at least one of both")
    encoded = [render(host.tokenizer, row, max_length=host.window) for row in rows]
    batches = [
        collate(encoded[i : i + batch_size], pad_id=pad_id(host)) for i in range(0, len(encoded), batch_size)
    ]
    found = fisher_diagonal(host, mixture, batches, samples=samples, seed=seed, sites=sites)
    return torch.cat([f_OI.mean(1) for f_OI in found.values()])


def distances(f_QD: Float[Tensor, "Q D"], f_KD: Float[Tensor, "K _"]) -> Float[Tensor, "Q K"]:
    """Symmetric distance of every two tasks, 0 for equal ones; a neuron that neither uses counts for nothing.

    Float64, on the CPU. Raises ShapeError for NaN, negative numbers, or a Fisher that is zero everywhere.
    """
    f_QD, f_KD = _checked(f_QD), _checked(f_KD)
    if f_QD.shape[1] != f_KD.shape[1]:
        raise ShapeError(
            f"tasks of {f_QD.shape[1]} and of {f_KD.shape[1]} neurons; use one base and its sites"
        )
    return torch.stack([_distance(f_D, f_KD) for f_D in f_QD])


def _distance(f_D: Tensor, f_KD: Tensor) -> Float[Tensor, " K"]:
    both_KD = f_D + f_KD
    both_KD = torch.where(both_KD > 0, both_KD, 1.0)
    return 1 - torch.cosine_similarity(f_D / both_KD, f_KD / both_KD, dim=-1, eps=0.0).clamp(max=1.0)


def _checked(f_BD: Tensor) -> Tensor:
    f_BD = f_BD.double().cpu()
    wrong = ~torch.isfinite(f_BD).all(1) | (f_BD < 0).any(1) | (f_BD == 0).all(1)
    if wrong.any():
        raise ShapeError(
            f"task {int(wrong.nonzero()[0])} has a Fisher that is negative, not finite, or zero everywhere"
        )
    return f_BD


class Task2Vec(AbstractEncoder):
    """`task2vec` of the bare base as an encoder of `Examples`: one forward and backward over their pairs.

    Compare its vectors with `distances`; cosine sees little but what all tasks share. Frozen, float32. Raises
    ConfigError for a base without tokenizer or `samples` below 1.
    """

    def __init__(self, host: Host, *, samples: int = 1, seed: int = 0) -> None:
        super().__init__()
        if host.tokenizer is None or samples < 1:
            raise ConfigError(f"Task2Vec needs a base with a tokenizer and 1 sample or more, got {samples}")
        # In a tuple, so that it is no part of the state: the base follows no train() or state_dict().
        self._frozen = (host,)
        self.samples = samples
        self.seed = seed
        self.dim = sum(site.out_features for site in host.sites)

    @property
    def identity(self) -> str:
        """Kind, the base's fingerprint, its sites and the draws."""
        host = self._frozen[0]
        sites = hashlib.sha256("\n".join(site.path for site in host.sites).encode()).hexdigest()[:16]
        return f"task2vec:{host.fingerprint}:{sites}:{self.samples}:{self.seed}"

    def config(self) -> dict[str, Any]:
        """Kind, the base's name, and the draws."""
        base = self._frozen[0].name
        return {"kind": "task2vec", "base": base, "samples": self.samples, "seed": self.seed}

    def encode(self, cues: Sequence[Cue]) -> Float[Tensor, "B D"]:
        """One vector per cue, on the base's device. Raises CueError for another kind, or for no pairs."""
        for cue in cues:
            if not isinstance(cue, Examples) or not cue.pairs:
                raise CueError(f"Task2Vec reads examples with at least one pair, got {cue!r:.80}")
        host = self._frozen[0]
        vectors = [
            task2vec(host, [Row(*pair) for pair in cue.pairs], samples=self.samples, seed=self.seed)
            for cue in cues
            if isinstance(cue, Examples)
        ]
        return torch.stack(vectors) if vectors else torch.zeros(0, self.dim, device=host.device)
