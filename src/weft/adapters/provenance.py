"""What an adapter's card tells of it: the one schema that all makers write and all readers ask.

    description     what it does, in words: a text, or a list of them (a merge has those of its parents)
    base_model      name of its base, a hub id or a path
    target_modules  short names of the modules that it changes, where they name just those of its base
    parents, method what it was made of, and how
    recipe, seed, data_hash, metrics, hypernetwork, ...     whatever else its maker knows

Any JSON value is kept as it is, as long as it can be written again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from weft.errors import AdapterFormatError
from weft.tensor_file import strict_json
from weft.types import Adapter

MAX_PROVENANCE = 1 << 20
"""Bytes of JSON."""
_DEEPEST = 32


def descriptions_of(adapter: Adapter) -> tuple[str, ...]:
    """What an adapter does, in words; several where it was made of several, none where nobody said."""
    given = adapter.provenance.get("description")
    texts = [given] if isinstance(given, str) else given if isinstance(given, list | tuple) else []
    return tuple(text for text in texts if isinstance(text, str) and text.strip())


def inherited(adapters: Sequence[Adapter]) -> dict[str, Any]:
    """What an adapter made of others takes over: their descriptions and short names of modules, each once."""
    texts = list(dict.fromkeys(text for adapter in adapters for text in descriptions_of(adapter)))
    given: dict[str, Any] = {"description": texts if len(texts) > 1 else texts[0]} if texts else {}
    names = [targets_of(adapter) for adapter in adapters]
    joint = sorted({name for some in names for name in some})
    shorter = len(joint) < len({site.path for adapter in adapters for site in adapter.sites})
    return given | ({"target_modules": joint} if all(names) and shorter else {})


def targets_of(adapter: Adapter) -> list[str]:
    """Short names of its modules (`q_proj`) as its config or its maker gives them, where they name them all.

    Empty where nobody gives any, where layers are picked, or where a name or a module is left over.
    """
    config = adapter.peft_config
    if any(config.get(key) is not None for key in ("layers_to_transform", "exclude_modules")):
        return []
    given = config.get("target_modules") or adapter.provenance.get("target_modules")
    names = [name for name in given if isinstance(name, str)] if isinstance(given, list | tuple) else []
    used = {name for site in adapter.sites for name in names if _ends(site.path, name)}
    named = all(any(_ends(site.path, name) for name in names) for site in adapter.sites)
    return sorted(used) if names and named and used == set(names) else []


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def read_provenance(text: str, source: object) -> dict[str, Any]:
    """Provenance from its JSON. Raises AdapterFormatError for what could not be written again."""
    values = strict_json(text.encode("utf-8", "surrogatepass"), source)
    provenance_text(values, source)
    return values


def provenance_text(values: Mapping[str, Any], source: object) -> str:
    """JSON of provenance. Raises AdapterFormatError for values that JSON has not, too much, or too deep."""
    try:
        text = json.dumps(dict(values), sort_keys=True, ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise AdapterFormatError(f"{source} is not valid JSON: {why}") from error
    if size > MAX_PROVENANCE:
        raise AdapterFormatError(f"{source} has {size} bytes, at most {MAX_PROVENANCE} are kept")
    if _deeper(values, _DEEPEST):
        raise AdapterFormatError(f"{source} is nested more than {_DEEPEST} deep")
    return text


def _deeper(value: Any, levels: int) -> bool:
    """Whether a value is nested more than so many levels; it is followed no further than that."""
    if levels < 1 or not isinstance(value, Mapping | list | tuple):
        return levels < 1
    parts = value.values() if isinstance(value, Mapping) else value
    return any(_deeper(part, levels - 1) for part in parts)
