"""What reads text: recipes with their overrides, task folders, files of rows, chats and prompts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from fuzzer import NASTY, damage_bytes, damage_value, surface

from weft.config import load_config
from weft.evaluate import EvalRecipe
from weft.files import embedded_folder
from weft.tasks import load_tasks, render, render_prompt
from weft.tasks.file import load_file_task
from weft.tasks.rows import turn_of
from weft.train import BaseRecipe, BlendRecipe, HyperRecipe, LoraRecipe, TreeRecipe

_RECIPES = Path(__file__).parents[2] / "recipes" / "letters"
_KINDS = {
    "base": BaseRecipe,
    "lora": LoraRecipe,
    "t2l": HyperRecipe,
    "blend": BlendRecipe,
    "tree": TreeRecipe,
    "eval": EvalRecipe,
}
_ROWS: tuple[dict[str, Any], ...] = (
    {"prompt": "cab", "completion": "bac", "references": ["bac", "b"]},
    {"messages": [{"role": "user", "content": "cab"}, {"role": "assistant", "content": "bac"}]},
    {"conversations": [{"from": "human", "value": "cab"}, {"from": "gpt", "value": "bac"}]},
    {"instruction": "reverse", "input": "cab", "output": "bac"},
    {"text": "once upon"},
    {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "cab"}]},
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]},
            {"role": "tool", "content": "bac"},
            {"role": "assistant", "content": "bac"},
        ]
    },
)
_TEMPLATES = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{{ eos_token }}{% endfor %}",
    "{% if messages[0].role != 'user' %}{{ raise_exception('no') }}{% endif %}{{ messages[-1].content }}",
    "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}",
    "{{ messages[-1].content.split('x')[1] }}",
    "{% for m in messages %}{{ m.nothing.more }}{% endfor %}",
)


@surface
def recipe(rng: random.Random, folder: Path) -> Callable[[], object]:
    name = rng.choice(list(_KINDS))
    text = (_RECIPES / f"{name}.yaml").read_bytes()
    if rng.random() < 0.5:
        content = damage_bytes(rng, text)
    else:
        damaged = damage_value(rng, yaml.safe_load(text))
        # json is YAML, and unlike the dumper of YAML it writes everything
        content = json.dumps(damaged, default=str).encode()
    (folder / "r.yaml").write_bytes(content)
    keys = ["run.max_steps", "r", "optimizer.learning_rate", "data.path", "x", "a.b.c.d", ""]
    overrides = [f"{rng.choice(keys)}={rng.choice(NASTY)}" for _ in range(rng.choice([0, 0, 1, 2]))]
    return lambda: load_config(_KINDS[name], folder / "r.yaml", overrides)


@surface
def task_folder(rng: random.Random, folder: Path) -> Callable[[], object]:
    task = folder / "t"
    task.mkdir()
    about = {"name": "t", "descriptions": ["reverse the word"], "category": "c", "labels": ["a", "b"]}
    whole = rng.random() < 0.5
    text = yaml.safe_dump(about).encode()
    damaged = json.dumps(damage_value(rng, about), default=str).encode() if whole else damage_bytes(rng, text)
    (task / "task.yaml").write_bytes(damaged if rng.random() < 0.7 else text)
    (task / "train.jsonl").write_bytes(_file_of_rows(rng))
    return lambda: load_tasks(folder)


@surface
def rows(rng: random.Random, folder: Path) -> Callable[[], object]:
    file = folder / rng.choice(["rows.jsonl", "rows.jsonl.gz", "rows.ndjson"])
    file.write_bytes(_file_of_rows(rng))
    return lambda: load_file_task(str(file), test_ratio=rng.random() * 0.9)


@surface
def prompt(rng: random.Random, folder: Path) -> Callable[[], object]:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "cab"}]
    damaged = damage_value(rng, turns)
    text = rng.choice([t for t in NASTY if isinstance(t, str)])

    def call() -> None:
        tokenizer = _tokenizer(rng.choice(_TEMPLATES))
        render_prompt(tokenizer, text, max_length=1000)
        turn = damaged if isinstance(damaged, dict) else {"role": "user", "content": damaged}
        of_all = damaged if isinstance(damaged, list) else [turn]
        told = [turn_of(one if isinstance(one, dict) else {"content": one}, "a chat") for one in of_all]
        render_prompt(tokenizer, told, description="d")

    return call


@surface
def chat_row(rng: random.Random, folder: Path) -> Callable[[], object]:
    file = folder / "rows.jsonl"
    file.write_text(json.dumps(damage_value(rng, rng.choice(_ROWS)), default=str) + "\n")
    tokenizer = _tokenizer(rng.choice(_TEMPLATES))

    def call() -> None:
        for row in load_file_task(str(file), test_ratio=0.0).train:
            render(tokenizer, row, description=rng.choice([None, "reverse"]), max_length=4096)

    return call


def _file_of_rows(rng: random.Random) -> bytes:
    good = rng.choice(_ROWS)
    lines = [json.dumps(good), json.dumps(damage_value(rng, good), default=str), json.dumps(good)]
    content = "\n".join(lines).encode() + b"\n"
    return damage_bytes(rng, content) if rng.random() < 0.5 else content


def _tokenizer(template: str) -> Any:
    tokenizer = _embedded()
    tokenizer.chat_template = template
    return tokenizer


@cache
def _embedded() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded_folder() / "letters")
