"""What `weft experiment zero-shot` measures, part by part; a part that is done is not measured again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from weft.errors import MissingFileError
from weft.evaluate import Options, compare, compare_controls, mean_adapter
from weft.evaluate.report import SplitReport
from weft.evaluate.specialists import load_by_task, load_for
from weft.experiments.zero_shot.cost import measure_cost
from weft.experiments.zero_shot.recipe import Accuracy, ZeroShotRecipe
from weft.experiments.zero_shot.steps import Curve, choose, train_both
from weft.files import read_json, replace_file, resolve, to_json
from weft.host import Host
from weft.hyper import HyperNetwork
from weft.rows import AbstractHost
from weft.saved import WEIGHTS
from weft.tasks import Task, hash_tasks
from weft.tasks.source import load_splits


@dataclass(frozen=True)
class ZeroShot:
    """All parts; one that was not asked for is empty."""

    splits: tuple[SplitReport, ...]
    controls: tuple[SplitReport, ...]
    """Generated, random and fixed adapters, on the same splits."""
    cost: Mapping[str, Any]
    curves: tuple[Curve, ...]
    hypernetwork: Mapping[str, Any]
    """Its name, step, and the start of its sha256."""


def measure_zero_shot(recipe: ZeroShotRecipe, tell: Callable[[str], None] = lambda _: None) -> ZeroShot:
    """Measure what the recipe asks for.

    Raises ConfigError for a split that the data lacks, and what loading, `compare` and training raise.
    """
    sections = [section for section in (recipe.accuracy, recipe.steps) if section is not None]
    splits = load_splits(recipe.data, *(name for section in sections for name in section.splits))
    host = Host.from_pretrained(recipe.base, dtype=recipe.dtype)
    hyper = HyperNetwork.from_pretrained(recipe.hypernetwork, host=host)
    about = _about(recipe, hyper)
    done = _Done(
        Path(recipe.output_dir),
        {"base": host.fingerprint, "dtype": recipe.dtype, "hypernetwork": about["sha256"]},
    )
    reports, controls, cost, curves = [], [], {}, []
    if recipe.accuracy is not None:
        for name in recipe.accuracy.splits:
            tasks = splits[name]
            made = done.part(
                f"accuracy-{name}",
                recipe.accuracy.model_dump(mode="json", exclude={"splits"})
                | {"tasks": hash_tasks(tasks), "multitask": _weights(recipe.multitask)}
                | {"oracles": _weights(recipe.oracles)},
                lambda name=name, tasks=tasks: asdict(_accuracy(recipe, host, hyper, name, tasks)),
                tell,
            )
            reports.append(TypeAdapter(SplitReport).validate_python(made))
    if recipe.accuracy is not None and recipe.controls is not None:
        mean_of = recipe.controls.mean_of
        controls = _measure_controls(recipe.accuracy, mean_of, host, hyper, splits, done, tell)
    if recipe.cost is not None:
        asked, tasks = recipe.cost, splits["train"]
        settings = asked.model_dump(mode="json") | {"data": hash_tasks(tasks)}
        cost = done.part("cost", settings, lambda: measure_cost(host, hyper, tasks, asked), tell)
    if recipe.steps is not None:
        section = recipe.steps
        settings = section.model_dump(mode="json", exclude={"splits", "tasks"}) | {"seed": recipe.seed}
        for task in choose([splits[name] for name in section.splits], section.tasks):
            made = done.part(
                f"steps-{task.name}",
                settings | {"data": task.data_hash},
                lambda task=task: asdict(train_both(host, hyper, task, section, seed=recipe.seed)),
                tell,
            )
            curves.append(TypeAdapter(Curve).validate_python(made))
    return ZeroShot(tuple(reports), tuple(controls), cost, tuple(curves), about)


def _accuracy(
    recipe: ZeroShotRecipe, host: AbstractHost, hyper: HyperNetwork, name: str, tasks: tuple[Task, ...]
) -> SplitReport:
    assert recipe.accuracy is not None
    options = recipe.accuracy.model_dump(exclude={"splits"})
    [report] = compare(
        host,
        {name: tasks},
        hypernetworks=[hyper],
        multitask=None if recipe.multitask is None else load_for(host, recipe.multitask),
        oracles=None if recipe.oracles is None else load_by_task(recipe.oracles, tasks, host),
        options=Options(**options),
    )
    return report


def _measure_controls(
    accuracy: Accuracy,
    mean_of: int,
    host: Host,
    hyper: HyperNetwork,
    splits: Mapping[str, tuple[Task, ...]],
    done: _Done,
    tell: Callable[[str], None],
) -> list[SplitReport]:
    """One report per split; the fixed adapter is made where one of them is not there yet."""
    train = splits["train"]
    fixed = cache(lambda: mean_adapter(hyper, train, mean_of))

    def measure(name: str) -> SplitReport:
        options = Options(**accuracy.model_dump(exclude={"splits"}))
        tasks = {name: splits[name]}
        [report] = compare_controls(host, tasks, hypernetwork=hyper, fixed=fixed(), options=options)
        return report

    found = []
    for name in accuracy.splits:
        settings = accuracy.model_dump(mode="json", exclude={"splits"}) | {
            "mean_of": mean_of,
            "train": hash_tasks(train),
            "tasks": hash_tasks(splits[name]),
        }
        made = done.part(f"controls-{name}", settings, lambda name=name: asdict(measure(name)), tell)
        found.append(TypeAdapter(SplitReport).validate_python(made))
    return found


def _about(recipe: ZeroShotRecipe, hyper: HyperNetwork) -> dict[str, Any]:
    folder = resolve(recipe.hypernetwork)
    if folder is None:
        raise MissingFileError(f"no hypernetwork folder at {recipe.hypernetwork}")
    sha256 = _sha256(folder / WEIGHTS)
    return {"name": hyper.name, "step": hyper.provenance.get("step"), "sha256": sha256}


def _weights(name: str | None) -> dict[str, str]:
    """The start of the sha256 of every file of weights in a folder that is given, by its place there."""
    folder = None if name is None else resolve(name)
    if folder is None:
        return {}
    return {str(file.relative_to(folder)): _sha256(file) for file in sorted(folder.rglob("*.safetensors"))}


def _sha256(file: Path) -> str:
    with file.open("rb") as weights:
        return hashlib.file_digest(weights, "sha256").hexdigest()[:16]


class _Done:
    """Parts on disk, each beside the settings that it was measured under."""

    def __init__(self, folder: Path, common: Mapping[str, Any]) -> None:
        self._folder = folder
        self._common = dict(common)

    def part(
        self,
        name: str,
        settings: Mapping[str, Any],
        make: Callable[[], Any],
        tell: Callable[[str], None],
    ) -> Any:
        """What was measured under the same settings before, else what is measured now."""
        file = self._folder / f"{name}.json"
        wanted = {**self._common, **settings}
        if file.is_file():
            kept = read_json(file)
            if kept.get("settings") == wanted:
                return kept["found"]
        tell(f"zero-shot: {name}")
        found = make()
        replace_file(file, to_json({"settings": wanted, "found": found}))
        return found
