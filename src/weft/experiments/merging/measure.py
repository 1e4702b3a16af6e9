"""How many adapters a merge carries: random sets of a library, merged by every method, against routing.

A set of n adapters is merged into one, and that one answers test rows of all n tasks. Beside it stand the
base, each task's own adapter (what a perfect router keeps), and the adapter, out of the same n, whose
descriptions lie nearest to an unseen wording of the task.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from weft.engine import Engine
from weft.errors import ConfigError, SaveError
from weft.evaluate.specialists import Specialists, load_specialists, open_encoder, score_rows
from weft.evaluate.statistics import STATISTICS, learn
from weft.experiments.merging.recipe import MergingRecipe
from weft.files import nearest, replace_file, to_json
from weft.host import Host
from weft.merging import merge, options_of
from weft.route import Nearest
from weft.tasks import Task, shuffled
from weft.train.kept import lock_folder
from weft.types import Mixture, Site

BASE, OWN, ROUTED = "base", "own adapter", "routed"
REFERENCES = (BASE, OWN, ROUTED)
"""What stands beside the merges."""


@dataclass(frozen=True, slots=True)
class SetScores:
    """Scores of one way to answer on one set."""

    size: int
    draw: int
    way: str
    right: tuple[float, ...]
    """Per task of the set, the share of its rows that is right."""
    loss: tuple[float, ...]
    """Per task, nats per answer token."""


def measure_merging(
    recipe: MergingRecipe, progress: Callable[[str], None] = lambda _: None
) -> list[SetScores]:
    """Measure every method on every set; what an earlier run has measured is read, not measured again.

    Raises ConfigError for an unknown option, sets larger than the library or an `output_dir` of another
    recipe or that another run holds, SaveError when the disk refuses, and what loading raises.
    """
    for name, method in recipe.methods.items():
        known = options_of(method.method)
        for option in method.options.keys() - known.keys():
            raise ConfigError(f"{name}: {method.method} has no option {option}{nearest(option, known)}")
        if name in REFERENCES:
            raise ConfigError(f"{name} is the name of a reference; call the method something else")
    lock = lock_folder(Path(recipe.output_dir))
    try:
        return _measure(recipe, progress)
    finally:
        os.close(lock)


def _measure(recipe: MergingRecipe, progress: Callable[[str], None]) -> list[SetScores]:
    host = Host.from_pretrained(recipe.base, dtype=recipe.dtype, device=recipe.device)
    library = load_specialists(recipe.library, recipe.data, host)
    if max(recipe.sets, default=1) > len(library):
        raise ConfigError(f"a set of {max(recipe.sets)} adapters, the library has {len(library)}")
    file = Path(recipe.output_dir) / "scores.jsonl"
    done = {(found.size, found.draw, found.way): found for found in _resume(file, recipe)}
    router = _router(recipe, host, library)
    learn = cache(lambda k, kind: _learn(recipe, host, library, k, kind))
    found = []
    for size, draws in sorted(recipe.sets.items()):
        for draw in range(draws):
            chosen = draw_set(len(library), size, f"{recipe.seed}/{size}/{draw}")
            for way in (*REFERENCES, *recipe.methods):
                if way in recipe.methods and recipe.methods[way].method == "slerp" and size != 2:
                    continue  # it is defined for two
                if (size, draw, way) not in done:
                    progress(f"{size} adapters, set {draw + 1} of {draws}: {way}")
                    mixture = _mixture(recipe, way, library, chosen, router, learn)
                    scores = _score(recipe, Engine(host), library.take(chosen), mixture, (size, draw, way))
                    _append(file, scores)
                    done[size, draw, way] = scores
                found.append(done[size, draw, way])
    return found


def draw_set(count: int, size: int, key: str) -> list[int]:
    """`size` of `count` places, in order, drawn by `key`."""
    return sorted(shuffled(count, key)[:size])


def _mixture(
    recipe: MergingRecipe,
    way: str,
    library: Specialists,
    chosen: Sequence[int],
    router: Nearest,
    learn: Callable[[int, str], Mapping[Site, Any]],
) -> Mixture | None:
    """One row for all, or one for each row of the set's tasks."""
    part = library.take(chosen)
    each = recipe.rows_per_task
    if way == BASE:
        return None
    if way == OWN:
        return Mixture.rows(part.stack(), [k for k in range(len(part)) for _ in range(each)])
    if way == ROUTED:
        names = [task.name for task in part.tasks]
        best = [
            router.rank((task.unseen_descriptions or task.descriptions)[0], names)[0][0]
            for task in part.tasks
        ]
        return Mixture.rows(part.stack(), [names.index(name) for name in best for _ in range(each)])
    method = recipe.methods[way]
    kinds = STATISTICS.keys() & options_of(method.method).keys()
    learned = {kind: [learn(k, kind) for k in chosen] for kind in kinds}
    weights = None if method.weight is None else [method.weight] * len(part)
    return Mixture.of(merge(method.method, part.adapters, weights=weights, **method.options, **learned))


def _score(
    recipe: MergingRecipe,
    engine: Engine,
    part: Specialists,
    mixture: Mixture | None,
    key: tuple[int, int, str],
) -> SetScores:
    each = recipe.rows_per_task
    rows = [row for task in part.tasks for row in _test(task, each)]
    scores_NX = score_rows(
        engine,
        rows,
        mixture,
        descriptions=[task.descriptions[0] for task in part.tasks for _ in range(each)]
        if recipe.described
        else None,
        max_new_tokens=recipe.max_new_tokens,
        batch_size=recipe.batch_size,
    )
    means_KX = scores_NX.reshape(len(part), each, 2).mean(1)
    return SetScores(*key, right=tuple(means_KX[:, 0].tolist()), loss=tuple(means_KX[:, 1].tolist()))


def _test(task: Task, count: int) -> tuple[Any, ...]:
    if len(task.test) < count:
        raise ConfigError(f"task {task.name} has {len(task.test)} test rows, rows_per_task is {count}")
    return task.test[:count]


def _router(recipe: MergingRecipe, host: Host, library: Specialists) -> Nearest:
    router = Nearest(open_encoder(recipe.encoder, host, recipe.encoder_cache, library.tasks))
    for task in library.tasks:
        router.add(task.name, task.descriptions)
    return router


def _learn(recipe: MergingRecipe, host: Host, library: Specialists, k: int, kind: str) -> Mapping[Site, Any]:
    sites = sorted({site for adapter in library.adapters for site in adapter.factors})
    return learn(kind, host, library.adapters[k], library.tasks[k], recipe.statistics_rows, sites)


def _resume(file: Path, recipe: MergingRecipe) -> list[SetScores]:
    """The scores of an earlier run of the same recipe; a line that a kill has cut short is left out."""
    settings = to_json(recipe.model_dump(mode="json", exclude={"output", "sets"}))
    about = file.with_name("recipe.json")
    try:
        if not about.exists():
            replace_file(about, settings)
        elif about.read_text(encoding="utf-8") != settings:
            raise ConfigError(f"{file.parent} is of another recipe; choose another output_dir, or delete it")
        lines = file.read_text(encoding="utf-8").split("\n") if file.exists() else [""]
        replace_file(file, "".join(f"{line}\n" for line in lines[:-1]))
    except SaveError:
        raise
    except OSError as error:
        raise SaveError(f"could not write {file.parent}: {error.strerror or error}") from error
    values = [json.loads(line) for line in lines[:-1]]
    return [SetScores(**v | {"right": tuple(v["right"]), "loss": tuple(v["loss"])}) for v in values]


def _append(file: Path, scores: SetScores) -> None:
    try:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(asdict(scores)) + "\n")
    except OSError as error:
        raise SaveError(f"could not write {file}: {error.strerror or error}") from error
