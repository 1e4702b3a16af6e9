"""An OpenAI-compatible server: one base, many adapters, made and mixed by name."""

from weft.serve.app import build_app
from weft.serve.body import Limits
from weft.serve.keys import Keys
from weft.serve.scheduler import Scheduler
from weft.serve.shelf import Shelf

__all__ = ["Keys", "Limits", "Scheduler", "Shelf", "build_app"]
