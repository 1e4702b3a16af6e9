"""Adapters on the Hugging Face Hub: found by id, fetched into its cache, and pushed."""

from __future__ import annotations

import os
import re
from pathlib import Path

from weft.checks import CARD, CONFIG, WEIGHTS, weights_file
from weft.errors import MissingFileError, SaveError, UnsupportedAdapterError
from weft.files import folders_with, read_json, resolve
from weft.plain import reason_of
from weft.reading import shown_path

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_FILES = (CONFIG, WEIGHTS, CARD, "adapters.safetensors")
"""The files of an adapter; nothing else of a repository is fetched or pushed."""


def folder_of(path: str | os.PathLike[str], *, revision: str | None = None) -> tuple[Path, str]:
    """The folder of an adapter, and its name: a folder, an adapter that ships with Weft, or a Hub id.

    What is fetched stays in the Hub's cache, which serves without a network too. Raises MissingFileError,
    UnknownNameError for a name of Weft's that does not exist.
    """
    folder = resolve(path)
    if folder is not None:
        _check_place(folder)
        whole = folder.resolve()
        in_cache = whole.parent.name == "snapshots" and whole.parents[1].name.startswith("models--")
        return folder, whole.parents[1].name.rpartition("--")[2] if in_cache else whole.name
    name = os.fspath(path)
    if not _ID.fullmatch(name):
        raise MissingFileError(f"no adapter folder at {name}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(name, revision=revision, allow_patterns=list(_FILES))
    except (OSError, ValueError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise MissingFileError(
            f"no adapter {name}: no folder, nor within reach on the Hub ({reason_of(error)})"
        ) from error
    if not (Path(found) / CONFIG).is_file():
        raise MissingFileError(f"{name} on the Hub is no adapter: it has no {CONFIG}")
    return Path(found), name.rpartition("/")[2]


def _check_place(folder: Path) -> None:
    """Raise MissingFileError for a folder of adapters that is none itself, as trainers write."""
    inside = [] if (folder / CONFIG).is_file() else folders_with(folder, CONFIG)
    if inside:
        listed = ", ".join(shown_path(path) for path in inside[:3])
        more = f" and {len(inside) - 3} more" if len(inside) > 3 else ""
        raise MissingFileError(f"{shown_path(folder)} is no adapter, it holds some: name {listed}{more}")


def push(
    path: str | os.PathLike[str], repository: str, *, private: bool = False, message: str | None = None
) -> str:
    """Upload an adapter folder to the Hub as it is, config, weights and card; returns its address.

    The repository is made where it is not there. Nothing else of the folder is sent. Log in first, with
    `hf auth login` or HF_TOKEN. The adapter is read before, so that what arrives can be loaded.

    Raises MissingFileError for no folder, what `load` raises, UnsupportedAdapterError for one of mlx-lm, and
    SaveError where the Hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    from weft.adapters.peft_folder import load

    folder = resolve(path)
    if folder is None:
        raise MissingFileError(f"no adapter folder at {os.fspath(path)}")
    adapter = load(folder)
    weights_file(folder)
    if "peft_type" not in read_json(folder / CONFIG):
        raise UnsupportedAdapterError(f"{folder} is a folder of mlx-lm; save it as a PEFT folder first")
    try:
        hub = HfApi()
        address = str(hub.create_repo(repository, private=private, exist_ok=True))
        hub.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=[CONFIG, WEIGHTS, CARD],
            commit_message=message or f"Adapter {adapter.name}",
        )
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        raise SaveError(f"could not push to {repository}: {reason_of(error)}") from error
    return address
