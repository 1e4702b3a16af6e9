"""Git's objects as bytes: their ids, trees, and a pack of new ones with its index.

Tensors are deflated without the search for repeats, which floats do not have: a quarter of the time, no more
bytes. A tensor whose first bytes hardly shrink (float32: 7 %) is stored as it is. In a large pack only what
shrinks by half is deflated (bfloat16: 22 %): inflating all takes thrice as long as git-lfs takes to copy the
file. Any git reads either.
Formats: gitformat-pack(5), version 2 of the pack and of the index.
"""

import hashlib
import os
import re
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, NamedTuple

from weft.errors import AdapterFormatError

TREE, FILE = "40000", "100644"
FILES = (FILE, "100755")
_OID = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_KINDS = {"commit": 1, "tree": 2, "blob": 3, "tag": 4}
_LARGE = 0x80000000
_SAMPLE, _WORTH = 4096, 0.9
_WINDOW, _MEMORY = 13, 9
_BLOCK = 0xFFFF
"""Most bytes in one stored block of deflate."""


class Entry(NamedTuple):
    """One line of a tree."""

    mode: str
    oid: str


Tree = Mapping[str, Entry]


class Objects:
    """New objects, each once, until `Git.keep` writes them."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self.content: dict[str, tuple[str, bytes]] = {}

    def add(self, kind: str, data: bytes) -> str:
        """Take an object in; its id."""
        oid = object_id(kind, data, self.algorithm)
        self.content[oid] = (kind, data)
        return oid

    def add_files(self, files: Mapping[str, bytes]) -> dict[str, str]:
        """Take files in; their ids by name."""
        return {name: self.add("blob", data) for name, data in files.items()}

    def add_tree(self, tree: Tree) -> str:
        """Take a tree in; its id."""
        # Git sorts a folder as if its name ended in a slash.
        named = ((name.encode("utf-8", "surrogateescape"), entry) for name, entry in tree.items())
        rows = sorted((name + b"/" * (entry.mode == TREE), name, entry) for name, entry in named)
        data = (b"%s %s\0%s" % (e.mode.encode(), name, bytes.fromhex(e.oid)) for _, name, e in rows)
        return self.add("tree", b"".join(data))


def is_oid(text: str) -> bool:
    """Whether a text names an object, in hex."""
    return _OID.fullmatch(text) is not None


def object_id(kind: str, data: bytes, algorithm: str) -> str:
    """Git's name for an object, in hex."""
    digest = hashlib.new(algorithm, b"%s %d\0" % (kind.encode(), len(data)), usedforsecurity=False)
    digest.update(data)
    return digest.hexdigest()


def parse_tree(data: bytes, oid_size: int, source: object) -> dict[str, Entry]:
    """The entries of a tree by name; names are as the tree has them, unchecked.

    Raises AdapterFormatError for a tree that is cut short or names something twice.
    """
    tree: dict[str, Entry] = {}
    at = 0
    while at < len(data):
        end = data.find(b"\0", at)
        mode, space, name = data[at:end].partition(b" ")
        oid = data[end + 1 : end + 1 + oid_size]
        text = name.decode("utf-8", "surrogateescape")
        if end < 0 or not space or len(oid) != oid_size or text in tree:
            raise AdapterFormatError(f"{source} is a damaged tree")
        tree[text] = Entry(mode.decode("ascii", "replace"), oid.hex())
        at = end + 1 + oid_size
    return tree


def write_pack(objects: Objects, file: IO[bytes]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Write a pack; its checksum, and the offset and crc32 of each object."""
    digest = hashlib.new(objects.algorithm, usedforsecurity=False)
    places: dict[str, tuple[int, int]] = {}
    at = 0
    start = b"PACK" + (2).to_bytes(4, "big") + len(objects.content).to_bytes(4, "big")
    for part in (start, *(objects.content.items())):
        if isinstance(part, tuple):
            oid, (kind, data) = part
            part = _coded(kind, data)
            places[oid] = at, zlib.crc32(part)
        file.write(part)
        digest.update(part)
        at += len(part)
    file.write(digest.digest())
    return digest.digest(), places


def install_pack(objects: Objects, folder: Path) -> None:
    """Write a pack and its index into a repository's `objects/pack`; git sees both or neither."""
    folder.mkdir(parents=True, exist_ok=True)
    # Git's own prefix: what a killed process leaves here goes with the next gc.
    handle, aside = tempfile.mkstemp(prefix="tmp_pack_", dir=folder)
    index_aside = ""
    try:
        with open(handle, "wb") as file:
            checksum, places = write_pack(objects, file)
            _finish(file)
        handle, index_aside = tempfile.mkstemp(prefix="tmp_idx_", dir=folder)
        with open(handle, "wb") as file:
            file.write(_index(places, checksum, objects.algorithm))
            _finish(file)
        place = folder / f"pack-{checksum.hex()}.pack"
        os.rename(aside, place)
        os.rename(index_aside, place.with_suffix(".idx"))
    except OSError:
        for path in (aside, index_aside):
            if path:
                Path(path).unlink(missing_ok=True)
        raise


def _coded(kind: str, data: bytes) -> bytes:
    """One entry of a pack: type and size, 4 then 7 bits a byte, and the content, deflated or as it is."""
    size, head = len(data), []
    byte = _KINDS[kind] << 4 | size & 15
    size >>= 4
    while size:
        head.append(byte | 0x80)
        byte, size = size & 0x7F, size >> 7
    return bytes([*head, byte]) + (_deflated(data) if kind == "blob" else zlib.compress(data))


def _deflated(data: bytes) -> bytes:
    """The content deflated, or as it is where its first bytes do not shrink to 0.9 of their number."""
    # A small window, for speed: the usual one is memory that comes fresh, page by page, for every tensor.
    coder = zlib.compressobj(1, zlib.DEFLATED, _WINDOW, _MEMORY, zlib.Z_HUFFMAN_ONLY)
    sample = data[:_SAMPLE]
    first = coder.compress(sample) + coder.flush(zlib.Z_BLOCK)
    if len(first) > _WORTH * len(sample):
        return _as_it_is(data)
    return first + coder.compress(data[_SAMPLE:]) + coder.flush()


def _as_it_is(data: bytes) -> bytes:
    """The content in stored blocks: what level 0 gives, without a walk through zlib's window."""
    parts = [b"\x78\x01"]
    for at in range(0, len(data) or 1, _BLOCK):
        block = data[at : at + _BLOCK]
        size = len(block)
        last = at + size == len(data)
        parts += [bytes([last]), size.to_bytes(2, "little"), (size ^ _BLOCK).to_bytes(2, "little"), block]
    parts.append(zlib.adler32(data).to_bytes(4, "big"))
    return b"".join(parts)


def _index(places: Mapping[str, tuple[int, int]], checksum: bytes, algorithm: str) -> bytes:
    rows = sorted((bytes.fromhex(oid), *place) for oid, place in places.items())
    first = [0] * 256
    for oid, _, _ in rows:
        first[oid[0]] += 1
    for byte in range(1, 256):
        first[byte] += first[byte - 1]
    far = [offset for _, offset, _ in rows if offset >= _LARGE]
    places_of_far = {offset: _LARGE | place for place, offset in enumerate(far)}
    parts = (
        b"\377tOc" + (2).to_bytes(4, "big"),
        _big(first, 4),
        b"".join(oid for oid, _, _ in rows),
        _big((crc for _, _, crc in rows), 4),
        _big((places_of_far.get(offset, offset) for _, offset, _ in rows), 4),
        _big(far, 8),
        checksum,
    )
    body = b"".join(parts)
    return body + hashlib.new(algorithm, body, usedforsecurity=False).digest()


def _big(numbers: Iterable[int], width: int) -> bytes:
    return b"".join(number.to_bytes(width, "big") for number in numbers)


def _finish(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
    os.fchmod(file.fileno(), 0o444)
