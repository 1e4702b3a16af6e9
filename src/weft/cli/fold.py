"""`weft fold`: adapters into the base's own weights, and the base out of the note that is left there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from weft.cli.shared.flags import BaseMismatch, Json, OutputFolder
from weft.cli.shared.model import load_adapters, open_host
from weft.cli.shared.screen import print_json, print_pairs
from weft.errors import BaseMismatchError, ConfigError, MissingFileError, SaveError
from weft.files import check_free, read_json, replace_folder, to_json

if TYPE_CHECKING:
    from torch import nn

    from weft.host import Host

NOTE = "weft_fold.json"
"""What a folded model was made of, beside its weights."""


def fold(
    *folders: str,
    output_dir: OutputFolder,
    weights: Annotated[tuple[float, ...], Parameter(alias="-w", consume_multiple=True)] = (),
    unfold: Path | None = None,
    base_mismatch: BaseMismatch = "refuse",
    json: Json = False,
) -> None:
    """Write a plain model with adapters folded into its weights, or take them out.

    The model runs without Weft, at no cost for the adapters, in the number type
    that the base was saved in. Unfolding does not subtract, which would leave
    rounding behind: it reads the base that the model was made from, checks that
    it is the same to the last bit, and writes it. For example:

        weft fold weft/letters out/ -o model/
        weft fold --unfold model/ -o base/

    Args:
        folders: The base (folder, hub id or embedded name), then adapter folders.
        output_dir: Folder to write; a folded model that is there is replaced, anything else is refused.
        weights: One for each adapter; 1 unless given.
        unfold: A model that this command wrote, whose base is wanted back.
        base_mismatch: What to do with an adapter of another base: refuse it, warn, or allow it in silence.
    """
    _check_target(output_dir)
    if unfold is not None:
        if folders or weights:
            raise ConfigError("--unfold reads what it needs from the model; give neither folders nor weights")
        facts = _unfold(unfold, output_dir)
    elif len(folders) < 2:
        raise ConfigError(f"fold needs a base and at least one adapter, got {len(folders)} folders")
    else:
        facts = _fold(folders[0], folders[1:], weights, output_dir, base_mismatch)
    print_json(facts) if json else print_pairs(facts)


def _fold(
    name: str, folders: Sequence[str], weights: Sequence[float], output_dir: Path, on_mismatch: BaseMismatch
) -> dict[str, Any]:
    from weft.adapters import concat, fingerprint
    from weft.adapters import fold as fold_in
    from weft.host import compare_copies, fitted

    adapters, weights = load_adapters(folders, weights)
    host = open_host(name, adapters=adapters)
    for folder in folders:
        compare_copies(folder, host)
    adapters = [fitted(adapter, host, on_mismatch) for adapter in adapters]
    note: dict[str, Any] = {
        # A hub id stays one; a path must be found from anywhere.
        "base": str(Path(name).resolve()) if Path(name).is_dir() else name,
        "base_fingerprint": host.fingerprint,
        "base_sha256": _digest(host.module),
        "adapters": [
            {"name": adapter.name, "path": str(Path(folder).resolve()), "weight": weight}
            for adapter, folder, weight in zip(adapters, folders, weights, strict=True)
        ],
    }
    # The sum first, so that low-precision weights are rounded once.
    fold_in(host.module, concat(adapters, weights))
    note["fingerprint"] = fingerprint(host.module)
    _write(host, output_dir, note)
    return {"path": str(output_dir), **{k: note[k] for k in ("base", "base_fingerprint", "fingerprint")}} | {
        "adapters": [adapter.name for adapter in adapters],
        "dtype": str(host.dtype).removeprefix("torch."),
    }


def _unfold(folder: Path, output_dir: Path) -> dict[str, Any]:
    if not (folder / NOTE).is_file():
        raise MissingFileError(f"{folder} has no {NOTE}; only a model that `weft fold` wrote can be unfolded")
    note = read_json(folder / NOTE)
    for key in ("base", "base_fingerprint", "base_sha256"):
        if not isinstance(note, dict) or not isinstance(note.get(key), str):
            raise ConfigError(f"{folder / NOTE} should name {key}; fold the model again")
    host = open_host(note["base"])
    if _digest(host.module) != note["base_sha256"]:
        raise BaseMismatchError(
            f"{note['base']} is no longer the base that {folder} was made from: its fingerprint is "
            f"{host.fingerprint}, then it was {note['base_fingerprint']}, or weights changed in between"
        )
    _write(host, output_dir, None)
    return {"path": str(output_dir), "base": note["base"], "fingerprint": host.fingerprint}


def _check_target(target: Path) -> None:
    if target.is_dir() and any(target.iterdir()) and not (target / NOTE).is_file():
        raise SaveError(f"{target} holds something that `weft fold` did not write; choose another folder")
    check_free(target, "a model", os.listdir(target) if target.is_dir() else ())


def _write(host: Host, target: Path, note: dict[str, Any] | None) -> None:
    from weft.host.bars import no_bars

    model: Any = host.module
    with replace_folder(target) as folder, no_bars():
        model.save_pretrained(folder)
        if host.tokenizer is not None:
            host.tokenizer.save_pretrained(folder)
        if note is not None:
            (folder / NOTE).write_text(to_json(note), encoding="utf-8")


def _digest(module: nn.Module) -> str:
    """SHA-256 of every weight and its name, to the last bit."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
