"""How much is evaluated, and how."""

from pydantic import PositiveInt

from weft.config import Config, Seeds


class Options(Config):
    """What every evaluation can be told."""

    seeds: Seeds = (0, 1, 2)
    """Each draws wordings and rows of its own."""
    max_tasks: PositiveInt | None = None
    """Tasks of a split, at most; those with an adapter of their own come first. All unless given."""
    rows_per_task: PositiveInt = 24
    """Test rows of a task, at most."""
    max_new_tokens: PositiveInt = 32
    """Most tokens of an answer."""
    batch_size: PositiveInt = 128
    """Rows that are answered side by side."""
    bootstrap_samples: PositiveInt = 2000
    """Draws behind the confidence intervals."""
    with_description: bool = False
    """Also answer under the multi-task and the generated adapters with the description in the prompt."""
