"""`weft train`: one recipe, one run."""

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from cyclopts import Parameter, Token

from weft.cli.shared.flags import Flag, Json, Threads, set_threads
from weft.cli.shared.recipe import Overrides, print_recipe, read_recipe
from weft.cli.shared.screen import print_json
from weft.errors import ConfigError
from weft.files import nearest
from weft.plain import plain
from weft.reading import shown

Kind = Literal[
    "base",
    "lora",
    "library",
    "hyper",
    "reconstruct",
    "blend",
    "tree",
    "shift",
    "context",
    "stack",
    "mix",
]
_SPREAD = ("base", "lora", "hyper", "blend", "tree")
"""What several processes train together."""
_CALLED = {
    "sft": "lora",
    "finetune": "lora",
    "fine-tune": "lora",
    "qlora": "lora",
    "adapter": "lora",
    "adapters": "lora",
    "t2l": "hyper",
    "text-to-lora": "hyper",
    "hypernetwork": "hyper",
    "pretrain": "base",
    "model": "base",
    "router": "blend",
}
"""What other projects call a kind of training."""


def _kind(_: Any, tokens: Sequence[Token]) -> str:
    """One of the kinds. Raises ValueError, which cyclopts tells as an error of usage."""
    said, known = tokens[0].value, get_args(Kind)
    if said in known:
        return said
    meant = _CALLED.get(said.lower())
    hint = f" (did you mean {meant}?)" if meant else nearest(said, known)
    raise ValueError(f"there is no training {shown(said)}{hint}; there are {', '.join(known)}")


def train(
    kind: Annotated[Kind, Parameter(converter=_kind)],
    recipe: Path,
    /,
    *overrides: Overrides,
    host: str | None = None,
    resume: bool = True,
    threads: Threads = None,
    dry_run: Flag = False,
    json: Json = False,
) -> None:
    """Train what a recipe describes, and print where the result is.

    Every key of the recipe can be set: --section.key VALUE, or
    section.key=VALUE. A run that was stopped goes on from its last checkpoint.
    "accelerate launch -m weft.cli train ..." uses several devices, for base,
    lora, hyper, blend and tree. For example:

        weft train base recipes/letters/base.yaml
        weft train hyper recipes/letters/t2l.yaml --run.max-steps 100

    Args:
        kind: A small base model, task adapters, a library (one adapter for each of many tasks, each stopped
            by its own loss), a hypernetwork, a blend over a library of adapters, a tree of adapters, a shift
            (adapters that change while the model speaks), a network that presses texts into adapters, a
            stack of levels over a hypernetwork, a mix of such sources, or a hypernetwork that writes down
            the adapters of a library (reconstruct).
        recipe: The recipe, a YAML file.
        host: swarm:NAME trains through the workers of that swarm; for lora and hyper.
        resume: Go on from the last checkpoint, or start again.
        dry_run: Print the whole recipe, and train nothing.
    """
    from weft.train.recipe import BaseConfig

    schema, run = trainer_of(kind)
    config = read_recipe(schema, recipe, overrides)
    if dry_run:
        print_recipe(config, json=json)
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and kind not in _SPREAD:
        raise ConfigError(f"{kind} is trained by one process; {', '.join(_SPREAD)} by several too")
    set_threads(threads)
    spread = {}
    if host is not None:
        if kind not in ("lora", "hyper"):
            raise ConfigError(f"--host trains lora and hyper; {kind} is trained on a base of this process")
        from weft.cli.shared.model import open_spread

        spread = {"host": open_spread(host)}
        if isinstance(config, BaseConfig) and config.base != spread["host"].name:
            runs = spread["host"].name
            raise ConfigError(f"the recipe is over {config.base}, {host} runs {runs}; add --base {runs}")
    made = run(config, resume=resume, **spread)
    folders = [str(folder) for folder in (made.values() if isinstance(made, dict) else [made])]
    print_json({"folders": folders}) if json else print(plain("\n".join(folders), keep="\n"))


def trainer_of(kind: Kind) -> tuple[Any, Callable[..., Path | dict[str, Path]]]:
    """The recipe's schema, and what runs it and returns the folder, or one for each task."""
    module = import_module(f"weft.train.{kind}")
    return getattr(module, f"{kind.title()}Recipe"), getattr(module, f"train_{kind}")
