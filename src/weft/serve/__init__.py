"""An OpenAI-compatible server: one base, many adapters, made and mixed by name."""

from weft.serve.app import build_app
from weft.serve.body import Limits
from weft.serve.connection import server_config
from weft.serve.keys import Keys
from weft.serve.scheduler import Scheduler
from weft.serve.shelf import Shelf

__all__ = ["Keys", "Limits", "Scheduler", "Shelf", "build_app", "server_config"]
