"""`weft adapt`: a description, a document or a picture in, an adapter out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from weft.checks import check_target
from weft.cli.shared.flags import BaseMismatch, Json, OutputFolder, Paraphrases
from weft.cli.shared.model import HYPERNETWORK, adapt_words, open_host, open_hypernetwork
from weft.cli.shared.screen import print_json, print_pairs
from weft.errors import ConfigError
from weft.reading import check_file, read_lines

if TYPE_CHECKING:
    from weft.hyper import ContextNetwork


def adapt(
    description: str | None = None,
    /,
    *,
    document: Path | None = None,
    image: Path | None = None,
    output_dir: OutputFolder,
    hypernetwork: Annotated[str, Parameter(name="--with")] = HYPERNETWORK,
    base: str | None = None,
    base_mismatch: BaseMismatch = "refuse",
    levels: int | None = None,
    paraphrases: Paraphrases = 1,
    name: str | None = None,
    json: Json = False,
) -> None:
    """Make an adapter from a description, a document or a picture, and save it as a PEFT folder.

    For example:

        weft adapt "sort the letters from z to a" -o out/
        weft adapt --document notes.txt --with context/ -o out/
        weft adapt --image digit.png --with pictures/ -o out/

    Args:
        description: What the model should do, in words.
        document: Text file (.txt, .txt.gz) whose content goes into the adapter, of any length.
        image: Picture (PNG, JPEG, WebP, GIF, BMP) that the adapter tells of.
        output_dir: Folder to write; an adapter that is there is replaced, anything else is refused.
        hypernetwork: The hypernetwork that makes it: a folder, or one that ships with Weft. A document needs
            a context network (weft train context), a picture one that was trained on pictures.
        base: The base that the adapter is for, where the hypernetwork should be checked against it or names
            none: folder, hub id or embedded name. It is read.
        base_mismatch: What to do where --base is not the hypernetwork's own: refuse it, warn, or allow it.
        levels: How many levels of a stack act above its first; it decides by itself unless given.
        paraphrases: Make the exact mean of the adapters of so many wordings, 1 to 16; the rank grows as much.
        name: Name of the adapter; made from the description unless given.
    """
    # Imported here, as in every verb: torch takes seconds, and help and wrong usage should not.
    from weft.adapters import norm, save
    from weft.embed import read_image
    from weft.hyper.context import says
    from weft.hyper.slug import slug
    from weft.types import Document

    if sum(given is not None for given in (description, document, image)) != 1:
        raise ConfigError("give one of a description, a --document and an --image")
    if description is None and (paraphrases > 1 or (document is not None and levels is not None)):
        raise ConfigError("--paraphrases are of a description, --levels of a description or a picture")
    check_target(output_dir)
    if description is not None:
        host = None if base is None else open_host(base)
        hyper = open_hypernetwork(hypernetwork, host=host, on_mismatch=base_mismatch)
        start = time.perf_counter()
        adapter, said = adapt_words(hyper, description, paraphrases, name=name, levels=levels)
    elif image is not None:
        cue = read_image(image)
        host = None if base is None else open_host(base)
        hyper = open_hypernetwork(hypernetwork, host=host, on_mismatch=base_mismatch)
        start = time.perf_counter()
        adapter = hyper.adapt(cue, name=name or slug(Document(image.stem)), levels=levels)
        said = {}
    else:
        assert document is not None
        check_file(document)
        network = _open_context(hypernetwork, base)
        start = time.perf_counter()
        adapter = network.adapt_stream(_ids(network, document), name=name or slug(Document(document.stem)))
        said = {} if says(adapter) else {"heard": "nothing"}
    seconds = time.perf_counter() - start
    save(adapter, output_dir)
    made = {
        "path": str(output_dir),
        "name": adapter.name,
        "base": adapter.base,
        "sites": len(adapter.sites),
        "rank": adapter.rank,
        "norm": float(norm(adapter)),
        "seconds": round(seconds, 3),
    } | said
    print_json(made) if json else print_pairs(made)


def _open_context(folder: str, base: str | None) -> ContextNetwork:
    from weft.hyper import ContextNetwork

    if folder == HYPERNETWORK:
        raise ConfigError("a document needs a context network; name one by --with (weft train context)")
    return ContextNetwork.from_pretrained(folder, host=None if base is None else open_host(base))


def _ids(network: ContextNetwork, document: Path) -> Iterator[int]:
    """Token ids of a file, line by line, so that it is never held whole, under a bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = DownloadColumn(), BarColumn(bar_width=20), TimeRemainingColumn(compact=True)
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        # How much a packed file holds is not known before its end.
        size = None if document.suffix == ".gz" else document.stat().st_size
        task = bar.add_task("", total=size)
        encode = network.tokens
        for _, line in read_lines(document, blank=True):
            # A file of Windows says what the same text says elsewhere.
            yield from encode(f"{line[:-2]}\n" if line.endswith("\r\n") else line)
            encode = network.inner_tokens
            bar.advance(task, len(line.encode()))
