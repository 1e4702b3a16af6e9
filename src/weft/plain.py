"""Text from outside, made fit for a terminal: the one place that everything printed goes through."""

import json
import unicodedata
from typing import Any

_LONGEST = 2000


def plain(text: str, *, keep: str = "") -> str:
    """The text with every character that can steer a terminal written as an escape (`\\x1b`, `\\u202e`).

    Those are control, format, unassigned and surrogate characters and line separators, but for `keep`.
    """
    if text.isprintable():
        return text
    return "".join(c if _shows(c) or c in keep else _escape(c) for c in text)


def one_line(text: str) -> str:
    """A message as one line of at most 2000 characters, its middle left out where it was longer."""
    line = plain(" ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} [...] {line[-_LONGEST // 2 :]}"


def reason_of(error: BaseException) -> str:
    """What an error of another library says, as one line of at most 300 characters; else its kind."""
    line = plain(" ".join(str(error).split())) or type(error).__name__
    return line if len(line) <= 300 else f"{line[:297]}..."


def json_text(value: Any) -> str:
    """One JSON document, indented; characters that can steer a terminal are JSON escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(c if c == "\n" or _shows(c) else json.dumps(c)[1:-1] for c in text)


def as_escapes(error: UnicodeError) -> tuple[str, int]:
    """For `codecs.register_error`: what an encoding lacks, as JSON writes it."""
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def _shows(character: str) -> bool:
    # Python calls every space but the usual one unprintable.
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
