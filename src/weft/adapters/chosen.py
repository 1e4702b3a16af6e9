"""Which modules an `adapter_config.json` speaks of, and their rank and scaling, by PEFT's rules.

Patterns come from strangers: their number, their length and the time that they take are bounded. As `re`
knows no limit of time, they run in `regex`, which reads the same language.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import regex
from peft import LoraConfig

from weft.errors import AdapterFormatError
from weft.reading import shown

_MOST_PATTERNS, _LONGEST_PATTERN, _SECONDS = 4096, 1000, 2.0
_LAYER = r".*?\.[^.]*\.(?P<idx>\d{1,9})\."


class Chooser:
    """What one config says of module paths; `source` names it in errors, all of them AdapterFormatError."""

    def __init__(self, config: LoraConfig, source: object) -> None:
        self._config = config
        self._source = source
        self._left = _SECONDS
        self._ranks = self._table(config.rank_pattern or {}, "rank_pattern")
        self._alphas = self._table(config.alpha_pattern or {}, "alpha_pattern")
        self._target = self._rule(config.target_modules, "target_modules")
        self._exclude = self._rule(config.exclude_modules, "exclude_modules")
        layers = config.layers_pattern or []
        names = [layers] if isinstance(layers, str) else list(layers)
        rules = [rf"(?:^|.*?\.)(?:{name})\.(?P<idx>\d{{1,9}})\." for name in names] or [_LAYER]
        self._layers = self._compile(rules, "layers_pattern")

    def takes(self, path: str) -> bool:
        """Whether PEFT would put an adapter on this module.

        `all-linear` and a config without `target_modules` leave that to the network, so they take any module.
        """
        config = self._config
        if config.exclude_modules and self._fits(path, config.exclude_modules, self._exclude):
            return False
        target = config.target_modules
        if target is None or (isinstance(target, str) and target.lower() == "all-linear"):
            return True
        if not self._fits(path, target, self._target):
            return False
        wanted = config.layers_to_transform
        if isinstance(target, str) or path in target or wanted is None or wanted == []:
            return True
        index = self._layer(path)
        return index is not None and (index == wanted if isinstance(wanted, int) else index in wanted)

    def rank_and_scaling(self, path: str) -> tuple[int, float]:
        """Patterns first, then `r` and `lora_alpha`. Scaling is alpha / r, or alpha / sqrt(r) with rsLoRA.

        Raises AdapterFormatError for a rank that is no positive integer, or a scaling that is not finite.
        """
        config = self._config
        rank = self._first(self._ranks, path, config.r)
        alpha = self._first(self._alphas, path, config.lora_alpha)
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise AdapterFormatError(
                f"{self._source}: the rank of {path} is {shown(rank)}, it should be a positive integer"
            )
        try:
            finite = not isinstance(alpha, bool) and math.isfinite(alpha)
            scaling = alpha / (math.sqrt(rank) if config.use_rslora else rank)
        except (TypeError, OverflowError):
            finite, scaling = False, 0.0
        if not finite:
            raise AdapterFormatError(
                f"{self._source}: the alpha of {path} is {shown(alpha)}, it should be a finite number"
            )
        return rank, scaling

    def _first(self, table: list[tuple[Any, Any]], path: str, usual: Any) -> Any:
        return next((value for pattern, value in table if self._match(pattern, path)), usual)

    def _fits(self, path: str, names: Any, patterns: list[Any]) -> bool:
        if patterns:
            return self._match(patterns[0], path, whole=True) is not None
        return any(path == name or path.endswith(f".{name}") for name in names)

    def _layer(self, path: str) -> int | None:
        """The first numbered part behind a name, as PEFT reads it."""
        for pattern in self._layers:
            found = self._match(pattern, path)
            if found:
                return int(found["idx"])
        return None

    def _match(self, pattern: Any, path: str, *, whole: bool = False) -> Any:
        start = time.monotonic()
        try:
            match = pattern.fullmatch if whole else pattern.match
            found = match(path, timeout=max(self._left, 1e-3))
        except TimeoutError as error:
            raise AdapterFormatError(
                f"{self._source}: the pattern {shown(pattern.pattern)} takes too long on {shown(path)}"
            ) from error
        self._left -= time.monotonic() - start
        return found

    def _rule(self, names: Any, key: str) -> list[Any]:
        """The one pattern of a text; nothing for a list of names."""
        return self._compile([names], key) if isinstance(names, str) and names else []

    def _table(self, patterns: Mapping[str, Any], key: str) -> list[tuple[Any, Any]]:
        compiled = self._compile([rf"(.*\.)?({pattern})$" for pattern in patterns], key)
        return list(zip(compiled, patterns.values(), strict=True))

    def _compile(self, patterns: Sequence[str], key: str) -> list[Any]:
        if len(patterns) > _MOST_PATTERNS or any(len(pattern) > _LONGEST_PATTERN for pattern in patterns):
            raise AdapterFormatError(
                f"{self._source}: {key} has {len(patterns)} patterns, at most {_MOST_PATTERNS} of "
                f"{_LONGEST_PATTERN} characters are read"
            )
        compiled = []
        for pattern in patterns:
            try:
                compiled.append(regex.compile(pattern))
            except (regex.error, RecursionError, OverflowError, MemoryError) as error:
                raise AdapterFormatError(
                    f"{self._source}: in {key}, {shown(pattern)} is not a regular expression: {error}"
                ) from error
        return compiled
