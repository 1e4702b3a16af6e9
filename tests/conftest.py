"""What is done before any test; what all of them share is in `shared.py`."""

import gc
import os

import pytest

import checked  # noqa: F401  (before anything of weft is imported)

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def pytest_configure(config: pytest.Config) -> None:
    """Import torch where tests run; a process that hands them out to others does without it."""
    if "PYTEST_XDIST_WORKER" in os.environ or not getattr(config.option, "numprocesses", None):
        gc.disable()  # until all tests are known: what is imported stays, and is not looked through each time
        config.pluginmanager.import_plugin("shared")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: a long one that starts last leaves the other worker idle."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """Take what is there by now for in use to the end."""
    gc.freeze()
    gc.enable()
