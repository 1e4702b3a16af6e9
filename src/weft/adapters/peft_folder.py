"""One PEFT folder in and out: `adapter_config.json`, `adapter_model.safetensors`, `README.md`.

Tensors go through byte for byte. What Weft adds (the base's fingerprint, provenance) lies in the metadata of
the safetensors, where PEFT does not look. Nothing is unpickled, and no tensor is read before its shape fits.
"""

import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors import SafetensorError, safe_open

from weft.adapters.card import card
from weft.adapters.check import check_factors, check_finite
from weft.adapters.hub import folder_of
from weft.adapters.lora_config import config_of, parse, unknown_keys
from weft.adapters.mlx_folder import is_mlx, read_mlx
from weft.adapters.peft_plan import Plan, plan_of
from weft.adapters.provenance import provenance_text, read_provenance
from weft.adapters.site import site_at
from weft.adapters.weights import tensor_bytes
from weft.checks import CARD, CONFIG, MAX_BASE, WEIGHTS, check_target, weights_file
from weft.errors import (
    AdapterFormatError,
    BaseCopyWarning,
    BaseMismatchError,
    ShapeError,
    WeftError,
)
from weft.files import read_json, replace_folder
from weft.reading import shown
from weft.tensor_file import read_header
from weft.types import Adapter, Factors, Site

_BASE, PROVENANCE = "weft_base", "weft_provenance"


def load(
    path: str | os.PathLike[str], *, base: str = "", revision: str | None = None, activated: bool = False
) -> Adapter:
    """Read one LoRA of PEFT or mlx-lm onto the CPU: a folder, a Hub id, or one that ships with Weft.

    `base` is the fingerprint of the base that it is meant for; a folder that names another one is refused,
    and a folder that names none takes it over. The adapter's name is the folder's or the repository's. As in
    PEFT, tensors of modules that the config leaves out are not read; a warning names them. Copies of base
    weights that PEFT saves beside a head's LoRA are not read either: `check_copies` compares them.

    Raises MissingFileError, AdapterFormatError for a damaged folder (also ConfigError for invalid JSON or a
    path that cannot be one), UnsupportedAdapterError for a kind that Weft does not run, and
    BaseMismatchError.

    Args:
        path: A folder, the id of a Hub repository, or the name of an adapter that ships with Weft.
        base: Fingerprint of the base that it is meant for; empty compares nothing.
        revision: Branch, tag or commit of a Hub repository.
        activated: Whether a LoRA with `alora_invocation_tokens` is read too; whoever says so runs it with
            `weft.engine.Activated`, since elsewhere it would act on every token.

    Example:
        >>> adapter = weft.load("weft/letters-adapters/reverse")
        >>> adapter.name, adapter.rank
        ('reverse', 4)
    """
    folder, name = folder_of(path, revision=revision)
    values = read_json(folder / CONFIG)
    if not isinstance(values, dict):
        raise AdapterFormatError(f"{folder / CONFIG} should hold keys and values, it holds {shown(values)}")
    if is_mlx(values):
        return _load_mlx(folder, name, values, base)
    config = parse(values, folder / CONFIG, activated=activated)
    unknown = unknown_keys(values)
    if unknown:
        listed = ", ".join(unknown)[:200]
        warnings.warn(f"{folder / CONFIG}: ignoring keys unknown to PEFT: {listed}", stacklevel=2)
    file = weights_file(folder)
    header = read_header(file)
    plan = plan_of(file, config, header)
    if plan.left_out:
        warnings.warn(
            f"{file}: left out {len(plan.left_out)} modules that {CONFIG} does not choose, as PEFT does, "
            f"{plan.left_out[0]} first",
            stacklevel=2,
        )
    if plan.copies:
        warnings.warn(
            f"{file}: not read: a copy of base weights ({next(iter(plan.copies))}); "
            "weft.adapters.check_copies compares it with the base",
            BaseCopyWarning,
            stacklevel=2,
        )
    named = (header.metadata or {}).get(_BASE, "")
    if len(named) > MAX_BASE:
        raise AdapterFormatError(f"{file}: its base {shown(named)} is no fingerprint, it is too long")
    if base and named and base != named:
        raise BaseMismatchError(f"{folder} belongs to base {named}, not to {base}")
    provenance = read_provenance((header.metadata or {}).get(PROVENANCE, "{}"), f"{file}: its provenance")
    return Adapter(
        MappingProxyType(_read(file, plan)),
        base=named or base,
        name=name,
        peft_config=MappingProxyType(values),
        provenance=MappingProxyType(provenance),
    )


def _load_mlx(folder: Path, name: str, values: dict[str, Any], base: str) -> Adapter:
    named = values.get("model")
    return Adapter(
        MappingProxyType(read_mlx(folder, values)),
        base=base,
        name=name,
        provenance=MappingProxyType({"base_model": named} if isinstance(named, str) and named else {}),
    )


def load_each(folders: Iterable[Path], *, strict: bool = False) -> dict[Path, Adapter]:
    """Adapters by their folder; one that cannot be read is named in a warning and left out, unless `strict`.

    Raises what `load` raises: for the first one where `strict`, else where none could be read.
    """
    adapters: dict[Path, Adapter] = {}
    errors: list[tuple[Path, WeftError]] = []
    for folder in folders:
        try:
            adapters[folder] = load(folder)
        except WeftError as error:
            if strict:
                raise
            errors.append((folder, error))
    if errors and not adapters:
        raise errors[0][1]
    for folder, error in errors:
        warnings.warn(f"left out {folder}: {error}", stacklevel=2)
    return adapters


def save(adapter: Adapter, path: str | os.PathLike[str]) -> None:
    """Write an adapter as a PEFT folder; equal adapters give equal bytes. A former adapter there is replaced.

    `provenance["base_model"]` becomes `base_model_name_or_path` for an adapter that was made here.

    Raises ShapeError for factors that no folder can hold (no sites, ranks that disagree), WeightsError for
    those that are not finite, and SaveError when the disk refuses or when `path` holds anything but an
    adapter; what was there stays whole.

    Args:
        adapter: What is written.
        path: The folder, made where it is not there.

    Example:
        >>> weft.save(weft.load("weft/letters-adapters/reverse"), "out")
        >>> weft.load("out").name
        'out'
    """
    if not adapter.factors:
        raise ShapeError(f"adapter {adapter.name} changes no module, there is nothing to save")
    check_factors(adapter)
    check_target(Path(path))
    provenance = provenance_text(adapter.provenance, f"the provenance of {adapter.name}")
    config = config_of(adapter)
    tensors = {}
    for site, (a_RI, b_OR, _) in adapter.factors.items():
        tensors[f"base_model.model.{site.path}.lora_A.weight"] = a_RI
        tensors[f"base_model.model.{site.path}.lora_B.weight"] = b_OR
    metadata = {}
    if adapter.base:
        metadata[_BASE] = adapter.base
    if adapter.provenance:
        metadata[PROVENANCE] = provenance
    weights = tensor_bytes(tensors, metadata)
    with replace_folder(path) as folder:
        # Key order is kept: of two patterns that match one module, PEFT takes the first.
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (folder / CONFIG).write_text(text, encoding="utf-8")
        (folder / CARD).write_text(card(adapter), encoding="utf-8")
        (folder / WEIGHTS).write_bytes(weights)


def _read(file: Path, plan: Plan) -> dict[Site, Factors]:
    factors = {}
    try:
        with safe_open(file, framework="pt") as weights:
            for path, scaling in plan.scalings.items():
                # Copies: the library's own tensors are windows into a file that may change.
                a_RI, b_OR = (
                    weights.get_tensor(f"base_model.model.{path}.lora_{x}.weight").clone() for x in "AB"
                )
                factors[site_at(path, a_RI.shape[1], b_OR.shape[0])] = Factors(a_RI, b_OR, scaling)
    except SafetensorError as error:
        raise AdapterFormatError(f"{file} is damaged or cut short: {error}") from error
    for site, of_site in factors.items():
        check_finite(f"{file}: {site.path}", of_site, error=AdapterFormatError)
    return factors
