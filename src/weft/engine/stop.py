"""Text out of tokens while they come: whole characters only, and nothing of a stop string.

Hugging Face's StopStringCriteria says when a text has ended, but not what may be shown before, which
streaming needs. A text ends where its first stop string is complete, so it does not matter how tokens cut it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

Decode = Callable[[list[int]], str]
"""Token ids to text, without special tokens."""

BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What a decoder writes for a character that is not whole."""


@dataclass(frozen=True, slots=True)
class Text:
    """One row's text so far."""

    settled: str = ""
    """Text that later tokens cannot change."""
    context: tuple[int, ...] = ()
    """The last tokens already in `settled`: some tokenizers drop a space at the start of what they decode."""
    pending: tuple[int, ...] = ()
    """Tokens whose text still may change."""


def grow(text: Text, token_id: int, decode: Decode) -> Text:
    """Add one token; its text settles when its last character is whole."""
    pending = (*text.pending, token_id)
    before = decode(list(text.context))
    after = decode([*text.context, *pending])
    if len(after) <= len(before) or after.endswith(BROKEN):
        return replace(text, pending=pending)
    return Text(text.settled + after[len(before) :], context=pending)


def finish(text: Text, decode: Decode) -> str:
    """The whole text when no token follows; a last character that was never completed is left out."""
    before = decode(list(text.context))
    after = decode([*text.context, *text.pending])
    return (text.settled + after[len(before) :]).rstrip(BROKEN)


def stop_at(text: str, stop: Sequence[str]) -> int | None:
    """Where the stop string that is complete first begins; None when there is none."""
    found = [(start + len(s), start) for s in stop if (start := text.find(s)) >= 0]
    return min(found)[1] if found else None


def cut(text: str, stop: Sequence[str]) -> str:
    """The text up to its first complete stop string."""
    return text[: stop_at(text, stop)]


def showable(text: str, stop: Sequence[str]) -> str:
    """The part of a growing text that cannot become part of a stop string."""
    text = cut(text, stop)
    longest = max((len(s) for s in stop), default=1)
    for start in range(max(0, len(text) - longest + 1), len(text)):
        if any(s.startswith(text[start:]) for s in stop):
            return text[:start]
    return text
