"""What the trainings over a frozen base share: keys of their recipes, and what their results tell."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from transformers import PreTrainedModel

from weft.config import Config
from weft.embed import EncoderConfig
from weft.errors import ConfigError
from weft.host import Host
from weft.hyper import T2LConfig
from weft.train.answer_logits import language_model
from weft.train.optimizer import OptimizerConfig
from weft.train.run import RunConfig


class BaseConfig(Config):
    """A frozen base, and how it attends."""

    base: str
    """Embedded name, folder or hub id of the frozen base."""
    attn_implementation: Literal["eager", "sdpa"] = "sdpa"
    """As in transformers; on a CPU, short rows take a quarter to a third less time with `eager`, which a base
    without `sdpa` has in any case."""


class AbstractRecipe(BaseConfig):
    """Where a run lives, and over which base."""

    run: RunConfig
    optimizer: OptimizerConfig = OptimizerConfig()


class AbstractNetworkRecipe(AbstractRecipe):
    """An encoder of descriptions, the network behind it, and how that is saved."""

    encoder: EncoderConfig
    encoder_cache: str = "runs/encoder-cache"
    """Folder that remembers the vectors of texts."""
    network: T2LConfig = T2LConfig()
    target_modules: str | list[str] = "all-linear"
    """`all-linear`, names of modules, or a regular expression over whole paths, as in PEFT."""
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the saved file; a network runs in float32."""
    name: str = "hypernetwork"
    """What the network is called in its folder's config."""


AnyRecipe = TypeVar("AnyRecipe", bound=AbstractRecipe)


def inside(recipe: AnyRecipe, name: str, *, seed: int, **changes: Any) -> AnyRecipe:
    """The same with another seed and these changes, run in a folder of this name inside its own."""
    folder = str(Path(recipe.run.output_dir) / name)
    run = recipe.run.model_copy(update={"output_dir": folder, "seed": seed})
    return recipe.model_copy(update={"run": run, **changes})


def load_base(
    recipe: BaseConfig,
    device: torch.device | str,
    *,
    target_modules: str | Sequence[str],
    dtype: str = "float32",
) -> Host:
    """The frozen base of a recipe, with the attention that it asks for.

    Raises ConfigError for one without a tokenizer, and what loading a host raises.
    """
    modules = target_modules if isinstance(target_modules, str) else list(target_modules)
    host = Host.from_pretrained(recipe.base, dtype=dtype, device=str(device), target_modules=modules)
    if host.tokenizer is None:
        raise ConfigError(
            f"{recipe.base} has no tokenizer, so it reads no rows; put the tokenizer's files beside it"
        )
    _attend(language_model(host), recipe.attn_implementation)
    return host


def _attend(module: PreTrainedModel, way: str) -> None:
    try:
        module.set_attn_implementation(way)
    except ValueError:  # Gemma 2 has no sdpa, and transformers attends eagerly where nobody asks
        module.set_attn_implementation("eager")


def provenance(recipe: AbstractRecipe, *, placed: bool = False, **facts: Any) -> dict[str, Any]:
    """What a result says of its making: base, recipe, seed, and these facts.

    Only where `placed` does it tell the folder of its run too: elsewhere equal runs leave equal bytes.
    """
    left_out = {} if placed else {"run": {"output_dir", "report_to"}}
    values = recipe.model_dump(mode="json", exclude=left_out)
    return {"base_model": recipe.base, "recipe": values, "seed": recipe.run.seed, **facts}
