import json
import time
from pathlib import Path

import pytest
import torch
from tiny_training import base_recipe, curve, source, write_tasks
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from weft.config import parse_config
from weft.errors import ConfigError
from weft.host import Host
from weft.tasks import load_tasks, render
from weft.tasks.source import FolderSource, build_source_tokenizer
from weft.train import BaseRecipe, train_base
from weft.train.base import followed


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def output(tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 steps: enough to be right on many rows that it saw, not on all."""
    output = tmp_path_factory.mktemp("base")
    recipe = base_recipe(
        tasks,
        output,
        run={"max_steps": 60, "logging_steps": 10},
        model={"hidden_size": 64},
        optimizer={"optim": "muon", "learning_rate": 0.005, "matrix_learning_rate": 0.03},
        rows_per_task=8,
    )
    assert train_base(recipe) == output / "model"
    return output


def test_the_loss_falls(output: Path) -> None:
    losses = [line["loss"] for line in curve(output) if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]


def test_followed_is_what_greedy_decoding_gives(output: Path, tasks: Path) -> None:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        output / "model", attn_implementation="eager"
    )
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(output / "model")
    right = total = 0
    # The rows that it was trained on: their answers are sometimes right.
    seen = [task.__class__(task.name, task.descriptions, test=task.train) for task in load_tasks(tasks)]
    for task in seen:
        for row in task.test[:6]:
            prompt, answer = render(tokenizer, row, description=task.descriptions[0])
            ids = torch.tensor([prompt])
            said = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=len(answer),
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )[0, len(prompt) :]
            right += said.tolist() == answer
            total += 1
    share = followed(model, tokenizer, seen, rows=6)
    assert share == pytest.approx(right / total)
    assert 0 < share < 1


def test_the_folder_is_a_hugging_face_model_with_its_origin(output: Path, tasks: Path) -> None:
    host = Host.from_pretrained(output / "model")
    assert host.tokenizer.decode(host.tokenizer.encode("cat")) == "cat"
    told = json.loads((output / "model" / "provenance.json").read_text())
    assert told["recipe"]["model"]["hidden_size"] == 64
    assert len(told["data_hash"]) == 64


def test_it_runs_in_bfloat16_with_bare_prompts_and_plain_text(tasks: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and saw the dog run away over the hill\n" * 20)
    data = {"texts": [str(text)]}
    recipe = base_recipe(
        tasks, tmp_path / "run", run={"bf16": True}, data=data, bare_ratio=0.5, text_rows=2, text_length=20
    )
    model = AutoModelForCausalLM.from_pretrained(train_base(recipe))
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_split_without_tasks_is_not_measured(tasks: Path, tmp_path: Path) -> None:
    values = base_recipe(tasks, tmp_path, run={"max_steps": 1, "eval_steps": 1}).model_dump(mode="json")
    rows = {"train_rows": 4, "test_rows": 1}
    values["data"] = {"kind": "letters", "train_tasks": 8, "validation_tasks": 0, **rows}
    train_base(parse_config(BaseRecipe, values, "here"))
    [found] = [line for line in curve(tmp_path) if "unseen_compositions/followed" in line]
    assert "validation/followed" not in found


def test_text_rows_need_text(tasks: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"plain text of data\.texts has 0 tokens.*set text_rows to 0"):
        train_base(base_recipe(tasks, tmp_path / "run", text_rows=2, text_length=20))


@pytest.mark.parametrize("change", [{"num_attention_heads": 3}, {"num_key_value_heads": 3}])
def test_heads_that_do_not_divide_are_refused(change: dict[str, int], tasks: Path, tmp_path: Path) -> None:
    values = base_recipe(tasks, tmp_path / "run").model_dump(mode="json")
    with pytest.raises(ConfigError, match=r"model: .*heads"):
        parse_config(BaseRecipe, {**values, "model": {**values["model"], **change}}, "here")


def test_a_word_of_millions_of_letters_does_not_stall_the_tokenizer(tasks: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("ab" * 1_500_000 + "\n")
    values = source(tasks) | {"texts": [str(tmp_path / "text.txt")]}
    start = time.process_time()
    build_source_tokenizer(FolderSource.model_validate(values), load_tasks(tasks))
    assert time.process_time() - start < 20
