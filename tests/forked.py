"""Processes whose imports are done: each is a fork of one that did them once, with another hash seed."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["weft.cli.app", "weft.swarm", "weft.train", "weft.serve"])
_HASH_SEED = "12345"


def start(function: Callable[..., Any], *arguments: Any, said: Path) -> BaseProcess:
    """Call a function of a test module in a process of its own; what it prints goes to `said`."""
    given = (function, arguments, dict(os.environ), os.getcwd(), str(said), hash("weft"))
    process = _FORKS.Process(target=_call, args=given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONHASHSEED", _HASH_SEED)  # of all forks, where this starts the first
        process.start()
    return process


def elsewhere(function: Callable[..., Any], *arguments: Any, said: Path) -> str:
    """What a function of a test module prints in a process of its own, which has to end well."""
    process = start(function, *arguments, said=said)
    process.join(300)
    process.kill()
    assert process.exitcode == 0, said.read_text()
    return said.read_text()


def start_weft(*arguments: str, said: Path) -> BaseProcess:
    """`weft` with these arguments, in a process of its own; what it prints goes to `said`."""
    return start(_weft, *arguments, said=said)


def _call(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    environment: dict[str, str],
    folder: str,
    said: str,
    parents_hash: int,
) -> None:
    assert hash("weft") != parents_hash, "two processes of one hash seed tell nothing of the order of sets"
    os.environ.clear()  # the first of these processes may have been started by another test
    os.environ.update(environment)
    os.chdir(folder)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with open(said, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    function(*arguments)


def _end_with_parent() -> None:
    """Nothing is left behind by tests that are killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _weft(*arguments: str) -> None:
    from weft.cli import main

    raise SystemExit(main(list(arguments)))
