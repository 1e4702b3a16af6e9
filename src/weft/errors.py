"""What can go wrong for a user: each message says what is wrong, the value, and what to do.

Every error is a WeftError and also the standard exception that it specialises, so `except ValueError`
keeps working. The command line prints them as one line.
"""


class WeftError(Exception):
    """Base of all errors that Weft raises on purpose.

    Example:
        >>> try:
        ...     weft.load("no/such/folder/here")
        ... except weft.WeftError as error:
        ...     print(type(error).__name__)
        MissingFileError
    """


class ShapeError(WeftError, ValueError):
    """Tensors, indices or names do not fit each other."""


class BaseMismatchError(WeftError, ValueError):
    """An adapter belongs to another base network."""


class AdapterFormatError(WeftError, ValueError):
    """A folder is not a readable LoRA adapter: damaged, not safetensors, or holding NaN."""


class UnsupportedAdapterError(WeftError, NotImplementedError):
    """An adapter of a kind that Weft does not run (DoRA, bias, modules_to_save, not LoRA)."""


class UnknownNameError(WeftError, KeyError):
    """A name that does not exist; the message offers the nearest one."""

    def __str__(self) -> str:
        """Return the message without KeyError's quotes."""
        return str(self.args[0]) if self.args else ""


class ConfigError(WeftError, ValueError):
    """A recipe, task folder or option with an unknown key or a wrong value."""


class CueError(WeftError, ValueError):
    """A description, examples or document that no adapter can be made from."""


class PromptTooLongError(WeftError, ValueError):
    """A prompt that leaves no room in the model's window."""


class MissingFileError(WeftError, FileNotFoundError):
    """A file or folder that should be there and is not."""


class SaveError(WeftError, OSError):
    """A folder could not be written; what was there before is untouched."""


class MissingExtraError(WeftError, ImportError):
    """An optional dependency is not installed; the message names the extra."""


class WeightsError(WeftError, ValueError):
    """A file of weights or vectors is damaged, holds NaN, or does not have the tensors that it should."""


class BaseCopyWarning(UserWarning):
    """An adapter folder holds copies of base weights, which are not read."""


class PoolFullError(WeftError, RuntimeError):
    """Every adapter slot acts on a row; one becomes free when a row ends."""


class NotFiniteError(WeftError, ArithmeticError):
    """A training has reached NaN or infinity; the message names the step, and the row where it is known."""


class WorkerError(WeftError, ConnectionError):
    """A worker of a spread host cannot be reached, does not answer, or belongs to another host."""


class MessageError(WeftError, ValueError):
    """A message between the machines of a spread host is damaged, too large or impossible."""
