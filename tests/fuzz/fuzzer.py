"""A seeded fuzzer: damaged inputs, each of which must be taken or end in one clear line.

`python tests/fuzz/fuzzer.py --cases 10000` runs it (`make fuzz`). A surface is a function that damages a good
input by a random generator, writes it into a folder and returns what to call. Case i of a surface depends on
(seed, surface, i) alone, so `--surface rows --only 17` runs a failing one again. To add a surface, decorate a
function with `@surface`, in a module that `SURFACE_MODULES` names.
"""

from __future__ import annotations

import argparse
import importlib
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from weft.errors import WeftError

SECONDS, PATIENCE, MEMORY = 10, 120, 1 << 30
"""Of processor time, since others may hold the machine; of the clock, for what only waits; and bytes."""
SURFACE_MODULES = ("surfaces_text", "surfaces_folders")

Counts = dict[str, Counter[str]]
"""Surface -> how its cases ended -> how many."""
Surface = Callable[[random.Random, Path], Callable[[], object]]
SURFACES: dict[str, Surface] = {}


class Failure(NamedTuple):
    """A case that ended in anything but a result or one clear line."""

    surface: str
    case: int
    what: str


class TooSlow(BaseException):
    """Not an Exception, so that nothing on the way takes it for an error of its own."""


def surface(make: Surface) -> Surface:
    """Register a way to damage something; its name is that of the function."""
    SURFACES[make.__name__] = make
    return make


def run(
    cases: int,
    *,
    seed: int = 0,
    only: str | None = None,
    case: int | None = None,
    counts: Counts | None = None,
) -> Iterator[Failure]:
    """Run so many cases, spread evenly over the surfaces, and yield those that fail.

    How many of each surface were taken, refused and failed goes into `counts`.
    """
    for module in SURFACE_MODULES:
        importlib.import_module(module)
    names = [name for name in SURFACES if only in (None, name)]
    share = -(-cases // len(names))
    for name in names:
        for number in range(share) if case is None else (case,):
            ended, told = _run(SURFACES[name], random.Random(f"{seed}/{name}/{number}"))
            if counts is not None:
                counts.setdefault(name, Counter())[ended] += 1
            if told:
                yield Failure(name, number, told)


def _run(make: Surface, rng: random.Random) -> tuple[str, str]:
    """How a case ended (`taken`, `refused` or `failed`), and what was wrong."""
    ended = "taken"
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call = make(rng, Path(folder))
        before = _most_memory(afresh=True)
        clocks = (signal.ITIMER_PROF, signal.SIGPROF, SECONDS), (signal.ITIMER_REAL, signal.SIGALRM, PATIENCE)
        for clock, name, seconds in clocks:
            signal.signal(name, _stop)
            signal.setitimer(clock, seconds)
        try:
            call()
        except WeftError as error:
            ended, said = "refused", str(error)
            if not said.strip() or len(said) > 2000:
                return "failed", f"a message of {len(said)} characters: {said[:200]!r}"
        except TooSlow:
            return "failed", f"more than {SECONDS} s"
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{type(error).__name__}: {str(error)[:200]!r} at {where.filename}:{where.lineno}"
            return "failed", told
        finally:
            for clock, _, _ in clocks:
                signal.setitimer(clock, 0)
        grown = _most_memory() - before
        return ("failed", f"{grown >> 20} MiB more memory") if grown > MEMORY else (ended, "")


def _most_memory(*, afresh: bool = False) -> int:
    """Bytes that this process held at most; `afresh` since now, where the system can be told so."""
    with suppress(OSError):
        if afresh:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split(maxsplit=1)[0])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _stop(*_: object) -> None:
    raise TooSlow


# ------------------------------------------------------------------------------------------------ damage

NASTY: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 2**64, 10**12, 10**400, 1e308, float("nan"), float("inf"), "", " ",
    "\x00", "\x1b[31m", "\ud83d", "a" * 100_000, "../../etc/passwd", "weft/none", "\u202e", "{{ x }}", [], {},
    [[]], [None], {"": None}, ["a"] * 1000, "(a+)+$", "CON", ".", "-1", "1e3", "=", "!!int '-'", "*x",
)  # fmt: skip

_PUT = (b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b"&a *a", b"[" * 5000, b"{" * 500, b"\r\n", b"\\ud83d")


def damage_value(rng: random.Random, value: Any) -> Any:
    """The value with one part of it replaced, removed, repeated or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.7:
            return {**value, key: damage_value(rng, value[key])}
        rest = {k: v for k, v in value.items() if k != key}
        return rest if kind < 0.85 else {**rest, rng.choice(["x", "a" * 5000, key + "s", ""]): value[key]}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        kind = rng.random()
        if kind < 0.7:
            return [*value[:place], damage_value(rng, value[place]), *value[place + 1 :]]
        return value[:place] + value[place + 1 :] if kind < 0.85 else value * rng.choice([2, 50])
    return rng.choice(NASTY)


def damage_bytes(rng: random.Random, content: bytes) -> bytes:
    """The bytes with some of them turned, cut, doubled or put in."""
    for _ in range(rng.choice([1, 1, 2, 8])):
        place = rng.randrange(len(content) + 1)
        match rng.randrange(6):
            case 0:
                content = content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]
            case 1:
                content = content[:place]
            case 2:
                content = content[:place] + content[rng.randrange(len(content) + 1) :]
            case 3:
                content = content[:place] + rng.choice(_PUT) + content[place:]
            case 4:
                content = (
                    content[:place] + content[place : place + 40] * rng.choice([2, 400]) + content[place:]
                )
            case 5:
                content = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    return content


def main() -> int:
    parser = argparse.ArgumentParser(description="Damaged inputs: each is taken or ends in one clear line.")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--surface")
    parser.add_argument("--only", type=int)
    asked = parser.parse_args()
    start, failed = time.monotonic(), 0
    counts: Counts = {}
    resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    cases = run(asked.cases, seed=asked.seed, only=asked.surface, case=asked.only, counts=counts)
    for failure in cases:
        failed += 1
        print(f"{failure.surface} --only {failure.case}: {failure.what}", flush=True)
    seconds = time.monotonic() - start
    for name, ended in counts.items():
        print(f"{name:14} {ended['taken']:5} taken {ended['refused']:5} refused {ended['failed']:5} failed")
    total = sum(sum(ended.values()) for ended in counts.values())
    print(f"{total} cases in {seconds:.0f} s, {time.process_time():.0f} s of the processor: {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    # Surfaces import this file by its name: let there be one of it.
    sys.modules["fuzzer"] = sys.modules["__main__"]
    sys.path.append(str(Path(__file__).parents[1]))
    sys.exit(main())
