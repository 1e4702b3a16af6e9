"""Where things lie in a store, and which names may become paths.

    weft-store.json                               format and base
    .gitattributes                                no conversion on the way in and out
    adapters/<name>/adapter.json                  the manifest
    adapters/<name>/adapter_config.json           as it came in
    adapters/<name>/README.md                     as it came in, where there was one
    adapters/<name>/tensors/<tensor>.safetensors  one tensor each; +1, +2: what was stacked onto it
    accepted/<base>/<name>/...                    adapters that a version of the base was made of

Nothing here changes when only numbers change, except the files of those tensors: equal tensors are one blob
to git, and edits of different tensors merge.
"""

import hashlib
import re
from collections.abc import Container, Iterable, Mapping

from weft.checks import CARD, CONFIG, MAX_RANK
from weft.errors import AdapterFormatError, ConfigError
from weft.files import is_name

STORE, ATTRIBUTES, ADAPTERS, ACCEPTED = "weft-store.json", ".gitattributes", "adapters", "accepted"
MANIFEST, TENSORS = "adapter.json", "tensors"
SUFFIX = ".safetensors"

_FILES = (f"/{STORE}", f"/{ADAPTERS}/**", f"/{ACCEPTED}/**")
ATTRIBUTES_TEXT = "".join(
    [
        "# A store of adapters. Of all lines that match a file the last one counts: keep these at the end.\n",
        *(f"{files} -text -filter -ident !working-tree-encoding !diff !merge\n" for files in _FILES),
        *(f"{files}/*{SUFFIX} -diff -merge\n" for files in _FILES[1:]),
    ]
)

MAX_TEXT = 4 << 20
"""Bytes of a manifest, config or card."""

_ENDS = (STORE, MANIFEST, CONFIG, CARD, SUFFIX)
_CONVERTS = {"filter", "ident", "eol", "text", "crlf", "working-tree-encoding"}
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_HALF = re.compile(r"(.+\.lora_(?:embedding_)?)([AB])(|\.weight)")
"""A tensor that means nothing without its other half; a bias stands alone."""
_LONGEST, _KEPT, _CUT = 200, 120, "%~"


def check_name(name: str) -> None:
    """Raise ConfigError for an adapter name that may not be part of a path."""
    if not is_name(name) or name.endswith("."):
        raise ConfigError(
            f"{name!r:.80} is no name for an adapter; it takes letters, digits, '.', '_', '-' and '+', "
            "begins with a letter or digit, and has at most 100 characters"
        )


def file_of(tensor: str) -> str:
    """File name of a tensor: other characters than letters, digits, `_.-` become %XX, a long name is cut.

    A cut name ends in %~ and 32 hex digits of its sha256. The file itself states the full name.
    """
    stem = tensor
    if not _PLAIN.fullmatch(tensor):
        stem = "".join(
            c if _PLAIN.fullmatch(c) or (at and c in ".-") else "".join(f"%{b:02X}" for b in c.encode())
            for at, c in enumerate(tensor)
        )
    if len(stem) > _LONGEST:
        stem = stem[:_KEPT] + _CUT + hashlib.sha256(tensor.encode()).hexdigest()[:32]
    return stem + SUFFIX


def tensor_of(file: str) -> str:
    """Name of the tensor in a file, for people: a cut name stays cut, a broken one stays as it is."""
    stem = file.removesuffix(SUFFIX)
    if _CUT in stem or "%" not in stem:
        return stem
    try:
        return re.sub(
            rb"%([0-9A-F]{2})", lambda m: bytes([int(m[1], 16)]), stem.encode("utf-8", "surrogateescape")
        ).decode()
    except UnicodeDecodeError:
        return stem


def layer_of(tensor: str) -> str:
    """The module that a tensor adapts: its name without PEFT's prefix and `lora_A.weight`."""
    return re.sub(r"\.lora_[A-Za-z_]+(\.[a-z]+)?(\+\d+)?$", "", tensor.removeprefix("base_model.model."))


def check_tensor(name: str, shape: tuple[int, ...], source: object) -> None:
    """Raise AdapterFormatError for a rank that would blow up every bank that the adapter is stacked into."""
    if len(shape) == 2 and (".lora_A." in name or ".lora_B." in name):
        rank = shape[0] if ".lora_A." in name else shape[1]
        if rank > MAX_RANK:
            raise AdapterFormatError(f"{source}: {name} has rank {rank}, at most {MAX_RANK} is stored")


def check_halves(shapes: Mapping[str, tuple[int, ...]], files: Container[str], source: object) -> None:
    """Raise AdapterFormatError for a lora_A without its lora_B among the files of tensors, or the reverse.

    Nor may their ranks differ. A half whose shape is not given lies in the remote of a partial clone.
    """
    for name, shape in shapes.items():
        match = _HALF.fullmatch(name)
        if not match:
            continue
        start, half, end = match.groups()
        other = "B" if half == "A" else "A"
        if file_of(start + other + end) not in files:
            raise AdapterFormatError(f"{source}: {name} has no lora_{other} beside it")
        beside = shapes.get(start + other + end, ())
        if half == "A" and len(shape) == len(beside) == 2 and shape[0] != beside[1]:
            raise AdapterFormatError(
                f"{source}: {name} is {list(shape)}, lora_B beside it {list(beside)}: their ranks differ"
            )


def check_portable(names: Iterable[str], what: object) -> None:
    """Raise AdapterFormatError for names that some file system cannot hold.

    Those are names that differ in case alone, and names of devices to Windows, whatever follows their dot.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise AdapterFormatError(f"{what}: {other} and {name} differ in case alone; rename one")
        if name.partition(".")[0].casefold() in _DEVICES:
            raise AdapterFormatError(f"{what}: {name!r:.80} is the name of a device on Windows; rename it")


def converting_line(attributes: bytes) -> str | None:
    """The line of a `.gitattributes` by which git would change a store's files on their way; None for none.

    Lines as in `ATTRIBUTES_TEXT` undo what stands above them.
    """
    states: dict[str, dict[str, str]] = {files: {} for files in _FILES}
    for line in map(str.strip, attributes.decode("utf-8", "replace").splitlines()):
        pattern, *words = line.split() or ["#"]
        if pattern.startswith("#") or not _may_match(pattern):
            continue
        for files, found in states.items():
            for word in words:
                name = word.lstrip("-!").partition("=")[0]
                if word == name or "=" in word:
                    found |= {name: line} if name in _CONVERTS else {}
                elif pattern in (files, "*"):
                    found.pop(name, None)
                    if word == "-text":  # then the ends of lines are left alone, whatever they should be
                        found.pop("eol", None)
                        found.pop("crlf", None)
    return next((line for found in states.values() for line in found.values()), None)


def _may_match(pattern: str) -> bool:
    """Whether files of a store may end as a pattern does, behind its last wildcard."""
    end = re.split(r"[*?\]\\]", pattern.casefold().strip('"'))[-1].rpartition("/")[2]
    return any(file.endswith(end) or end.endswith(file) for file in map(str.casefold, _ENDS))
