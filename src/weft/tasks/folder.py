"""A task as a folder: `task.yaml` with the wordings, `train.jsonl` and `test.jsonl` with the rows.

Rows of another kind of file (`train.csv`, `test.jsonl.gz`) are read as well.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from weft.config import Config, load_config
from weft.errors import ConfigError, MissingFileError, SaveError
from weft.files import folders_with, replace_folder
from weft.tasks.file import read_table, rows_file
from weft.tasks.rows import write_rows
from weft.tasks.task import Task

_ABOUT = "task.yaml"


class _About(Config):
    name: str = ""
    """That of the folder unless given."""
    descriptions: tuple[str, ...]
    unseen_descriptions: tuple[str, ...] = ()
    category: str = ""
    labels: tuple[str, ...] = ()
    licence: str = ""


def load_task(folder: str | os.PathLike[str]) -> Task:
    """Read one task folder; `train.jsonl` or `test.jsonl` may be absent, not both.

    Raises MissingFileError, or ConfigError that names the file and the key or line.
    """
    folder = Path(folder)
    if not (folder / _ABOUT).is_file():
        raise MissingFileError(f"{folder} is not a task folder: it has no {_ABOUT}")
    about = load_config(_About, folder / _ABOUT)
    train, test = rows_file(folder, "train"), rows_file(folder, "test")
    if train is None and test is None:
        raise MissingFileError(f"{folder} has no rows: write train.jsonl, test.jsonl or both")
    train_rows = () if train is None else read_table(train)
    test_rows = () if test is None else read_table(test)
    try:
        written: dict[str, Any] = about.model_dump() | {"name": about.name or folder.resolve().name}
        return Task(**written, train=train_rows, test=test_rows)
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from error


def save_task(task: Task, folder: str | os.PathLike[str]) -> None:
    """Write a task folder, in place of the one that was there.

    Raises SaveError when the disk refuses, for a task with a picture, or when the folder holds something
    other than a task.

    Args:
        task: What is written.
        folder: Where; made where it is not there.

    Example:
        >>> from weft.tasks import Row, Task, load_tasks, save_task
        >>> task = Task("sort", descriptions=("sort the letters",), test=(Row("cab >", "abc"),))
        >>> save_task(task, "tasks/sort")
        >>> [task.name for task in load_tasks("tasks")]
        ['sort']
    """
    if task.image is not None:
        raise SaveError(f"task {task.name} has a picture, which a task folder does not hold")
    folder = Path(folder)
    if folder.exists() and not (folder / _ABOUT).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise SaveError(f"{folder} exists and is not a task folder; choose another")
    about = {key: getattr(task, key) for key in _About.model_fields}
    values = {
        key: list(value) if isinstance(value, tuple) else value for key, value in about.items() if value
    }
    with replace_folder(folder) as fresh:
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=10_000)
        (fresh / _ABOUT).write_text(text, encoding="utf-8")
        for part, rows in (("train", task.train), ("test", task.test)):
            if rows:
                write_rows(fresh / f"{part}.jsonl", rows)


def load_tasks(folder: str | os.PathLike[str]) -> tuple[Task, ...]:
    """Read every task folder inside a folder, in the order of their folders' names.

    Raises MissingFileError when there is none, ConfigError for two tasks of one name.

    Args:
        folder: Folder of task folders.

    Example:
        >>> from weft.tasks import Row, Task, load_tasks, save_task
        >>> task = Task("sort", descriptions=("sort the letters",), test=(Row("cab >", "abc"),))
        >>> save_task(task, "tasks/sort")
        >>> [task.name for task in load_tasks("tasks")]
        ['sort']
    """
    folders = folders_with(Path(folder), _ABOUT)
    if not folders:
        raise MissingFileError(f"{folder} holds no task folders (subfolders with a {_ABOUT})")
    tasks: dict[str, Task] = {}
    for path in folders:
        task = load_task(path)
        if task.name in tasks:
            raise ConfigError(f"{path}: another task in {folder} is called {task.name}; rename one")
        tasks[task.name] = task
    return tuple(tasks.values())
