"""`--quick`: the same comparison in minutes, with fewer steps, streams and seeds; no rival from nothing."""

from pathlib import Path
from typing import TypeVar

from weft.experiments.dynamic.recipe import DynamicRecipe
from weft.train.context import ContextRecipe
from weft.train.hyper import HyperRecipe
from weft.train.mix import MixRecipe
from weft.train.shift import ShiftRecipe
from weft.train.stack import StackRecipe

_STEPS, _SHIFT_STEPS, _RIVAL_STEPS, _WORDS_STEPS = 120, 600, 60, 300
_STREAMS, _DOCUMENTS, _TASKS, _QUESTIONS = 12, 6, 12, 60


def shorten(recipe: DynamicRecipe) -> DynamicRecipe:
    """One seed, a few hundred steps of every training, fewer streams, documents, tasks and questions."""
    changed = {}
    if recipe.shift is not None:
        shift = recipe.shift
        changed["shift"] = shift.model_copy(
            update={
                "recipe": _shorten_run(shift.recipe, _SHIFT_STEPS),
                "seeds": shift.seeds[:1],
                "ways": tuple(way for way in shift.ways if way != "tokens from nothing"),
                "streams": min(shift.streams, _STREAMS),
                "rival_steps": min(shift.rival_steps, _RIVAL_STEPS),
            }
        )
    if recipe.words is not None:
        words = recipe.words
        changed["words"] = words.model_copy(
            update={
                "recipe": _shorten_run(words.recipe, _WORDS_STEPS),
                "seeds": words.seeds[:1],
                "documents": min(words.documents, _STREAMS),
                "windowed": min(words.windowed, _STREAMS),
                "questions": min(words.questions, _QUESTIONS),
            }
        )
    if recipe.sheets is not None:
        sheets = recipe.sheets
        changed["sheets"] = sheets.model_copy(update={"documents": min(sheets.documents, _STREAMS)})
    if recipe.books is not None:
        books = recipe.books
        fewer = {"passages": min(books.passages, _STREAMS), "averaged": min(books.averaged, _DOCUMENTS)}
        changed["books"] = books.model_copy(update=fewer)
    if recipe.context is not None:
        networks = {name: folders[:1] for name, folders in recipe.context.networks.items()}
        documents = min(recipe.context.documents, _DOCUMENTS)
        changed["context"] = recipe.context.model_copy(update={"networks": networks, "documents": documents})
    if recipe.stack is not None:
        stack = recipe.stack
        changed["stack"] = stack.model_copy(
            update={
                "first": stack.first and _shorten_run(stack.first, _STEPS),
                "recipe": _shorten_run(stack.recipe, _STEPS),
                "flat": stack.flat and _shorten_run(stack.flat, 2 * _STEPS),
                "seeds": stack.seeds[:1],
                "tasks": min(stack.tasks, _TASKS),
            }
        )
    if recipe.mix is not None:
        mix = recipe.mix
        changed["mix"] = mix.model_copy(
            update={
                "recipe": _shorten_run(mix.recipe, _STEPS),
                "seeds": mix.seeds[:1],
                "questions": min(mix.questions, _QUESTIONS),
            }
        )
    return recipe.model_copy(update=changed)


R = TypeVar("R", ShiftRecipe, MixRecipe, ContextRecipe, HyperRecipe, StackRecipe)


def _shorten_run(recipe: R, steps: int) -> R:
    folder = Path(recipe.run.output_dir)
    run = recipe.run.model_copy(
        update={
            "output_dir": str(folder.with_name(f"{folder.name}-quick")),
            "max_steps": min(recipe.run.max_steps, steps),
        }
    )
    return recipe.model_copy(update={"run": run})
