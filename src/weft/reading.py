"""Text from outside: read once, here, and whatever is wrong with it said in one line.

Files, JSON, YAML and patterns come from other people. What Python, PyYAML and `re` raise on them becomes a
ConfigError that names the place; sizes, nesting and aliases are bounded, and no message repeats a long value.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weft.errors import ConfigError, MissingFileError
from weft.plain import plain

POINTER = b"version https://git-lfs.github.com/spec/"
"""How the file begins that git leaves where git-lfs is not installed."""

_YAML_BYTES = 4 << 20
_YAML_NODES = 1_000_000
_JSON_BYTES = 256 << 20
_LINE_BYTES = 64 << 20
_DEPTH = 100


def shown(value: object, limit: int = 80) -> str:
    """A value as a message shows it: in quotes where it is text, escaped, and never longer than `limit`.

    Only as much of it is looked at as is shown, however large it is or however often it holds itself.
    """
    text = _shorten(value, limit, 6)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def read_bytes(path: str | os.PathLike[str], limit: int = _JSON_BYTES) -> bytes:
    """The bytes of one file. Raises MissingFileError or ConfigError that names it and the cause."""
    file = check_file(path)
    try:
        size = file.stat().st_size
        if size > limit:
            raise ConfigError(f"{shown_path(file)} has {size} bytes, at most {limit} are read")
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{shown_path(file)} cannot be read: {error.strerror or error}") from error


def read_text(path: str | os.PathLike[str], limit: int = _JSON_BYTES) -> str:
    """The text of one UTF-8 file, without a byte order mark. Raises what `read_bytes` raises."""
    return decode(read_bytes(path, limit), shown_path(path))


def decode(content: bytes, where: str) -> str:
    """Bytes as UTF-8 text, without a byte order mark. Raises ConfigError."""
    refuse_pointer(content, where)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        place = f"{where}, line {line}" if b"\n" in content.rstrip(b"\n") else where
        raise ConfigError(
            f"{place}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error


def refuse_pointer(content: bytes, where: str) -> None:
    """Raise MissingFileError where a git-lfs pointer stands in place of a file's content."""
    if content.startswith(POINTER):
        raise MissingFileError(f"{where} is a git-lfs pointer, not the file itself; run git lfs pull")


def check_file(path: str | os.PathLike[str]) -> Path:
    """The path of a file that is there, or of a pipe of this process: `<(command)` of a shell, /dev/stdin.

    Raises MissingFileError, ConfigError for what can be no path.
    """
    file = Path(path)
    try:
        # Elsewhere a pipe may wait for ever for somebody to write.
        found = file.is_file() or (file.is_fifo() and file.parts[:2] == ("/", "dev"))
        folder = file.is_dir()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{shown_path(file)} can be no path: {_reason(error)}") from error
    if not found:
        what = "this is a folder, not a file" if folder else "no such file"
        if not folder and file.exists():
            what = "this is a pipe or a device, not a file"
        raise MissingFileError(f"{what}: {shown_path(file)}")
    return file


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path as a message shows it: whole unless it is very long, escaped."""
    text = plain(os.fspath(path))
    return text if len(text) <= 300 else f"{text[:140]}...{text[-140:]}"


def check_text(text: str, what: str) -> str:
    """The text itself. Raises ConfigError where it holds half a character and so cannot be written down."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = f"character {error.start + 1}"
        raise ConfigError(
            f"{what} holds a lone surrogate, {where} of {shown(text)}; mend its text"
        ) from error
    return text


def parse_json(text: str, where: str, *, unique: bool = False) -> Any:
    """JSON as Python values. Raises ConfigError that begins with `where`; `unique` refuses repeated keys."""

    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):  # json would keep the last one without a word
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ConfigError(f"{where}: the key {shown(twice)} is given twice; keep one")
        return found

    try:
        value = json.loads(text, object_pairs_hook=checked if unique else None)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except ConfigError:
        raise
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{where} holds a lone surrogate ({plain(error.object[error.start])}), half of a character; "
            "mend its text"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not valid JSON: {_reason(error)}") from error
    return value


def read_json(path: str | os.PathLike[str], limit: int = _JSON_BYTES, *, unique: bool = False) -> Any:
    """Read one JSON file. Raises MissingFileError, or ConfigError as `parse_json` does, naming the file."""
    return parse_json(read_text(path, limit), shown_path(path), unique=unique)


def read_json_lines(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file, line n", object) for every line that is not blank; a name ending in .gz is unpacked.

    Raises MissingFileError, or ConfigError that names the file and the line.
    """
    for where, line in read_lines(path):
        value = parse_json(line, where, unique=True)
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: a line holds one JSON object, got {shown(value)}")
        yield where, value


def read_lines(path: str | os.PathLike[str], *, blank: bool = False) -> Iterator[tuple[str, str]]:
    """Yield ("file, line n", text) for every line, `blank` ones where asked for; a name ending in .gz is
    unpacked.

    Lines are read one at a time, so a large file needs no memory. Raises MissingFileError, or ConfigError
    that names the file and the line.
    """
    file = check_file(path)
    name, number = shown_path(file), 0
    try:
        with gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb") as lines:
            while content := lines.readline(_LINE_BYTES):
                number += 1
                if number == 1:
                    refuse_pointer(content, name)
                    content = content.removeprefix(b"\xef\xbb\xbf")
                if len(content) == _LINE_BYTES:
                    raise ConfigError(f"{name}, line {number} is longer than {_LINE_BYTES} bytes")
                where = f"{name}, line {number}"
                try:
                    text = content.decode()
                except UnicodeDecodeError as error:
                    raise ConfigError(
                        f"{where}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
                    ) from error
                if blank or text.strip():
                    yield where, text
    except MissingFileError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{name} cannot be read after line {number}: {_reason(error)}") from error


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Read one YAML file. Raises MissingFileError or ConfigError, each naming the file."""
    return parse_yaml(read_text(path, _YAML_BYTES), shown_path(path))


def parse_yaml(text: str, where: str) -> Any:
    """Plain YAML values. Raises ConfigError that begins with `where`, before anything large is built.

    Aliases count as often as they are named: a few lines of them can stand for more values than memory holds.
    """
    import yaml  # here: the store starts as fast as git does

    loader_of = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        check_text(text, where)
        depth = 0
        # Before nodes are made of it: the composer of libyaml calls itself, and dies of 20,000 brackets.
        for event in yaml.parse(text, loader_of):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEPTH:
                raise ConfigError(f"{where} is nested more than {_DEPTH} deep")
        loader = loader_of(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _measure(node, where)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except ConfigError:
        raise
    except RecursionError as error:
        raise ConfigError(f"{where} is nested too deep, or holds itself") from error
    # The constructors of dates, numbers and truth values raise what their first failing line raises.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise ConfigError(f"{where} is not valid YAML: {_reason(error)}") from error


def _measure(root: Any, where: str) -> None:
    """Raise ConfigError for a YAML graph that is too large once its aliases are written out, or endless."""
    import yaml

    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def measure(node: Any, depth: int) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        if depth > _DEPTH or id(node) in open_nodes:
            raise ConfigError(f"{where} is nested more than {_DEPTH} deep, or holds itself")
        if not isinstance(node.value, list):
            return 1
        open_nodes.add(id(node))
        if isinstance(node, yaml.MappingNode):
            _refuse_twice([key for key, _ in node.value if isinstance(key, yaml.ScalarNode)], where)
        total = 1
        for child in node.value:
            for part in child if isinstance(child, tuple) else (child,):
                total += measure(part, depth + 1)
                if total > _YAML_NODES:
                    raise ConfigError(f"{where} holds more than {_YAML_NODES} values, aliases written out")
        open_nodes.discard(id(node))
        sizes[id(node)] = total
        return total

    measure(root, 0)


def _refuse_twice(keys: list[Any], where: str) -> None:
    """Raise ConfigError for a key that a mapping has twice: YAML forbids it, and the last one would win."""
    seen: set[tuple[str, str]] = set()
    for key in keys:
        if (key.tag, key.value) in seen and key.value != "<<":
            line = key.start_mark.line + 1
            raise ConfigError(f"{where}, line {line}: the key {shown(key.value)} is given twice; keep one")
        seen.add((key.tag, key.value))


def _shorten(value: object, room: int, depth: int) -> str:
    if isinstance(value, str | bytes):
        return plain(repr(value[: max(room, 0) + 1]))
    if isinstance(value, dict | list | tuple | set | frozenset):
        brackets = "[]" if isinstance(value, list | tuple) else "{}"
        if depth == 0:
            return f"{brackets[0]}...{brackets[1]}"
        parts: list[str] = []
        used = 0
        for part in value.items() if isinstance(value, dict) else value:
            if used > room:
                parts.append("...")
                break
            if isinstance(value, dict):
                text = f"{_shorten(part[0], room, depth - 1)}: {_shorten(part[1], room, depth - 1)}"
            else:
                text = _shorten(part, room - used, depth - 1)
            parts.append(text)
            used += len(text) + 2
        return brackets[0] + ", ".join(parts) + brackets[1]
    if isinstance(value, int) and not -(10**18) < value < 10**18:
        return f"a number of {value.bit_length()} bits"
    return plain(repr(value))


def _reason(error: BaseException) -> str:
    """What a library said, on one short line; and its kind where it said no more than a word."""
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
    text = plain(text if " " in text else f"{type(error).__name__} {text}".strip())
    return text if len(text) <= 200 else f"{text[:197]}..."
