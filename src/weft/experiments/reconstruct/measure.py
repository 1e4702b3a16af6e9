"""What `weft experiment reconstruct` measures: networks that write down some of a library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from weft.engine import Engine
from weft.errors import ConfigError
from weft.evaluate.specialists import Specialists, load_specialists, score_rows
from weft.experiments.reconstruct.recipe import Cue, ReconstructionRecipe
from weft.files import nearest
from weft.host import Host
from weft.hyper import HyperNetwork
from weft.reading import read_json_lines
from weft.train.reconstruct import ReconstructRecipe, train_reconstruct
from weft.train.run import RunConfig
from weft.types import Bank, Description, Mixture

ORACLE = "the library itself"


@dataclass(frozen=True, slots=True)
class Written:
    """What one network keeps of the first so many adapters."""

    network: str
    cue: str
    count: int
    parameters: int
    error: float
    """|| made - wanted ||^2 / || wanted ||^2 of the deltas, in the last line of the training's log."""
    right: float
    """Exact match on test rows, under the adapters made from the main description, or the name."""
    unseen: float | None
    """The same from a wording that no training saw; None where there is none, and for names."""
    oracle: float
    """The same under the library's own adapters."""
    of: int
    """How many adapters the library has."""

    @property
    def kept(self) -> float:
        """Share of the library's score."""
        return self.right / self.oracle if self.oracle else 0.0


def measure_reconstruction(
    recipe: ReconstructionRecipe, tell: Callable[[str], None] = lambda _: None
) -> list[Written]:
    """Train and score every network. Raises ConfigError for unknown networks or too few adapters."""
    host = Host.from_pretrained(recipe.base, dtype="float32")
    library = load_specialists(recipe.library, recipe.data, host)
    for name in recipe.one_hot or ():
        if name not in recipe.networks:
            raise ConfigError(f"one_hot: no network {name!r}{nearest(name, recipe.networks)}")
    if max(recipe.counts) > len(library):
        raise ConfigError(f"{max(recipe.counts)} adapters are asked for, {recipe.library} has {len(library)}")
    engine = Engine(host)
    found = []
    for count in sorted(recipe.counts):
        part = library.take(range(count))
        oracle = _right(recipe, engine, part, part.stack())
        for name in recipe.networks:
            for cue in recipe.cues:
                if cue == "one-hot" and recipe.one_hot is not None and name not in recipe.one_hot:
                    continue
                tell(f"{count} adapters, {name}, {cue}")
                folder = _train(recipe, host, part, name, cue)
                hyper = HyperNetwork.from_pretrained(folder, host=host)
                main = [task.name if cue == "one-hot" else task.descriptions[0] for task in part.tasks]
                unseen = None
                if cue == "text" and all(task.unseen_descriptions for task in part.tasks):
                    texts = [task.unseen_descriptions[0] for task in part.tasks]
                    unseen = _right(recipe, engine, part, _bank(hyper, texts))
                *_, (_, last) = read_json_lines(folder.parent / "metrics.jsonl")
                size = sum(parameter.numel() for parameter in hyper.network.parameters())
                right = _right(recipe, engine, part, _bank(hyper, main))
                error, held = float(last["error"]), len(library)
                found.append(Written(name, cue, count, size, error, right, unseen, oracle, held))
    return found


def _train(recipe: ReconstructionRecipe, host: Host, part: Specialists, name: str, cue: Cue) -> Path:
    names = [task.name for task in part.tasks]
    asked = ReconstructRecipe(
        run=RunConfig(
            output_dir=str(Path(recipe.output_dir) / f"{len(part)}-{name}-{cue}"),
            seed=recipe.seed,
            max_steps=recipe.steps,
            logging_steps=max(recipe.steps // 10, 1),
            save_steps=recipe.steps,
        ),
        base=recipe.base,
        data=recipe.data,
        library=recipe.library,
        tasks=len(part),
        encoder=recipe.encoder if cue == "text" else {"kind": "onehot", "names": names},  # pyright: ignore[reportArgumentType]
        encoder_cache=recipe.encoder_cache,
        network=recipe.networks[name],
        objective=recipe.objective,
        optimizer=recipe.optimizer,
        tasks_per_batch=recipe.tasks_per_batch,
        name=f"{name}-{cue}",
    )
    return train_reconstruct(asked, host=host)


def _bank(hyper: HyperNetwork, texts: Sequence[str]) -> Bank:
    with torch.no_grad():
        return hyper.generate([Description(text) for text in texts])


def _right(recipe: ReconstructionRecipe, engine: Engine, part: Specialists, bank: Bank) -> float:
    """Mean over tasks of the share of test rows that are right."""
    rows = [(k, row) for k, task in enumerate(part.tasks) for row in task.test[: recipe.rows_per_task]]
    scores_NX = score_rows(
        engine,
        [row for _, row in rows],
        Mixture.rows(bank, [k for k, _ in rows]),
        max_new_tokens=recipe.max_new_tokens,
    )
    tasks_N = np.array([k for k, _ in rows])
    return float(np.mean([scores_NX[tasks_N == k, 0].mean() for k in range(len(part))]))
