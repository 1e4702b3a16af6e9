"""Tasks: what adapters are for. Rows, task folders, Natural Instructions, chat templates, batches."""

from weft.tasks.batch import (
    Batch,
    Draw,
    TaskSampler,
    collate,
    draw_rows,
    evenly,
    samplers_by_category,
    shuffled,
)
from weft.tasks.chat import Encoded, fit_rows, fit_task, render, render_prompt, render_raw, row_encoder
from weft.tasks.folder import load_task, load_tasks, save_task
from weft.tasks.gibberish import gibberish
from weft.tasks.natural_instructions import load_natural_instructions
from weft.tasks.rows import read_rows, write_rows
from weft.tasks.task import Row, Task, hash_tasks
from weft.types import IGNORE

__all__ = [
    "IGNORE",
    "Batch",
    "Draw",
    "Encoded",
    "Row",
    "Task",
    "TaskSampler",
    "collate",
    "draw_rows",
    "evenly",
    "fit_rows",
    "fit_task",
    "gibberish",
    "hash_tasks",
    "load_natural_instructions",
    "load_task",
    "load_tasks",
    "read_rows",
    "render",
    "render_prompt",
    "render_raw",
    "row_encoder",
    "samplers_by_category",
    "save_task",
    "shuffled",
    "write_rows",
]
