"""`adapter.json`: what an adapter is beyond its tensors.

Nothing in it changes when only numbers change, so edits of different tensors merge.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from weft.errors import AdapterFormatError, ConfigError
from weft.files import nearest
from weft.store.three_way import Bases, alive
from weft.tensor_file import is_texts, strict_json

FORMAT = 1
LINEAGE = ("recipe", "parents", "data", "metrics", "licence", "author")
"""What a lineage may state: any JSON value under each."""


class Manifest(NamedTuple):
    """What `adapter.json` says.

    `metadata` is that of the safetensors file, in its order. `header` is the whole text of its header where
    the library would have written another one, else None.
    """

    base: str | None
    lineage: Mapping[str, Any]
    metadata: Mapping[str, str] | None
    header: str | None


def manifest_bytes(manifest: Manifest) -> bytes:
    """The file; equal manifests give equal bytes."""
    values: dict[str, Any] = {
        "format": FORMAT,
        "base": manifest.base,
        "lineage": json.loads(json.dumps(manifest.lineage, sort_keys=True, allow_nan=False)),
        "metadata": manifest.metadata,
    }
    if manifest.header is not None:
        values["header"] = manifest.header
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def parse_manifest(data: bytes, source: object) -> Manifest:
    """Check the bytes of an `adapter.json`. Raises AdapterFormatError."""
    values = versioned(data, source, {"base", "lineage", "metadata", "header"})
    base, lineage, metadata = values.get("base"), values.get("lineage", {}), values.get("metadata")
    header = values.get("header")
    if not isinstance(lineage, dict) or lineage.keys() - set(LINEAGE):
        raise AdapterFormatError(
            f"{source}: the lineage may state {', '.join(LINEAGE)}, it is {lineage!r:.80}"
        )
    if metadata is not None and not is_texts(metadata):
        raise AdapterFormatError(f"{source}: the metadata should map texts to texts")
    for name, value in (("base", base), ("header", header)):
        if value is not None and not isinstance(value, str):
            raise AdapterFormatError(f"{source}: the {name} should be a text, it is {value!r:.40}")
    return Manifest(base, lineage, metadata, header)


def check_lineage(lineage: Mapping[str, Any]) -> None:
    """Raise ConfigError for a lineage with an unknown key, or a value that JSON cannot hold."""
    for key in lineage:
        if key not in LINEAGE:
            raise ConfigError(
                f"a lineage cannot state {key!r}{nearest(str(key), LINEAGE)}; it takes {', '.join(LINEAGE)}"
            )
    try:
        json.dumps(lineage, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the lineage cannot be written as JSON: {error}") from error


def versioned(data: bytes, source: object, known: set[str]) -> dict[str, Any]:
    """The keys of a JSON file. Raises AdapterFormatError for another format or an unknown key."""
    values = strict_json(data, source)
    if values.get("format") != FORMAT:
        raise AdapterFormatError(
            f"{source} has format {values.get('format')!r:.40}, this Weft reads {FORMAT}"
        )
    unknown = sorted(values.keys() - known - {"format"})
    if unknown:
        raise AdapterFormatError(f"{source} has the unknown key {unknown[0]!r:.40}")
    return values


class MergedManifest(NamedTuple):
    """One manifest, and what the sides say about each key that they changed differently."""

    manifest: Manifest
    """It has the first such side's value, or the last one's."""
    conflicts: Mapping[str, list[Any]]
    """`base`, `metadata` or `lineage.KEY` -> the values, in the order of the sides."""


def merge_manifests(
    sides: Sequence[Manifest | None], bases: Bases[Manifest | None], *, last: bool = False
) -> MergedManifest:
    """Merge key by key by the rule of `three_way`: new data on one side and a licence on another agree.

    A header, which repeats the metadata and the shapes, is kept where it goes with the metadata; where sides
    changed it apart the file gets the usual one.
    """
    conflicts: dict[str, list[Any]] = {}

    def choose(key: str) -> Any:
        values = [_value(side, key) for side in sides]
        before = {pair: tuple(_value(one, key) for one in ones) for pair, ones in bases.items()}
        left = list(dict.fromkeys(values[k] for k in alive(values, before)))
        if len(left) > 1:
            conflicts[key] = [json.loads(value) for value in left]
        return json.loads(left[-1 if last else 0])

    metadata, header = choose("header")
    if conflicts.pop("header", None):
        metadata, header = choose("metadata"), None
    lineage = {key: value for key in LINEAGE if (value := choose(f"lineage.{key}")) is not None}
    return MergedManifest(Manifest(choose("base"), lineage, metadata, header), conflicts)


def _value(manifest: Manifest | None, key: str) -> str:
    """One key's value as text: JSON's own equality, in which 1 is not true."""
    base, lineage, metadata, header = manifest or Manifest(None, {}, None, None)
    values = {"base": base, "metadata": metadata, "header": [metadata, header]}
    return json.dumps(values[key] if key in values else lineage.get(key.removeprefix("lineage.")))
