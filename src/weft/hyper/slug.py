"""Short names for cues."""

import hashlib
import re

from weft.tasks.task import image_hash
from weft.types import Cue, Description, Document, Examples, Image


def cue_text(cue: Cue) -> str:
    """A cue in one text, for people to read."""
    match cue:
        case Description(text) | Document(text):
            return text
        case Examples(pairs, description):
            return description or "; ".join(f"{prompt} -> {completion}" for prompt, completion in pairs)
        case Image(pixels_HWC):
            return f"picture {image_hash(cue)[:16]} of {pixels_HWC.shape[1]} x {pixels_HWC.shape[0]}"


def slug(cue: Cue) -> str:
    """A name for a cue, fit for a path: its first words, or a hash where it has no Latin ones."""
    text = cue_text(cue)
    words = re.sub(r"[^a-z0-9]+", "-", text.lower())[:40].strip("-")
    return words or f"cue-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
