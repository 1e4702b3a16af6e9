"""What a run folder keeps of its recipe, data and base, and whether a run started there again is the same."""

import fcntl
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from weft.config import Config
from weft.errors import ConfigError, SaveError, WeftError
from weft.files import replace_file, resolve, to_json
from weft.reading import read_json, read_yaml, shown, shown_path
from weft.rows import AbstractHost

RECIPE, DATA, BASE = "config.yaml", "data.json", "base.json"

_HARMLESS = {
    "run.output_dir",
    "run.logging_steps",
    "run.eval_steps",
    "run.eval_on_start",
    "run.save_steps",
    "run.save_minutes",
    "run.report_to",
    "data.path",
    "data.test",
    "tokens_per_forward",
    "eval_rows",
    "early_stopping_patience",
}
"""Keys that change nothing of what is learned, or whose change the hash of the data tells better."""
_MAY_GROW = {"run.max_steps", "run.num_train_epochs"}
AGAIN = "choose another output_dir, or start again with weft train --no-resume"


def lock_folder(folder: Path) -> int:
    """Hold a folder until the descriptor that is returned is closed, or the process ends.

    Raises ConfigError when another run holds it: two runs in one folder would mix their metrics. Raises
    SaveError where there can be no such folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SaveError(f"output_dir {shown_path(folder)} cannot be a folder: {reason}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ConfigError(
            f"another run is under way in {shown_path(folder)}; wait for its end or choose another output_dir"
        ) from error
    except OSError:
        pass  # a file system without locks
    return handle


def keep(folder: Path, recipe: Config, data_hash: str | None) -> None:
    """Write a run's recipe and the hash of its data."""
    replace_file(folder / RECIPE, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    if data_hash is not None:
        replace_file(folder / DATA, to_json({"data_hash": data_hash}))


def check_same(folder: Path, recipe: Config, data_hash: str | None, *, free: Collection[str] = ()) -> None:
    """Raise ConfigError, naming the key, unless a recipe and its data go on with the run in a folder.

    Where it writes, how often it speaks and how many tokens a forward takes may differ, and so may the keys
    that are `free`; it may get longer.
    """
    if not (folder / RECIPE).is_file():
        raise ConfigError(
            f"{shown_path(folder)} lacks {RECIPE}, the recipe of its checkpoints; bring it back, or {AGAIN}"
        )
    now, then = _flat(recipe.model_dump(mode="json")), _flat(_kept(folder, recipe))
    for key in sorted(now.keys() | then.keys()):
        was: Any = then.get(key)
        now_is: Any = now.get(key)
        if (
            was == now_is
            or key in _HARMLESS
            or key in free
            or (key == "base" and _is_one_folder(was, now_is))
        ):
            continue
        if key in _MAY_GROW and isinstance(was, int | float) and now_is > was:
            continue
        raise ConfigError(
            f"{shown_path(folder)} holds a run of another recipe, where {key} is {shown(was)} "
            f"and not {shown(now_is)}; {AGAIN}"
        )
    if data_hash is None or not (folder / DATA).is_file():
        return
    kept = read_json(folder / DATA)
    if not isinstance(kept, dict) or kept.get("data_hash") != data_hash:
        raise ConfigError(f"the data has changed since the run in {shown_path(folder)} began; {AGAIN}")


def base_facts(host: AbstractHost) -> dict[str, str]:
    """What a folder keeps of the base: its fingerprint, and the hashes of its chat template and tokenizer."""
    template = getattr(host.tokenizer, "chat_template", None)  # a host that reads no text has no tokenizer
    return {
        "base": host.fingerprint,
        "chat_template": _hash(template),
        "tokenizer": _hash(_reads_by(host.tokenizer)),
    }


def check_base(folder: Path, host: AbstractHost, *, file: str = BASE) -> None:
    """Raise ConfigError where a file of a folder tells of another base, chat template or tokenizer.

    What the file does not tell, as those of older versions, may be any.
    """
    if not (folder / file).is_file():
        return
    then = read_json(folder / file)
    names = {
        "base": "the base",
        "chat_template": "the chat template of the base",
        "tokenizer": "the tokenizer of the base",
    }
    for key, now in base_facts(host).items():
        if not isinstance(then, dict) or then.get(key, now) != now:
            raise ConfigError(
                f"{names[key]} has changed since the run in {shown_path(folder)} began; {AGAIN}"
            )


def keep_base(folder: Path, host: AbstractHost) -> None:
    """Write what there is to know of a run's base."""
    replace_file(folder / BASE, to_json(base_facts(host)))


def _reads_by(tokenizer: Any) -> Any:
    """All that says which token ids a text has, but for a template."""
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [tokenizer.special_tokens_map, tokenizer.get_vocab()]
    states = json.loads(backend.to_str())
    of_a_call = {"truncation", "padding"}
    return [tokenizer.special_tokens_map, {k: v for k, v in states.items() if k not in of_a_call}]


def _hash(value: Any) -> str:
    return hashlib.sha256(to_json(value).encode()).hexdigest()


def _kept(folder: Path, recipe: Config) -> Mapping[str, Any]:
    """The recipe that a folder keeps, with today's defaults for keys that it did not know yet."""
    values = read_yaml(folder / RECIPE)
    try:
        return type(recipe).model_validate(values).model_dump(mode="json")
    except (ValidationError, WeftError):
        return values if isinstance(values, dict) else {}


def _is_one_folder(was: Any, now_is: Any) -> bool:
    """Whether a base that is named in another way is the same folder."""
    try:
        folders = [resolve(name) if isinstance(name, str) else None for name in (was, now_is)]
    except WeftError:
        return False
    return None not in folders and len({folder.resolve() for folder in folders if folder}) == 1


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    return dict(_pairs(values, before))


def _pairs(values: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _pairs(value, f"{before}{key}.")
        else:
            yield before + str(key), value
