"""The flags that `generate` and `chat` share, and what they load."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from weft.cli.shared.flags import BaseMismatch
from weft.cli.shared.kinds import kind_of
from weft.errors import BaseCopyWarning, ConfigError, MissingFileError, ShapeError, UnknownNameError
from weft.files import base_named_in, embedded_folder, found_near, resolve
from weft.reading import read_json, read_text

if TYPE_CHECKING:
    from weft.host import Host
    from weft.hyper import HyperNetwork
    from weft.rows import AbstractHost, Share
    from weft.types import Adapter

BASE = "weft/letters"
HYPERNETWORK = "weft/letters-t2l"

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """Which base answers, and under which adapters."""

    base: str | None = None
    """Folder, hub id or embedded name; what the adapter names, or weft/letters, unless given."""
    host: str | None = None
    """swarm:NAME runs the base over the workers of that swarm."""
    adapter: tuple[str, ...] = ()
    """Adapter folder or Hub id; several add up."""
    weight: tuple[float, ...] = ()
    """Weight of each --adapter, in their order; 1 unless given."""
    describe: str | None = None
    """Make an adapter from this description on the spot."""
    hypernetwork: Annotated[str, Parameter(name="--with")] = HYPERNETWORK
    """The hypernetwork that reads --describe."""
    system: str | None = None
    """A text that goes into the prompt, before the question."""
    device: str = "cpu"
    """Where the base runs: cpu, cuda, cuda:1, ..."""
    dtype: Dtype = "auto"
    """Number type of the base; auto is the one that it was saved in."""
    base_mismatch: BaseMismatch = "refuse"
    """What to do with an adapter of another base: refuse it, warn, or allow it in silence."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SamplingFlags:
    """How the answer is drawn, in the words of Hugging Face's GenerationConfig.

    What is not given, the model's own generation_config says; without one the most likely token is taken.
    """

    max_new_tokens: int = 64
    """Most tokens of an answer."""
    temperature: float | None = None
    """0 takes the most likely token; the model's own value, or 0, unless given."""
    top_k: int | None = None
    """Draw among the k most likely tokens, 0 is all of them; the model's own, or all, unless given."""
    top_p: float | None = None
    """Draw among the most likely tokens that together have this probability; the model's own, or 1, unless
    given."""
    min_p: float | None = None
    """Draw among tokens at least this likely, relative to the most likely one; the model's own, or 0, unless
    given."""
    repetition_penalty: float | None = None
    """Above 1, tokens that occurred before become less likely; the model's own, or 1, unless given."""
    seed: int = 0
    """Seed of the first prompt's draws; each further prompt adds one."""
    stop: tuple[str, ...] = ()
    """String that ends an answer and is no part of it."""

    def options(self, host: AbstractHost) -> dict[str, Any]:
        """The keyword arguments of `Engine.generate` on a base, which may draw in a way of its own.

        What is taken from the base is said on standard error. Raises ConfigError.
        """
        from weft.engine.sampling import own_sampling

        given = {name: value for name, value in asdict(self).items() if value is not None}
        own = own_sampling(host.generation_config, given)
        if own:
            listed = ", ".join(f"{name} {value:g}" for name, value in own.items())
            print(f"weft: drawn as the model's generation_config says: {listed}", file=sys.stderr)
        return own | given


def load_model(
    flags: ModelFlags, library: Sequence[Adapter] = (), *, journal: Path | None = None
) -> tuple[AbstractHost, list[Adapter], Share]:
    """The base, its adapters, and what acts under them.

    The base also offers the sites of the adapters of a library. `journal` is that of a spread host.

    Raises ConfigError for weights that do not match, and what loading and `check_fits` raise.
    """
    from weft.engine.request import named_base, under
    from weft.host import compare_copies

    if journal is not None and flags.host is None:
        raise ConfigError("--journal is for a run over a swarm; give --host swarm:NAME too")
    if flags.host is not None and (flags.device, flags.dtype) != ("cpu", "auto"):
        raise ConfigError("a swarm was started with its own device and dtype; leave out --device and --dtype")
    # Adapters first: a wrong folder should be told before a large base is read.
    adapters, weights = load_adapters(flags.adapter, flags.weight)
    asked = None if flags.describe is None else flags.hypernetwork
    named = named_base(adapters, asked)
    name = flags.base or named or BASE
    folder = resolve(flags.adapter[0]) if flags.adapter and flags.base is None else None
    name = name if folder is None else found_near(name, folder)
    if flags.host is None:
        try:
            of_all = [*adapters, *library]
            host = local = open_host(name, device=flags.device, dtype=flags.dtype, adapters=of_all)
        except MissingFileError as error:
            if flags.base is not None or name == BASE:
                raise
            raise MissingFileError(
                f"{error}; this is the base that the adapter names, say by --base where it lies here"
            ) from error
    else:
        host, local = open_spread(flags.host, journal=journal), None
        if flags.base not in (None, host.name):
            raise ConfigError(f"--base is {flags.base}, {flags.host} runs {host.name}; leave one out")
    for folder in flags.adapter:
        compare_copies(folder, host)
    _warn_of_templates(flags.adapter, host)
    if flags.describe is not None:
        hyper = open_hypernetwork(flags.hypernetwork, host=local, on_mismatch=flags.base_mismatch)
        adapters.append(hyper.adapt(flags.describe))
        weights.append(1.0)
    try:
        return host, adapters, under(host, adapters, weights, on_mismatch=flags.base_mismatch)
    except (ShapeError, UnknownNameError) as error:
        if flags.base is not None or named is not None or flags.host is not None:
            raise
        raise ConfigError(
            f"no adapter names its base, so {BASE} was taken: {error}; say it by --base"
        ) from error


def _warn_of_templates(folders: Sequence[str], host: AbstractHost) -> None:
    """Warn of an adapter whose trainer saved a chat template that is not the base's: the base's is used."""
    written = getattr(host.tokenizer, "chat_template", None)
    for folder in folders:
        place = resolve(folder)
        own = None if place is None else _template_in(place)
        if own is not None and own.strip() != str(written or "").strip():
            warnings.warn(
                f"{folder} brings a chat template of its own, and prompts are written as the base does "
                f"({'by another one' if written else 'without one'}); put chat_template.jinja, or its "
                "tokenizer's files, into the base's folder to write them as in training",
                stacklevel=2,
            )


def _template_in(folder: Path) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return read_text(file)
    file = folder / "tokenizer_config.json"
    values = read_json(file) if file.is_file() else None
    found = values.get("chat_template") if isinstance(values, dict) else None
    return found if isinstance(found, str) else None


def load_adapters(folders: Sequence[str], weights: Sequence[float]) -> tuple[list[Adapter], list[float]]:
    """Adapters and as many weights; `weft.host.compare_copies` follows when the base is there.

    Raises ConfigError where their numbers differ, and for a weight that is not finite.
    """
    from weft.adapters import load

    if weights and len(weights) != len(folders):
        raise ConfigError(f"{len(weights)} --weight for {len(folders)} --adapter; give one for each, or none")
    if not all(map(math.isfinite, weights)):
        raise ConfigError(f"a weight is a finite number, got {', '.join(map(str, weights))}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BaseCopyWarning)  # compared when the base is there
        adapters = [load(folder) for folder in folders]
    return adapters, list(weights) or [1.0] * len(folders)


def compare_with_base(folders: Sequence[str], adapters: Sequence[Adapter], base: str | None) -> None:
    """Compare copies of base weights beside adapters, where there are any, with the base given or named.

    Where that is not on this machine, and not given, a warning says that nothing was compared. Raises what
    `check_copies` and `open_host` raise.
    """
    from weft.adapters import has_copies
    from weft.engine.request import named_base
    from weft.host import compare_copies

    bringing = [folder for folder in folders if has_copies(folder)]
    name = base or named_base(adapters)
    if not bringing:
        return
    if name is None or (base is None and resolve(name) is None):
        warnings.warn(
            f"{', '.join(bringing)}: not read: copies of base weights; if they were trained or resized, the "
            "result lacks that; give --base to compare them",
            stacklevel=2,
        )
        return
    host = open_host(name, adapters=adapters)
    for folder in bringing:
        compare_copies(folder, host)


def open_host(
    name: str | Path, *, device: str = "cpu", dtype: Dtype = "auto", adapters: Sequence[Adapter] = ()
) -> Host:
    """The base under a name, with the sites that these adapters change. Raises ConfigError for a device."""
    from weft.host import Host, targets_for

    return Host.from_pretrained(name, device=device, dtype=dtype, target_modules=targets_for(adapters))


def open_spread(name: str, *, journal: Path | None = None) -> AbstractHost:
    """The host under `swarm:NAME`. Raises ConfigError for another form, and what `open_swarm` raises."""
    from weft.swarm import open_swarm

    kind, _, swarm = name.partition(":")
    if kind != "swarm" or not swarm:
        raise ConfigError(
            f"a host is written swarm:NAME, got {name}; leave it out for a base of this process"
        )
    return open_swarm(swarm, journal=journal)


def open_hypernetwork(
    name: str, *, host: Host | None = None, on_mismatch: BaseMismatch = "refuse"
) -> HyperNetwork:
    """The hypernetwork under a name, for a base."""
    from weft.hyper import HyperNetwork

    return HyperNetwork.from_pretrained(name, host=host, on_mismatch=on_mismatch)


def adapt_words(
    hyper: HyperNetwork, description: str, paraphrases: int, *, name: str | None, levels: int | None = None
) -> tuple[Adapter, dict[str, Any]]:
    """The adapter of a description, and what is said of it: its reach, how far the paraphrases agree.

    A description that is not in the network's reach leads to a warning.
    """
    from weft.hyper import adapt_paraphrased, reach

    adapter, agreement = adapt_paraphrased(hyper, description, paraphrases, name=name, levels=levels)
    said: dict[str, Any] = {} if agreement is None else {"agreement": round(agreement, 3)}
    near = reach(hyper, description)
    if near is None:  # the network keeps no known descriptions
        return adapter, said
    if not near.is_within:
        warnings.warn(
            f"{hyper.name} knows nothing like this description (similarity {near.similarity:.2f}, below "
            f"{near.threshold:.2f}), so the adapter is a guess; the nearest it knows: "
            f"{'; '.join(near.nearest)}",
            stacklevel=2,
        )
    return adapter, {"reach": round(near.similarity, 3), "reach_threshold": near.threshold} | said


def base_of(hypernetwork: str) -> str:
    """The base that a hypernetwork names. Raises ConfigError where it names none, or MissingFileError."""
    folder = resolve(hypernetwork)
    if folder is None:
        raise MissingFileError(f"no hypernetwork folder at {hypernetwork}")
    named = base_named_in(folder)
    if named is None:
        raise ConfigError(f"hypernetwork {hypernetwork} does not name its base; give --base")
    return named


def usual_base() -> str:
    """The base where nobody names one: the real model where a hypernetwork for it ships, else the letters."""
    return "weft/smollm2" if (embedded_folder() / "smollm2-t2l").is_dir() else BASE


def hypernetwork_for(host: AbstractHost) -> str | None:
    """Name of a hypernetwork for this base that ships with Weft, or None."""
    for folder in sorted(path for path in embedded_folder().glob("*") if path.is_dir()):
        if (
            kind_of(folder) == "hypernetwork"
            and read_json(folder / "config.json").get("base") == host.fingerprint
        ):
            return f"weft/{folder.name}"
    return None
