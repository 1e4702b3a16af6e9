"""A safetensors file on its way into git and out: git gets a listing, the second place the tensors.

    clean     file -> listing    tensors are kept first, in the folder of `weft.blobs`
    smudge    listing -> file    the very bytes that went in; anything but a listing passes as it is

One process serves a whole git command by git's long-running filter protocol, version 2 (gitattributes(5)):
packets of 4 hex digits of length, these included, and at most 65516 bytes; 0000 ends a list.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from io import BufferedIOBase
from pathlib import Path

from weft.checks import MAX_ADAPTER
from weft.errors import AdapterFormatError, ConfigError, WeftError
from weft.plain import one_line
from weft.store.git import Git
from weft.store.lfs.listing import file_of_listing, listing_bytes, listing_of, parse_listing
from weft.store.pointer import blob_folder, get, put

Filter = Callable[[bytes, str], Iterable[bytes]]
"""Content and path -> content, in pieces."""
_LARGEST = 65516
_LENGTH = re.compile(rb"[0-9a-fA-F]{4}")
_MOST_TEXTS = 64
_LFS = ("lfs", "objects")


def clean(git: Git, data: bytes, path: str) -> list[bytes]:
    """The listing of a safetensors file, its tensors kept; a listing stays as it is.

    Raises AdapterFormatError for a damaged file, ConfigError for no folder or a wrong one, SaveError.
    """
    if parse_listing(data, path) is not None:
        return [data]
    folder = blob_folder(git)
    if folder.parts[-2:] == _LFS:
        raise ConfigError(f"{folder} is git-lfs's, which cannot read listings and would prune their tensors")
    return [listing_bytes(listing_of(data, path, lambda file: put(folder, file)))]


def smudge(git: Git, data: bytes, path: str) -> list[bytes]:
    """The safetensors file of a listing; other content stays as it is.

    Raises AdapterFormatError for a damaged listing or tensor, ConfigError where no folder is named.
    """
    listing = parse_listing(data, path)
    if listing is None:
        return [data]
    folder = blob_folder(git)
    return file_of_listing(listing, lambda pointer, name: get(folder, pointer, f"{path}: {name}"))


def filter_process(folder: Path, source: BufferedIOBase, sink: BufferedIOBase) -> None:
    """Serve one git command, which runs in `folder`, over two pipes. Raises ConfigError as `serve`."""
    with Git(folder) as git:
        serve(source, sink, {"clean": partial(clean, git), "smudge": partial(smudge, git)})


def serve(
    source: BufferedIOBase, sink: BufferedIOBase, filters: Mapping[str, Filter], limit: int = MAX_ADAPTER
) -> None:
    """Answer until git closes its end. A file that a filter refuses is told on the error stream, in one line.

    So is one of more than `limit` bytes, as an AdapterFormatError. Raises ConfigError for what does not
    follow the protocol.
    """
    welcome, *versions = _texts(source) or [""]
    if welcome != "git-filter-client" or "version=2" not in versions:
        raise ConfigError("this speaks to git alone; see filter.<driver>.process in gitattributes(5)")
    _send_texts(sink, "git-filter-server", "version=2")
    offered = _texts(source) or []
    _send_texts(sink, *(f"capability={name}" for name in filters if f"capability={name}" in offered))
    while (asked := _texts(source)) is not None:
        values = {key: value for key, _, value in (text.partition("=") for text in asked)}
        name, path = values.get("command", ""), values.get("pathname", "")
        data = _content(source, limit)
        try:
            if name not in filters:
                raise ConfigError(f"git asks for {name!r:.40}, which was not offered")
            if data is None:
                raise AdapterFormatError(f"{path} has more than {limit} bytes")
            result = filters[name](data, path)
        except WeftError as error:
            print(f"weft: {one_line(str(error))}", file=sys.stderr, flush=True)
            _send_texts(sink, "status=error")
            continue
        _send_texts(sink, "status=success")
        for part in result:
            for at in range(0, len(part), _LARGEST):
                _send(sink, part[at : at + _LARGEST])
        sink.write(b"0000")
        _send_texts(sink)


def _packet(source: BufferedIOBase) -> bytes | None:
    """One packet, None for the end of a list. Raises EOFError where nothing follows any more."""
    head = source.read(4)
    if not head:
        raise EOFError
    size = int(head, 16) if _LENGTH.fullmatch(head) else -1
    if size == 0:
        return None
    if not 4 <= size <= _LARGEST + 4:
        raise ConfigError(f"{head!r} is no length of a packet")
    data = source.read(size - 4)
    if len(data) < size - 4:
        raise ConfigError(f"a packet ends after {len(data)} of {size - 4} bytes")
    return data


def _texts(source: BufferedIOBase) -> list[str] | None:
    """A list of texts, None where git has closed its end."""
    found: list[str] = []
    try:
        while (packet := _packet(source)) is not None:
            found.append(packet.decode("utf-8", "surrogateescape").removesuffix("\n"))
            if len(found) > _MOST_TEXTS:
                raise ConfigError(f"a list of more than {_MOST_TEXTS} texts")
    except EOFError:
        if found:
            raise ConfigError("the pipe ends within a list") from None
        return None
    return found


def _content(source: BufferedIOBase, limit: int) -> bytes | None:
    """A file's content; None for one over the limit, which is read to its end and not kept."""
    parts, size = [], 0
    try:
        while (packet := _packet(source)) is not None:
            size += len(packet)
            if size <= limit:
                parts.append(packet)
            else:
                parts.clear()
    except EOFError:
        raise ConfigError("the pipe ends within a file") from None
    return b"".join(parts) if size <= limit else None


def _send(sink: BufferedIOBase, data: bytes) -> None:
    sink.write(b"%04x" % (len(data) + 4) + data)


def _send_texts(sink: BufferedIOBase, *texts: str) -> None:
    for text in texts:
        _send(sink, text.encode() + b"\n")
    sink.write(b"0000")
    sink.flush()
