"""The manifests of all sides of a merge, key by key: new data on one side and a licence on another agree."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from weft.store.manifest import LINEAGE, Manifest
from weft.store.three_way import Bases, alive


class MergedManifest(NamedTuple):
    """One manifest, and what the sides say about each key that they changed differently."""

    manifest: Manifest
    """It has the first such side's value, or the last one's."""
    conflicts: Mapping[str, list[Any]]
    """`base`, `metadata` or `lineage.KEY` -> the values, in the order of the sides."""


def merge_manifests(
    sides: Sequence[Manifest | None], bases: Bases[Manifest | None], *, last: bool = False
) -> MergedManifest:
    """Merge by the rule of `three_way`.

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
