"""Processes of `weft` whose imports are behind them: each is a fork of one that did them once."""

import multiprocessing
import os
from multiprocessing.process import BaseProcess
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["weft.cli.app", "weft.swarm", "weft.train", "weft.serve"])


def start_weft(*arguments: str, said: Path) -> BaseProcess:
    """`weft` with these arguments, in a process of its own; what it prints goes to `said`."""
    process = _FORKS.Process(target=_weft, args=(arguments, dict(os.environ), os.getcwd(), str(said)))
    process.start()
    return process


def _weft(arguments: tuple[str, ...], environment: dict[str, str], folder: str, said: str) -> None:
    from weft.cli import main

    os.environ.clear()  # the first of these processes may have been started by another test
    os.environ.update(environment)
    os.chdir(folder)
    with open(said, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    raise SystemExit(main(list(arguments)))
