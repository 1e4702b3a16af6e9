"""What the tests of training share: four toy tasks in a folder, a tiny base, and recipes over them."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from weft.host import Host
from weft.tasks import Row, Task, load_tasks, save_task
from weft.tasks.source import FolderSource, build_source_tokenizer
from weft.train import BaseRecipe, LoraRecipe

WORDS = re.findall("...", "catdogsunmapredowlicejamkeylognutoakpenrugtapvanwaxyakzipfig")
EFFECTS = {
    "upper": str.upper,
    "first": lambda w: w[0],
    "reverse": lambda w: w[::-1],
    "twice": lambda w: w + w,
}


def write_tasks(folder: Path) -> Path:
    """Four task folders: 14 train rows, 6 test rows, two descriptions each."""
    for name, effect in EFFECTS.items():
        rows = tuple(Row(word, effect(word)) for word in WORDS)
        task = Task(name, (f"{name} it", f"make it {name}"), train=rows[:14], test=rows[14:])
        save_task(task, folder / name)
    return folder


def source(tasks: Path) -> dict[str, Any]:
    return {"kind": "folder", "path": str(tasks), "vocab_size": 300}


def tokenizer(tasks: Path) -> PreTrainedTokenizerBase:
    return build_source_tokenizer(FolderSource.model_validate(source(tasks)), load_tasks(tasks))


def tiny_host(tasks: Path, **config: Any) -> Host:
    """A random Llama over the tokens of the tasks; ten times the usual spread, so that rows differ."""
    text = tokenizer(tasks)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(text),
            num_key_value_heads=1,
            max_position_embeddings=96,
            initializer_range=0.2,
            pad_token_id=text.pad_token_id,
            eos_token_id=text.eos_token_id,
            bos_token_id=None,
            **(sizes | config),
        )
    )
    return Host(model.eval(), tokenizer=text, name="tiny")


def base_recipe(tasks: Path, output: Path, /, **changes: Any) -> BaseRecipe:
    values: dict[str, Any] = {
        "run": {"output_dir": str(output), "max_steps": 6, "logging_steps": 1, "save_steps": 3},
        "data": source(tasks),
        "model": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
        },
        "tasks_per_batch": 4,
        "rows_per_task": 4,
    }
    return BaseRecipe.model_validate(_merged(values, changes))


def lora_recipe(tasks: Path, output: Path, /, **changes: Any) -> LoraRecipe:
    values: dict[str, Any] = {
        "run": {"output_dir": str(output), "max_steps": 6, "logging_steps": 1, "save_steps": 3},
        "base": "tiny",
        "data": source(tasks),
        "r": 4,
        "lora_alpha": 8,
        "rows_per_task": 4,
        "optimizer": {"learning_rate": 0.01},
    }
    return LoraRecipe.model_validate(_merged(values, changes))


def curve(output: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl, without the clock."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = {k: {**values[k], **v} if isinstance(values.get(k), dict) else v for k, v in changes.items()}
    return {**values, **both}
