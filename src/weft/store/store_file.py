"""`weft-store.json`: the base of a store, how it came to be, and what merges do there.

base        fingerprint of the base that adapters are for; null for any
modules     module path -> [in, out], where the base is known
accepted    the versions of the base, oldest first: each an older one with adapters folded in
merge       rules for conflicts, by the names of adapters: the first that matches counts
blobs_over  tensors of more bytes lie in the second place; absent where all lie in git
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from weft.errors import AdapterFormatError, BaseMismatchError, ShapeError
from weft.files import is_name
from weft.store.layout import layer_of
from weft.store.manifest import FORMAT, versioned
from weft.store.objects import is_oid
from weft.tensor_file import Header

FAIL, OURS, THEIRS = "fail", "ours", "theirs"
_SIZES = re.compile(r"\[\s+(\d+),\s+(\d+)\s+\]")
NOT_OPTIONS = {"method", "adapters", "weights"}

BASE = "weft_base"
"""Where `weft.save` states the base, in the metadata of the safetensors."""
Modules = Mapping[str, tuple[int, int]]
"""Module path -> (in_features, out_features)."""


class Part(NamedTuple):
    """An adapter that was folded into a base."""

    name: str
    tree: str
    """Id of its folder."""
    weight: float


class Step(NamedTuple):
    """A version of the base: `parent` with `adapters` folded in."""

    base: str
    parent: str
    adapters: tuple[Part, ...]


class Rule(NamedTuple):
    """What merges do about conflicts in the adapters whose names match a pattern, in the shell's way."""

    adapters: str
    on_conflict: str
    options: Mapping[str, Any]


class StoreFile(NamedTuple):
    """What a store says about itself."""

    base: str | None = None
    accepted: tuple[Step, ...] = ()
    merge: tuple[Rule, ...] = ()
    modules: Modules | None = None
    blobs_over: int | None = None

    @property
    def bases(self) -> tuple[str, ...]:
        """All versions of the base, oldest first; none where any base will do."""
        first = () if self.base is None else (self.accepted[0].parent if self.accepted else self.base,)
        return first + tuple(step.base for step in self.accepted)

    def check_base(self, base: str | None, what: object) -> None:
        """Raise BaseMismatchError for something of a base that is no version of this store's."""
        if base and self.bases and base not in self.bases:
            versions = f", nor to one of its {len(self.accepted)} earlier versions" if self.accepted else ""
            raise BaseMismatchError(f"{what} belongs to base {base}, this store to {self.base}{versions}")

    def check(self, header: Header, what: object) -> str | None:
        """The base that a file names; raises as `check_base` and `check_modules`."""
        base = (header.metadata or {}).get(BASE)
        self.check_base(base, what)
        self.check_modules({spec.name: spec.shape for spec in header.specs}, what)
        return base

    def check_modules(self, shapes: Mapping[str, tuple[int, ...]], what: object) -> None:
        """Raise ShapeError for a lora_A or lora_B, by name, of another size than its module in the base.

        And for tensors of which none is of the base's modules. Those of other modules among them (an
        embedding, a head) are not judged, and nothing is where the base is unknown.
        """
        layers = {}
        for name, shape in shapes.items():
            _, dot, half = name.rpartition(".lora_")
            if self.modules is None or not dot or half not in ("A.weight", "B.weight") or len(shape) != 2:
                continue
            layer = layers[name] = layer_of(name)
            if layer in self.modules:
                want, have = self.modules[layer][half[0] == "B"], shape[half[0] == "A"]
                if want != have:
                    size = f"[R, {want}]" if half[0] == "A" else f"[{want}, R]"
                    raise ShapeError(
                        f"{what}: lora_{half[0]} of {layer} is {list(shape)}, the base needs {size}"
                    )
        if layers and not (self.modules or {}).keys() & set(layers.values()):
            raise ShapeError(
                f"{what}: the base has no module {next(iter(layers.values()))}, nor any other of these"
            )


def store_bytes(file: StoreFile) -> bytes:
    """The file; equal stores give equal bytes, a key that says nothing is left out."""
    values: dict[str, Any] = {"format": FORMAT, "base": file.base}
    if file.accepted:
        values["accepted"] = [
            {**step._asdict(), "adapters": [part._asdict() for part in step.adapters]}
            for step in file.accepted
        ]
    if file.merge:
        values["merge"] = [rule._asdict() for rule in file.merge]
    if file.modules is not None:
        values["modules"] = {path: list(file.modules[path]) for path in sorted(file.modules)}
    if file.blobs_over is not None:
        values["blobs_over"] = file.blobs_over
    text = json.dumps(values, indent=2, ensure_ascii=False)
    return (_SIZES.sub(r"[\1, \2]", text) + "\n").encode()


def parse_store(data: bytes, source: object) -> StoreFile:
    """Check the bytes of a `weft-store.json`. Raises AdapterFormatError."""
    values = versioned(data, source, {"base", "accepted", "merge", "modules", "blobs_over"})
    base = values.get("base")
    if base is not None and not isinstance(base, str):
        raise AdapterFormatError(f"{source}: the base should be a text, it is {base!r:.40}")
    accepted = tuple(_step(value, source) for value in _list(values, "accepted", source))
    before = accepted[0].parent if accepted else base
    for step in accepted:
        if step.parent != before or step.base == before:
            raise AdapterFormatError(
                f"{source}: base {step.base} was accepted onto {step.parent}, not {before}"
            )
        before = step.base
    if before != base or len({step.base for step in accepted} | {base}) < len(accepted):
        raise AdapterFormatError(f"{source}: the base is {base}, what was accepted leads to {before}")
    rules = tuple(_rule(value, source) for value in _list(values, "merge", source))
    over = values.get("blobs_over")
    if over is not None and (type(over) is not int or over < 0):
        raise AdapterFormatError(f"{source}: blobs_over should be a number of bytes, it is {over!r:.40}")
    return StoreFile(base, accepted, rules, _modules(values.get("modules"), source), over)


def _step(value: Any, source: object) -> Step:
    if not isinstance(value, dict) or value.keys() != {"base", "parent", "adapters"}:
        raise AdapterFormatError(f"{source}: accepted should state base, parent and adapters: {value!r:.80}")
    match value:
        case {"base": str(base), "parent": str(parent), "adapters": [_, *_] as parts} if is_name(
            base
        ) and is_name(parent):
            adapters = tuple(_part(part, source) for part in parts)
        case _:
            raise AdapterFormatError(f"{source}: what was accepted is no version of a base: {value!r:.80}")
    if len({part.name for part in adapters}) < len(adapters):
        raise AdapterFormatError(f"{source}: an adapter was accepted twice into {base}")
    return Step(base, parent, adapters)


def _part(value: Any, source: object) -> Part:
    match value:
        case {"name": str(name), "tree": str(tree), "weight": int() | float() as weight, **rest} if (
            not rest and is_name(name) and is_oid(tree) and type(weight) is not bool and math.isfinite(weight)
        ):
            return Part(name, tree, float(weight))
    raise AdapterFormatError(f"{source}: an accepted adapter has name, tree and weight: {value!r:.80}")


def _rule(value: Any, source: object) -> Rule:
    if not isinstance(value, dict) or not {"adapters", "on_conflict"} <= value.keys() <= set(Rule._fields):
        raise AdapterFormatError(
            f"{source}: a merge rule states adapters and on_conflict, and options if any: {value!r:.80}"
        )
    pattern, policy, options = value["adapters"], value["on_conflict"], value.get("options", {})
    if not isinstance(pattern, str) or not isinstance(policy, str) or not pattern or not policy:
        raise AdapterFormatError(f"{source}: adapters and on_conflict are texts: {value!r:.80}")
    if not isinstance(options, dict) or options.keys() & NOT_OPTIONS:
        raise AdapterFormatError(f"{source}: the options of {policy} should be its own: {options!r:.80}")
    return Rule(pattern, policy.replace("-", "_"), options)


def _modules(value: Any, source: object) -> Modules | None:
    if value is None:
        return None
    sizes = isinstance(value, dict) and all(
        isinstance(size, list) and len(size) == 2 and all(type(x) is int and x > 0 for x in size)
        for size in value.values()
    )
    if not sizes:
        raise AdapterFormatError(f"{source}: modules should map module paths to [in, out]: {value!r:.80}")
    return {path: (size[0], size[1]) for path, size in value.items()}


def _list(values: Mapping[str, Any], key: str, source: object) -> list[Any]:
    found = values.get(key, [])
    if not isinstance(found, list):
        raise AdapterFormatError(f"{source}: {key} should be a list, it is {found!r:.40}")
    return found


class Policy(NamedTuple):
    """What to do about tensors that several sides changed."""

    on_conflict: str = FAIL
    """`fail`, `ours`, `theirs`, or a method of `weft.merging`."""
    weights: tuple[float, ...] | None = None
    """One for each parent, HEAD first; those of the sides in question are used."""
    options: Mapping[str, Any] = {}
    """Of the method."""

    @property
    def is_method(self) -> bool:
        """Whether numbers are merged."""
        return self.on_conflict not in (FAIL, OURS, THEIRS)


Policies = Callable[[str], Policy]
"""Name of an adapter, empty for what lies elsewhere -> its policy."""


def by_rules(file: StoreFile, weights: tuple[float, ...] | None = None) -> Policies:
    """The policies that a store's own rules give; what lies outside of adapters fails, as without a rule.

    They are those of HEAD; what is merged into it cannot bring rules of its own.
    """

    def policy_for(name: str) -> Policy:
        for rule in file.merge if name else ():
            if fnmatchcase(name, rule.adapters):
                return Policy(rule.on_conflict, weights, rule.options)
        return Policy(FAIL, weights)

    return policy_for
