"""Natural Instructions (Mishra et al. 2022; Wang et al. 2022), from either of two forms on disk.

The original repository: `tasks/<name>.json` with `splits/default/<split>_tasks.txt`.
The compact form: `<split>.jsonl.gz`, a row per line that says its task, definition, input, outputs and part;
`tasks.jsonl.gz` (or `<split>_tasks.jsonl.gz`) beside it has one line of statistics per task.

Departs from the papers: a task's own instances are divided into train and test, and the positive and negative
examples that go with a definition are not used.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weft.errors import ConfigError, MissingFileError, UnknownNameError
from weft.files import nearest
from weft.reading import read_json, read_json_lines, read_lines, shown
from weft.tasks.task import Row, Task

_UNSEEN = 20
_NOT_CORE = ("mmlu_exam", "code_sql", "toxicity_bias")

Answers = dict[str, tuple[str, ...]]
"""Input to accepted outputs."""


@dataclass
class _Source:
    name: str
    definition: str
    category: str
    labels: tuple[str, ...] = ()
    train: Answers = field(default_factory=dict)
    test: Answers = field(default_factory=dict)


def load_natural_instructions(
    path: str | os.PathLike[str],
    *,
    split: str = "train",
    names: Sequence[str] | None = None,
    core: bool = False,
    limit: int | None = None,
    descriptions: str | os.PathLike[str] | None = None,
    max_train_rows: int | None = None,
    max_test_rows: int | None = None,
    prompt: str = "{input}",
) -> tuple[Task, ...]:
    r"""Read the tasks of one split, sorted by name; the same call always gives the same tasks and rows.

    Args:
        path: The folder of either form.
        split: Which tasks: train, test or excluded in the original, the name of a file in the compact form.
        names: Only these tasks.
        core: Only tasks that a small model can learn: see `is_core`. Needs the compact form's statistics.
        limit: At most so many tasks, chosen by the hash of their names.
        descriptions: A JSON Lines file of {"task", "descriptions"} with more wordings. The definition stays
            the first; of a task that has more than 20, the last 20 are kept unseen.
        max_train_rows: At most so many per task, chosen by the hash of their inputs.
        max_test_rows: The same for the test part.
        prompt: How an input is put; `"{input}\nAnswer: "`, say, for a tokenizer without a chat template.

    Raises MissingFileError, UnknownNameError for a name not in the split, ConfigError for a damaged file.
    """
    folder = Path(path)
    if "{input}" not in prompt:
        raise ConfigError(f"the prompt should contain {{input}}, got {prompt!r}")
    if (folder / f"{split}.jsonl.gz").is_file():
        every = _read_compact(folder, split, core)
        sources = [every[name] for name in _choose(list(every), names, limit, split)]
    elif (folder / "tasks").is_dir():
        if core:
            raise ConfigError(f"core needs the statistics of the compact form, {folder} is the original one")
        known = _names_of_split(folder, split)
        sources = [_read_original(folder, name) for name in _choose(known, names, limit, split)]
    else:
        raise MissingFileError(f"{folder} has neither {split}.jsonl.gz nor a folder tasks; check the path")
    wordings = {} if descriptions is None else _read_wordings(descriptions)
    limits = (max_train_rows, max_test_rows)
    return tuple(_task(source, wordings.get(source.name, ()), limits, prompt) for source in sources)


def is_core(statistics: dict[str, Any]) -> bool:
    """Whether a small model can learn the task that a line of `tasks.jsonl.gz` describes.

    Classification: naive Bayes on words beats the majority class by 0.1 or more. Else: inputs of 20 words and
    answers of 3 words at most, in the median. No exam questions, no code, no toxic text.
    """
    if statistics["category"] in _NOT_CORE:
        return False
    if statistics["kind"] == "classification":
        return statistics["naive_bayes_accuracy"] - statistics["test_majority_accuracy"] >= 0.1
    return statistics["in_words_median"] <= 20 and statistics["out_words_median"] <= 3


def _choose(known: Sequence[str], names: Sequence[str] | None, limit: int | None, split: str) -> list[str]:
    if names is not None:
        for name in names:
            if name not in known:
                raise UnknownNameError(f"no task {name} to take from {split}{nearest(name, known)}")
        known = names
    return sorted(sorted(set(known), key=_digest)[:limit])


def _task(
    source: _Source, wordings: Iterable[str], limits: tuple[int | None, int | None], prompt: str
) -> Task:
    texts = [text for text in dict.fromkeys(wordings) if text != source.definition]
    seen = texts[:-_UNSEEN] if len(texts) > _UNSEEN else texts
    return Task(
        name=source.name,
        descriptions=(source.definition, *seen),
        unseen_descriptions=tuple(texts[len(seen) :]),
        train=_rows(source.train, limits[0], prompt),
        test=_rows(source.test, limits[1], prompt),
        category=source.category,
        labels=source.labels,
    )


def _rows(answers: Answers, limit: int | None, prompt: str) -> tuple[Row, ...]:
    """Rows in the order of their inputs' hashes: the first few are as mixed as all."""
    rows: list[Row] = []
    for text in sorted(answers, key=_digest)[:limit]:
        first, *others = answers[text]
        rows.append(Row(prompt.replace("{input}", text), first, answers[text] if others else ()))
    return tuple(rows)


def _add(answers: Answers, text: str, outputs: Iterable[str]) -> None:
    """Blank inputs and outputs are left out; an input met twice accepts the outputs of both."""
    outputs = [*answers.get(text, ()), *(output for output in outputs if output.strip())]
    if text.strip() and outputs:
        answers[text] = tuple(dict.fromkeys(outputs))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read_wordings(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    wordings: dict[str, list[str]] = {}
    for where, line in read_json_lines(path):
        name, texts = _fields(where, line, task=str, descriptions=list)
        wordings[name] = texts
    return wordings


def _read_compact(folder: Path, split: str, core: bool) -> dict[str, _Source]:
    own = folder / f"{split}_tasks.jsonl.gz"
    statistics: dict[str, dict[str, Any]] = {}
    for where, line in read_json_lines(own if own.is_file() else folder / "tasks.jsonl.gz"):
        (name,) = _fields(where, line, task=str)
        statistics[name] = {"category": "", **line}
    sources: dict[str, _Source] = {}
    for where, line in read_json_lines(folder / f"{split}.jsonl.gz"):
        name, text, outputs, part = _fields(where, line, task=str, input=str, outputs=list, part=str)
        if name not in statistics:
            raise ConfigError(f"{where}: task {name} has no line in the statistics of {folder}")
        if part not in ("train", "test"):
            raise ConfigError(f"{where}: part is train or test, got {part!r}")
        if core and not is_core(statistics[name]):
            continue
        if name not in sources:
            definition, category = _fields(where, line, definition=str, category=str)
            sources[name] = _Source(name, definition, category, tuple(statistics[name].get("labels") or ()))
        _add(sources[name].train if part == "train" else sources[name].test, text, outputs)
    return sources


def _names_of_split(folder: Path, split: str) -> list[str]:
    file = folder / "splits" / "default" / f"{split}_tasks.txt"
    if not file.is_file():
        known = (found.name.removesuffix("_tasks.txt") for found in sorted(file.parent.glob("*_tasks.txt")))
        raise MissingFileError(f"no such file: {file}; splits there: {', '.join(known) or 'none'}")
    return [line.strip() for _, line in read_lines(file)]


def _read_original(folder: Path, name: str) -> _Source:
    """One `tasks/<name>.json`; a quarter of its inputs, by hash, become the test part."""
    file = folder / "tasks" / f"{name}.json"
    content = read_json(file)
    instances, categories = _fields(str(file), content, Instances=list, Categories=list)
    (definition,) = _fields(str(file), content, Definition=(str, list))
    every: Answers = {}
    for instance in instances:
        text, outputs = _fields(str(file), instance, input=str, output=(str, list))
        _add(every, text, [outputs] if isinstance(outputs, str) else outputs)
    source = _Source(
        name,
        definition if isinstance(definition, str) else " ".join(definition),
        categories[0] if categories else "",
    )
    for place, text in enumerate(sorted(every, key=_digest)):
        (source.test if place < len(every) // 4 else source.train)[text] = every[text]
    return source


def _fields(where: str, value: Any, **kinds: type | tuple[type, ...]) -> list[Any]:
    """The values of some keys, or ConfigError that names the file and the key."""
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected an object with {', '.join(kinds)}")
    for key, kind in kinds.items():
        if not isinstance(value.get(key), kind):
            raise ConfigError(f"{where}: {key} is missing or of the wrong type, got {shown(value.get(key))}")
    return [value[key] for key in kinds]
