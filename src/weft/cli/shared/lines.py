"""Lines of standard input, whatever bytes they are."""

import io
import sys
from collections.abc import Iterator

from weft.reading import decode


def stdin_lines() -> Iterator[str]:
    """Lines that are not blank, without the spaces around them. Raises ConfigError for one not in UTF-8."""
    stream = sys.stdin.buffer if isinstance(sys.stdin, io.TextIOWrapper) else sys.stdin
    for number, content in enumerate(stream, 1):
        where = f"standard input, line {number}"
        line = decode(content, where) if isinstance(content, bytes) else content
        if line.strip():
            yield line.strip()
