"""Train a small Llama-architecture base model to follow descriptions, from nothing.

Each step packs several tasks, each with one description and several rows that share it (packing.py); the
loss is on the answers. A share of the tasks is shown without a description, so that a bare prompt is not
foreign later, and rows of plain text can be mixed in. The result is an ordinary Hugging Face folder.
"""

import hashlib
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from weft.config import Config, Size
from weft.errors import ConfigError
from weft.files import replace_folder, to_json
from weft.host.bars import no_bars
from weft.tasks import Encoded, Task, TaskSampler, hash_tasks, render, samplers_by_category
from weft.tasks.source import Data, build_source_tokenizer, load_splits, load_texts
from weft.train.learner import Learner
from weft.train.optimizer import OptimizerConfig
from weft.train.packing import Packed, pack_in_chunks
from weft.train.run import Run, RunConfig

_CHUNKS = 4  # forwards per step; rows of like length go together


class ModelConfig(Config):
    """Shape of the base; names as in transformers' LlamaConfig."""

    hidden_size: int = Field(default=192, gt=0, le=1 << 16)
    """As in transformers' LlamaConfig."""
    num_hidden_layers: int = Field(default=6, gt=0, le=1024)
    """As in transformers' LlamaConfig."""
    num_attention_heads: int = Field(default=6, gt=0, le=1024)
    """As in transformers' LlamaConfig."""
    num_key_value_heads: int = Field(default=6, gt=0, le=1024)
    """As in transformers' LlamaConfig."""
    intermediate_size: int = Field(default=512, gt=0, le=1 << 18)
    """As in transformers' LlamaConfig."""
    max_position_embeddings: int = Field(default=256, gt=0, le=1 << 24)
    """As in transformers' LlamaConfig."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "ModelConfig":
        heads, shared = self.num_attention_heads, self.num_key_value_heads
        if self.hidden_size % heads or self.hidden_size // heads % 2:
            raise ValueError(f"hidden_size {self.hidden_size} over {heads} heads should be an even number")
        if heads % shared:
            raise ValueError(f"{heads} attention heads cannot share {shared} key and value heads evenly")
        return self


class BaseRecipe(Config):
    """`weft train base RECIPE`."""

    run: RunConfig
    data: Data
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    tasks_per_batch: Size = 32
    """How many tasks a step meets."""
    rows_per_task: Size = 8
    """Rows of a task in one step."""
    category_shares: dict[str, int] = {}
    """Tasks per step of each category, in place of `tasks_per_batch` drawn from all alike."""
    bare_ratio: float = Field(default=0.05, ge=0, le=1)
    """Share of the tasks of a step that come without their description."""
    text_rows: int = Field(default=0, ge=0, le=1 << 20)
    """Rows of plain text per step; 0 for a source without text."""
    text_length: int = Field(default=128, gt=1, le=1 << 20)
    """Tokens of each of them."""
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the file. The saved config asks for float32 all the same, so that is what the model runs in."""


def train_base(recipe: BaseRecipe, *, resume: bool = True) -> Path:
    """Run a recipe to its end; returns the model folder, `output_dir/model`."""
    torch.manual_seed(recipe.run.seed)
    splits = load_splits(recipe.data)
    train = splits.pop("train")
    tokenizer = build_source_tokenizer(recipe.data, train)
    text = None
    if recipe.text_rows:
        text = _encode_texts(tokenizer, load_texts(recipe.data), recipe.text_length)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        pad_token_id=cast(int, tokenizer.pad_token_id),
        eos_token_id=cast(int, tokenizer.eos_token_id),
        bos_token_id=None,
        **recipe.model.model_dump(),
    )
    # Eager attention: for short rows on a CPU its backward costs half of the fused one's.
    model = LlamaForCausalLM._from_config(config, attn_implementation="eager")
    samplers = samplers_by_category(
        train,
        recipe.category_shares,
        tasks_per_batch=recipe.tasks_per_batch,
        rows_per_task=recipe.rows_per_task,
        seed=recipe.run.seed,
    )
    with Run(recipe.run, recipe, resume=resume, data_hash=_hash(train, text)) as run:
        learner = Learner(run, None, recipe.optimizer, model.to(run.accelerator.device))
        wrapped = run.accelerator.prepare(model)
        for done in learner.left():
            groups = _groups(tokenizer, recipe, samplers, text, run.draw(done))
            packs = pack_in_chunks(groups, _CHUNKS, pad_id=cast(int, config.pad_token_id))
            learner.step(done, {"loss": _backward(run, wrapped, packs)})
            if run.is_due("eval", done):
                found = {name: followed(model, tokenizer, tasks) for name, tasks in splits.items() if tasks}
                run.log(done, {f"{name}/followed": share for name, share in found.items()})
            learner.save(done)
        folder = run.folder / "model"
        if run.accelerator.is_main_process:
            with replace_folder(folder) as fresh, no_bars():
                model.to(getattr(torch, recipe.save_dtype)).save_pretrained(fresh)
                config.dtype = "float32"
                config.save_pretrained(fresh)
                tokenizer.save_pretrained(fresh)
                made_by = {"recipe": recipe.model_dump(mode="json"), "data_hash": hash_tasks(train)}
                (fresh / "provenance.json").write_text(to_json(made_by))
    return folder


def _hash(tasks: Sequence[Task], text: Tensor | None) -> str:
    """Of the tasks, and of the ids of the plain texts where there are some."""
    digest = hash_tasks(tasks)
    return digest if text is None else hashlib.sha256(digest.encode() + text.numpy().tobytes()).hexdigest()


def _groups(
    tokenizer: PreTrainedTokenizerBase,
    recipe: BaseRecipe,
    samplers: Sequence[TaskSampler],
    text: Tensor | None,
    draw: int,
) -> list[list[Encoded]]:
    chance = random.Random(f"{recipe.run.seed}/{draw}")
    room = recipe.model.max_position_embeddings
    groups = []
    for task in (task for sampler in samplers for task in sampler.draw(draw)):
        description = None if chance.random() < recipe.bare_ratio else task.description
        groups.append([render(tokenizer, r, description=description, max_length=room) for r in task.rows])
    if text is not None:
        for _ in range(recipe.text_rows):
            start = chance.randrange(len(text) - recipe.text_length)
            ids = text[start : start + recipe.text_length].tolist()
            groups.append([Encoded(ids[:1], ids[1:])])
    return groups


def _encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], length: int) -> Tensor:
    ids = [
        i
        for text in texts
        for i in (*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id)
    ]
    if len(ids) <= length:
        raise ConfigError(
            f"the plain text of data.texts has {len(ids)} tokens, rows of text_length {length} need more; "
            "give more texts, or set text_rows to 0"
        )
    return torch.tensor(ids, dtype=torch.int32)


def _backward(run: Run, model: torch.nn.Module, chunks: list[Packed]) -> float:
    """Accumulate the gradient of the mean loss over all answer tokens; returns that loss in nats."""
    count = sum(int((chunk.targets_BT >= 0).sum()) for chunk in chunks)
    total = 0.0
    for chunk in chunks:
        with run.accelerator.autocast():
            logits, targets = _answer_logits(model, chunk, run.accelerator.device)
            loss = F.cross_entropy(logits.float(), targets, reduction="sum") / count
        run.accelerator.backward(loss)
        total += loss.item()
    return total


def _answer_logits(model: torch.nn.Module, packed: Packed, device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits [N, V] where a target stands, and the N targets."""
    packed = Packed(*(tensor.to(device) for tensor in packed))
    logits = model(
        input_ids=packed.ids_BT,
        position_ids=packed.positions_BT,
        attention_mask=packed.mask_B1TT,
        use_cache=False,
    ).logits
    chosen = packed.targets_BT >= 0
    return logits[chosen], packed.targets_BT[chosen]


@torch.no_grad()
def followed(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[Task], rows: int = 4
) -> float:
    """Share of test answers in [0, 1] that greedy decoding would give, description in the prompt.

    One forward per chunk: an answer counts when each of its tokens is the likeliest one.
    """
    right = total = 0
    groups = [[render(tokenizer, r, description=t.descriptions[0]) for r in t.test[:rows]] for t in tasks]
    device = next(model.parameters()).device
    for packed in pack_in_chunks(groups, -(-len(groups) // 16), pad_id=cast(int, tokenizer.pad_token_id)):
        logits, targets = _answer_logits(model, packed, device)
        correct, count = packed.count_right(logits, targets)
        right, total = right + correct, total + count
    return right / max(total, 1)
