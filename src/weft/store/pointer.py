"""Large tensors in a second place: a folder of files named by their sha256, to which a text in git points.

    version https://git-lfs.github.com/spec/v1
    oid sha256:<64 hex digits>
    size <bytes>

The text is git-lfs's own, and so is the order in the folder (ab/cd/abcd...), so either tool reads what the
other wrote. Which tensors go there is said by `weft-store.json`, the same for all; where the folder is, which
differs from machine to machine, by git's configuration (`weft.blobs`), never by the content.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from weft.checks import MAX_ADAPTER, MAX_TENSOR
from weft.errors import AdapterFormatError, ConfigError
from weft.files import replace_file
from weft.store.git import Git
from weft.store.layout import tensor_of

SETTING = "weft.blobs"
"""Key of git's configuration that names the folder."""
BLOBS_OVER = 1 << 20
"""Bytes from which tensors lie there, unless a store says otherwise."""
_START = b"version https://git-lfs.github.com/spec/v1\n"
_POINTER = re.compile(_START + rb"oid sha256:([0-9a-f]{64})\nsize (0|[1-9][0-9]{0,17})\n")


class Pointer(NamedTuple):
    """Which bytes are meant."""

    sha256: str
    size: int


def pointer_to(data: bytes) -> Pointer:
    """The pointer to some bytes."""
    return Pointer(hashlib.sha256(data).hexdigest(), len(data))


def pointer_bytes(pointer: Pointer) -> bytes:
    """The text that stands in git for what it points to."""
    return _START + f"oid sha256:{pointer.sha256}\nsize {pointer.size}\n".encode()


def parse_pointer(data: bytes, source: object) -> Pointer | None:
    """The pointer in a file, None for a file that is none. Raises AdapterFormatError for a damaged one.

    No tensor begins like a pointer: it would state a header of 10^18 bytes.
    """
    if not data.startswith(_START):
        return None
    found = _POINTER.fullmatch(data)
    if found is None:
        raise AdapterFormatError(f"{source} is a damaged pointer; it should state a sha256 and a size alone")
    pointer = Pointer(found[1].decode(), int(found[2]))
    if pointer.size > MAX_TENSOR:
        raise AdapterFormatError(f"{source} points to {pointer.size} bytes, at most {MAX_TENSOR} are read")
    return pointer


def blob_folder(git: Git) -> Path:
    """The second place of a repository. Raises ConfigError where git's configuration names none."""
    setting = git.run("config", "--type=path", "--get", SETTING, ok=(0, 1)).decode("utf-8", "surrogateescape")
    folder = setting.removesuffix("\n")
    if not folder:
        raise ConfigError(
            f"{git.root} keeps large tensors in a second place; name it with `git config {SETTING} FOLDER`"
        )
    if not Path(folder).is_absolute():
        raise ConfigError(f"{SETTING} should be an absolute path, it is {folder}")
    return Path(folder)


def put(folder: Path, data: bytes) -> Pointer:
    """Keep some bytes: written aside, then renamed. What is damaged is replaced. Raises SaveError."""
    pointer = pointer_to(data)
    place = _place(folder, pointer)
    with suppress(OSError):  # what cannot be read is written again
        if place.read_bytes() == data:
            return pointer
    replace_file(place, data)
    place.chmod(0o444)
    return pointer


def get(folder: Path, pointer: Pointer, what: object) -> bytes:
    """The bytes that a pointer means; `what` names them in errors. Raises AdapterFormatError."""
    place = _place(folder, pointer)
    try:
        size = place.stat().st_size
        if size == pointer.size:
            data = place.read_bytes()
            if pointer_to(data) == pointer:
                return data
    except FileNotFoundError:
        raise AdapterFormatError(
            f"{what}: sha256 {pointer.sha256} is missing in {folder}; fetch it from where others keep theirs"
        ) from None
    except OSError as error:
        raise AdapterFormatError(
            f"{what}: sha256 {pointer.sha256} cannot be read from {folder}: {error.strerror or error}"
        ) from error
    raise AdapterFormatError(
        f"{what}: sha256 {pointer.sha256} is damaged in {folder} ({size} bytes, should be {pointer.size}); "
        "put a whole copy in its place"
    )


def move_out(git: Git, tensors: Mapping[str, bytes], over: int | None) -> dict[str, bytes]:
    """Tensor files as git is to hold them: pointers for those of more than `over` bytes, kept from here on.

    None leaves all in git. Raises ConfigError where no folder is named, and SaveError.
    """
    large = {file for file, data in tensors.items() if over is not None and len(data) > over}
    folder = blob_folder(git) if large else Path()
    return {
        file: pointer_bytes(put(folder, data)) if file in large else data for file, data in tensors.items()
    }


def as_held(data: bytes, over: int | None) -> bytes:
    """What git holds of a tensor file: its pointer, where it has more than `over` bytes."""
    return pointer_bytes(pointer_to(data)) if over is not None and len(data) > over else data


def read_tensors(git: Git, tensors: Mapping[str, str], where: object) -> Iterator[tuple[str, bytes]]:
    """Name and content of tensor files, given by name and id; pointers are followed.

    Raises AdapterFormatError for what is missing, damaged or over its limit, ConfigError where no folder is
    named.
    """
    oids = list(tensors.values())
    total = sum(git.sizes(oids))
    _check_total(total, where)
    folder = None
    for file, data in zip(tensors, git.read_all(oids, "blob", MAX_TENSOR), strict=True):
        pointer = parse_pointer(data, f"{where}/{file}")
        if pointer is not None:
            total += pointer.size
            _check_total(total, where)
            folder = folder or blob_folder(git)
            data = get(folder, pointer, f"{where}: {tensor_of(file)}")
        yield file, data


def _check_total(total: int, where: object) -> None:
    if total > MAX_ADAPTER:
        raise AdapterFormatError(f"{where} has {total} bytes of tensors, at most {MAX_ADAPTER} are read")


def _place(folder: Path, pointer: Pointer) -> Path:
    return folder / pointer.sha256[:2] / pointer.sha256[2:4] / pointer.sha256
