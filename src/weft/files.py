"""Names and folders: finding them, and writing so that nothing whole is ever lost."""

import difflib
import fcntl
import glob
import json
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from weft.errors import MissingFileError, SaveError, UnknownNameError, WeftError
from weft.reading import read_json as read_json
from weft.registry import NAMED, kept_in

_EMBEDDED = "weft/"
_HERE, _EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of renameat2(2)."""
_ASIDE, _OLD = ".weft-", ".old"
"""What is written goes into `.NAME.weft-xxxxxxxx`; a former folder is that with `.old` for a moment."""
_LEFTOVER = re.compile(r"\.(.+)\.weft-[a-z0-9_]{8}(\.old)?")
_FROM_RUST = re.compile(r"\(os error (\d+)\)")
"""How errors of safetensors and tokenizers, which are of other kinds, tell the machine's refusal."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


@contextmanager
def replace_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it takes the place of `path`, on failure it goes.

    A reader sees the old folder or the new one, whole. On Linux the two change places in one step; elsewhere
    a process killed in between leaves the old one beside `path`, under a name of its own. A link is kept, and
    the folder that it leads to is replaced. What a killed process left goes with the next call. Raises
    SaveError when the disk refuses.
    """
    target = Path(os.path.realpath(path))
    fresh = _aside(target)
    handle = -1
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        fresh.mkdir()
        handle = os.open(fresh, os.O_RDONLY)
        _hold(handle)
        fresh.chmod(0o755)
        yield fresh
        for file in fresh.rglob("*"):
            if file.is_file():
                _sync(file)
        _put(fresh, target)
    except Exception as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise SaveError(f"could not write {target}: {refusal}; what was there before is untouched") from error
    finally:
        _remove(fresh)
        if handle >= 0:
            os.close(handle)


def check_free(target: Path, what: str, own: Collection[str]) -> None:
    """Raise SaveError where no folder can be written, or it holds more than `own`: replacing deletes it."""
    around = next(found for found in Path(os.path.realpath(target)).parents if found.exists())
    if not around.is_dir():
        raise SaveError(f"could not write {target}: {around} is a file")
    if not os.access(around, os.W_OK | os.X_OK):
        raise SaveError(f"could not write {target}: nothing may be written into {around}")
    if target.exists() and not target.is_dir():
        raise SaveError(f"{target} is a file; {what} needs a folder of its own")
    names = {found.name for found in target.iterdir()} if target.is_dir() else set()
    others = sorted(name for name in names - set(own) if not _LEFTOVER.fullmatch(name))
    if others:
        raise SaveError(f"{target} holds other files ({others[0]}); {what} needs a folder of its own")


def remove_leftovers(folder: Path) -> None:
    """Take away what a killed process left in a folder; a former folder that lacks is put back.

    Only for a folder that no other process writes into.
    """
    for found in list(folder.iterdir()) if folder.is_dir() else ():
        match = _LEFTOVER.fullmatch(found.name)
        if match is not None and match[2] and not os.path.lexists(folder / match[1]):
            os.rename(found, folder / match[1])
        elif match is not None:
            _remove(found)


def folders_with(folder: Path, file: str) -> list[Path]:
    """The folders right inside a folder that hold a file, by name; hidden ones (`.name`) are none."""
    found = (path.parent for path in folder.glob(f"*/{file}"))
    return sorted(path for path in found if not path.name.startswith("."))


def _refusal(error: Exception) -> str | None:
    """What the machine refused; None for an error of another kind."""
    if isinstance(error, WeftError):
        return None
    if isinstance(error, OSError):
        return error.strerror or str(error)
    told = _FROM_RUST.search(str(error))
    return None if told is None else os.strerror(int(told[1]))


def _aside(target: Path) -> Path:
    """A place beside another, where it is written."""
    return target.with_name(f".{target.name}{_ASIDE}{secrets.token_hex(4)}")


def _hold(handle: int) -> None:
    """Say that somebody writes here, until the handle is closed or the process ends."""
    with suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_EX)


def _sweep(target: Path) -> None:
    """Take away what killed processes wrote for a target: nobody holds it, and it is not just begun."""
    for found in target.parent.glob(f".{glob.escape(target.name)}{_ASIDE}*"):
        if (match := _LEFTOVER.fullmatch(found.name)) is None or match[2]:
            continue
        with suppress(OSError):
            handle = os.open(found, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if any(found.iterdir()) if found.is_dir() else found.stat().st_size:
                    _remove(found)
            finally:
                os.close(handle)


def _put(fresh: Path, target: Path) -> None:
    """Let a folder take the place of another, which comes back where that fails."""
    if _exchanged(fresh, target):
        return
    old = fresh.with_name(fresh.name + _OLD)
    try:
        with suppress(FileNotFoundError):
            os.rename(target, old)
        try:
            os.rename(fresh, target)
        except OSError:
            if not _exchanged(fresh, target):  # another process wrote here in between
                raise
    finally:
        if os.path.lexists(old) and not os.path.lexists(target):
            os.rename(old, target)
    _remove(old)


def _exchanged(fresh: Path, target: Path) -> bool:
    """Let two folders take each other's place in one step; False where the system has no such step."""
    import ctypes  # here: the store starts as fast as git does

    exchange = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    places = (_HERE, os.fsencode(fresh), _HERE, os.fsencode(target))
    return exchange is not None and exchange(*places, _EXCHANGE) == 0


def _remove(path: Path) -> None:
    """Take away a folder, or the link that stood for one."""
    with suppress(OSError):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink()


def replace_file(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file aside, then rename it into place. Raises SaveError when the disk refuses.

    A link is kept, and the file that it leads to is replaced; a pipe or device is written to.
    """
    data = content.encode() if isinstance(content, str) else content
    target = Path(os.path.realpath(path))
    aside = _aside(target)
    try:
        if _is_stream(path):
            Path(path).write_bytes(data)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        with aside.open("xb") as file:
            _hold(file.fileno())
            file.write(data)
            file.flush()
            _sync(aside)
            os.replace(aside, target)
    except OSError as error:
        raise SaveError(
            f"could not write {target}: {error.strerror or error}; what was there before is untouched"
        ) from error
    finally:
        _remove(aside)


def _is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a pipe, a terminal or a device, which no file may take the place of."""
    try:
        kind = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(kind) or stat.S_ISDIR(kind))


def _sync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def to_json(value: Any) -> str:
    """JSON with sorted keys and a final newline: equal values give equal bytes."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def is_name(name: str) -> bool:
    """Whether a name may become part of a path: letters, digits, `.`, `_`, `-`, `+`, at most 100."""
    return _NAME.fullmatch(name) is not None


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean X?)`, or nothing when no known name is close."""
    close = difflib.get_close_matches(name[:100], list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def embedded_folder() -> Path:
    """Folder of the models that ship with Weft."""
    inside = Path(__file__).parent / "models"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "models"


def resolve(name: str | os.PathLike[str]) -> Path | None:
    """Folder meant by a name of Weft's (`weft/letters`) or by a local path; None for anything else.

    A repository in the Hub's cache (`models--OWNER--NAME`) means the snapshot of its main branch. Raises
    UnknownNameError for such a name that does not exist, MissingFileError for a model not fetched yet.
    """
    text = os.fspath(name)
    if text in NAMED and not os.path.isdir(text):
        folder = kept_in(NAMED[text])
        if not folder.is_dir():
            raise MissingFileError(f"{text} is not on this machine yet; fetch it with: weft pull {text}")
        return folder
    if text.startswith(_EMBEDDED) and not os.path.isdir(text):
        parts = text.removeprefix(_EMBEDDED).split("/")
        folder = embedded_folder().joinpath(*parts)
        if not all(map(is_name, parts)) or not folder.is_dir():
            known = sorted([*NAMED, *(_EMBEDDED + p.name for p in embedded_folder().glob("*") if p.is_dir())])
            raise UnknownNameError(f"no model {text}{nearest(text, known)}; there are {', '.join(known)}")
        return folder
    if not os.path.isdir(text):
        return None
    main = Path(text) / "refs/main"
    commit = main.read_text(errors="replace").strip() if main.is_file() else ""
    snapshot = Path(text) / "snapshots" / commit
    return snapshot if is_name(commit) and snapshot.is_dir() else Path(text)


def found_near(name: str, folder: Path) -> str:
    """The path of a folder that a config in `folder` names, relative to where the config was made.

    It leads on from here, else from the nearest folder around `folder` from which it does, so that a project
    may be moved, and used from anywhere. What leads to no folder, such as a hub id, stays. Raises what
    `resolve` raises.
    """
    if name and resolve(name) is None:
        for around in folder.resolve().parents:
            if (around / name).is_dir():
                return str(around / name)
    return name


def base_named_in(folder: Path) -> str | None:
    """The base that the config.json of a network or tree names, as `found_near` finds it; None for none.

    Raises what `read_json` and `resolve` raise.
    """
    values = read_json(folder / "config.json")
    told = values.get("provenance") if isinstance(values, dict) else None
    named = told.get("base_model") if isinstance(told, dict) else None
    return found_near(named, folder) if named and isinstance(named, str) else None
