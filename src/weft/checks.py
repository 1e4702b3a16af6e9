"""What holds of every adapter folder, checked without torch, before anything is read or replaced."""

from collections.abc import Sequence
from pathlib import Path

from weft.errors import AdapterFormatError, MissingFileError, ShapeError, WeftError
from weft.files import check_free

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
PICKLE = "adapter_model.bin"
MAX_RANK = 8192
"""Ranks above this are refused: one such adapter would blow up every bank that it is stacked into."""
MAX_BASE = 200
"""Characters of the fingerprint of a base."""
MAX_TENSOR = 2 << 30
"""Bytes of one tensor."""
MAX_ADAPTER = 16 << 30
"""Bytes of all tensors of one adapter."""


def weights_file(folder: Path) -> Path:
    """The weights of an adapter folder. Raises AdapterFormatError for others, MissingFileError for none."""
    file = folder / WEIGHTS
    if not file.is_file():
        if (folder / PICKLE).is_file():
            raise AdapterFormatError(
                f"{folder / PICKLE} is a pickle, which can run code and is never read; "
                "save the adapter again as safetensors"
            )
        if (folder / f"{WEIGHTS}.index.json").is_file():
            raise AdapterFormatError(
                f"{folder} keeps its weights in several files, which PEFT does not read either; "
                f"join them into one {WEIGHTS}"
            )
        raise MissingFileError(f"no such file: {file}")
    return file


def check_shapes(
    where: str,
    a: Sequence[int],
    b: Sequence[int],
    *,
    rank: int | None = None,
    in_features: int | None = None,
    out_features: int | None = None,
    error: type[WeftError] = ShapeError,
) -> None:
    """Raise `error` unless A is [R, in] and B is [out, R], with 1 to MAX_RANK ranks and no size of 0.

    `where` names the module, and its file or adapter. A size that is not given may be any.
    """
    wanted = (rank, in_features, out_features, rank)
    fits = len(a) == len(b) == 2 and a[0] == b[1] and 0 not in (*a, *b)
    if not fits or any(want not in (None, have) for have, want in zip((*a, *b), wanted, strict=True)):
        r, i, o = (
            letter if size is None else size
            for letter, size in (("R", rank), ("in", in_features), ("out", out_features))
        )
        raise error(f"{where}: A is {tuple(a)} and B is {tuple(b)}, expected [{r}, {i}] and [{o}, {r}]")
    if a[0] > MAX_RANK:
        raise error(f"{where} has rank {a[0]}, a folder holds 1 to {MAX_RANK}; truncate it first")


def check_target(target: Path) -> None:
    """Raise SaveError for a place that holds anything but an adapter: replacing deletes what is in it."""
    check_free(target, "an adapter", (CONFIG, WEIGHTS, CARD) if (target / CONFIG).exists() else ())
