"""What the recipes of experiments over a library share."""

from weft.config import Config, Size
from weft.tasks.source import Data


class AbstractExperiment(Config):
    """A base, a library for it, and answers to rows of the library's tasks."""

    base: str
    """Embedded name, folder or hub id of the frozen base."""
    library: str
    """Folder of adapter folders, each named as the task that it was trained for, or one that ships with
    Weft."""
    data: Data
    """Where the tasks come from."""
    encoder_cache: str = "runs/encoder-cache"
    """Folder that remembers the vectors of texts."""
    rows_per_task: Size = 8
    """Test rows of a task that are answered."""
    max_new_tokens: Size = 16
    """Most tokens of an answer."""
    output: str | None = None
    """The Markdown page; JSON and a picture go beside it."""
