"""The text of a cue, for encoders that read text."""

from collections.abc import Sequence

from weft.errors import CueError
from weft.types import Cue, Description


def texts_of(cues: Sequence[Cue]) -> list[str]:
    """The descriptions' texts. Raises CueError for an empty one and for any other kind of cue."""
    texts = []
    for cue in cues:
        if not isinstance(cue, Description):
            raise CueError(f"this encoder reads descriptions, got {type(cue).__name__}")
        if not cue.text.strip():
            raise CueError("the description is empty; say in words what the adapter should do")
        texts.append(cue.text)
    return texts
