"""The command line, one file per verb."""

from weft.cli.app import main

__all__ = ["main"]
