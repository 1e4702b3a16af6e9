"""Who may ask for what: keys, their roles, and how much they may take."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from weft.errors import ConfigError, MissingFileError

Role = Literal["user", "maker", "admin"]
_RANKS: dict[str, int] = {"user": 0, "maker": 1, "admin": 2}


class Key(BaseModel):
    """One entry of a key file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    name: str
    role: Role = "user"
    """`user` asks, `maker` also makes adapters (gen:, POST /v1/adapters), `admin` also loads and removes."""
    adapters: tuple[str, ...] | None = None
    """The adapters that it may use, `route:` and `tree:` names as a whole; all unless given."""
    rows: int = 64
    """Texts at a time."""
    tokens_per_minute: int = 1_000_000
    """New tokens that requests may ask for."""
    makes_per_minute: int = 60
    """Adapters made."""


class TooMuchError(RuntimeError):
    """A key has used up what it may take; `wait` says for how many seconds."""

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


class Account:
    """A key and what it has taken in the last minute; may be used from any thread."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self._rows = 0
        self._taken: dict[str, deque[tuple[float, int]]] = {"tokens": deque(), "makes": deque()}
        self._lock = threading.Lock()

    def may(self, role: Role) -> bool:
        """Whether its role reaches that far."""
        return _RANKS[self.key.role] >= _RANKS[role]

    def may_use(self, name: str) -> bool:
        """Whether it may use an adapter, library or tree of this name."""
        return self.key.adapters is None or name in self.key.adapters

    def begin(self, rows: int, tokens: int) -> None:
        """Take rows until `end`, and tokens. Raises TooMuchError, ConfigError for more than there ever is."""
        for what, asked, most in (
            ("texts at a time", rows, self.key.rows),
            ("tokens a minute", tokens, self.key.tokens_per_minute),
        ):
            if asked > most:
                raise ConfigError(
                    f"this request asks for {asked} {what}, key {self.key.name} has {most}; ask for less"
                )
        with self._lock:
            if self._rows + rows > self.key.rows:
                raise TooMuchError(f"key {self.key.name} may write {self.key.rows} texts at a time", 1.0)
            self._take("tokens", tokens, self.key.tokens_per_minute)
            self._rows += rows

    def end(self, rows: int) -> None:
        """Give rows back."""
        with self._lock:
            self._rows -= rows

    def make(self) -> None:
        """Take one adapter that is made. Raises TooMuchError, ConfigError for a key that makes none."""
        if self.key.makes_per_minute < 1:
            raise ConfigError(f"key {self.key.name} makes no adapters")
        with self._lock:
            self._take("makes", 1, self.key.makes_per_minute)

    def _take(self, kind: str, count: int, limit: int) -> None:
        taken, now = self._taken[kind], time.monotonic()
        while taken and taken[0][0] <= now - 60:
            taken.popleft()
        if sum(n for _, n in taken) + count > limit:
            wait = taken[0][0] + 60 - now if taken else 60.0
            raise TooMuchError(f"key {self.key.name} may take {limit} {kind} a minute", wait)
        taken.append((now, count))


class Keys:
    """All keys; without any, everyone is an admin, which is for one person on their own machine.

    Raises ConfigError for a key that is given twice.
    """

    def __init__(self, keys: Sequence[Key] = ()) -> None:
        if len({key.key for key in keys}) < len(keys):
            raise ConfigError("two entries of the key file have the same key")
        self._accounts = {_digest(key.key): Account(key) for key in keys}
        self._anyone = Account(Key(key="", name="anyone", role="admin", rows=1024, tokens_per_minute=10**12))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Keys:
        """A YAML list of entries. Raises MissingFileError, ConfigError."""
        try:
            entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            if not isinstance(entries, list) or not entries:
                raise ConfigError(f"{path} should be a list of keys")
            return cls([Key.model_validate(entry) for entry in entries])
        except FileNotFoundError:
            raise MissingFileError(f"no key file at {path}") from None
        except ValidationError as error:  # pydantic's text repeats what was given, keys too
            where = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
            raise ConfigError(f"{path}: wrong or missing: {where}") from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise ConfigError(f"{path} is no YAML") from None

    @property
    def given(self) -> bool:
        """Whether a key is needed."""
        return bool(self._accounts)

    def account(self, authorization: str | None) -> Account | None:
        """Whose request this is; None for a missing or wrong key."""
        if not self._accounts:
            return self._anyone
        kind, _, key = (authorization or "").partition(" ")
        return self._accounts.get(_digest(key.strip())) if kind.lower() == "bearer" else None


def _digest(key: str) -> str:
    """Keys are looked up by hash, so that the time of a look-up tells nothing of them."""
    return hashlib.sha256(key.encode()).hexdigest()
