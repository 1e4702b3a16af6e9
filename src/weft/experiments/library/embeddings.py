"""How often each task embedding finds the adapter of a request's own task in a library.

The library side is made from train rows, known wordings and the adapters; the request side from other rows,
unseen wordings, and adapters of another and shorter training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.embed import InputEmbedding
from weft.embed.adapters import cosines
from weft.embed.task2vec import distances, task2vec
from weft.errors import ConfigError
from weft.evaluate.intervals import Interval
from weft.evaluate.retrieval import retrieval
from weft.evaluate.specialists import Specialists, load_specialists, open_encoder
from weft.experiments.library.recipe import RoutingRecipe
from weft.host import Host
from weft.hyper import HyperNetwork
from weft.route.weigh import unit_vectors
from weft.tasks import Row
from weft.types import Description, Examples

_LIBRARY_ROWS = 16
"""Train rows of a task that the library side is made from."""


@dataclass(frozen=True, slots=True)
class Retrieved:
    """One embedding at one library size."""

    embedding: str
    request: str
    """What a request is, in words."""
    size: int
    requests: int
    top1: Interval
    top3: Interval


def measure_embeddings(
    recipe: RoutingRecipe, progress: Callable[[str], None] = lambda _: None
) -> list[Retrieved]:
    """Top-1 and top-3 accuracy of every embedding at every size of the recipe, in the whole library.

    Raises ConfigError for a size above the library's, and what loading raises.
    """
    host = Host.from_pretrained(recipe.base, dtype=recipe.dtype, device=recipe.device)
    library = load_specialists(recipe.library, recipe.data, host)
    if max(recipe.sizes) > len(library):
        raise ConfigError(f"retrieval among {max(recipe.sizes)} adapters, the library has {len(library)}")
    found = []
    for name, request, similarity_QK, right in _similarities(recipe, host, library, progress):
        for size in recipe.sizes:
            scores = retrieval(similarity_QK.double().numpy(), right, k=(1, 3), size=size)
            found.append(Retrieved(name, request, size, len(right), scores[1], scores[3]))
    return found


def _similarities(
    recipe: RoutingRecipe, host: Host, library: Specialists, progress: Callable[[str], None]
) -> Iterator[tuple[str, str, Tensor, list[int]]]:
    """(embedding, request, similarities [Q, K], places of the right ones), one embedding after another."""
    every = list(range(len(library)))
    unseen = [(k, text) for k in every for text in library.tasks[k].unseen_descriptions]
    for name, config in recipe.encoders.items():
        progress(f"descriptions by {name}")
        encoder = open_encoder(config, host, recipe.encoder_cache, library.tasks)
        known_KD = torch.stack(
            [
                unit_vectors(encoder, [Description(t) for t in task.descriptions]).mean(0)
                for task in library.tasks
            ]
        )
        if unseen:
            asked_QD = unit_vectors(encoder, [Description(text) for _, text in unseen])
            known_KD = torch.nn.functional.normalize(known_KD, dim=-1)
            yield f"description, {name}", "an unseen wording", asked_QD @ known_KD.mT, [k for k, _ in unseen]
    progress("examples by input embedding")
    inputs = InputEmbedding(host)
    known_KD = unit_vectors(inputs, [_examples(task.train[:_LIBRARY_ROWS]) for task in library.tasks])
    asked_KD = unit_vectors(inputs, [_examples(task.test[: recipe.examples]) for task in library.tasks])
    yield "examples, input embedding", _rows(recipe.examples), asked_KD @ known_KD.mT, every
    progress("examples by Task2Vec")
    known_KD = torch.stack([task2vec(host, task.train[:_LIBRARY_ROWS]) for task in library.tasks])
    for count in (recipe.examples, _LIBRARY_ROWS):
        asked_KD = torch.stack([task2vec(host, task.test[:count]) for task in library.tasks])
        yield "examples, Task2Vec", _rows(count), -distances(asked_KD, known_KD), every
    for name, folder in recipe.hypernetworks.items():
        progress(f"adapters by {name}")
        hyper = HyperNetwork.from_pretrained(folder, host=host)
        with torch.no_grad():
            made = hyper.generate([Description(text) for _, text in unseen])
        similarity_QK = cosines(made, library.adapters)
        yield (
            "the adapter",
            f"one that {name} makes of an unseen wording",
            similarity_QK,
            [k for k, _ in unseen],
        )
    for name, folder in recipe.early.items():
        progress(f"adapters: {name}")
        early = load_specialists(folder, recipe.data, host)
        place = {task.name: k for k, task in enumerate(library.tasks)}
        right = [place[task.name] for task in early.tasks if task.name in place]
        asked = [a for task, a in zip(early.tasks, early.adapters, strict=True) if task.name in place]
        for centre in (False, True):
            shown = "the adapter, mean taken off" if centre else "the adapter"
            yield shown, name, cosines(asked, library.adapters, centre=centre), right


def _examples(rows: Sequence[Row]) -> Examples:
    return Examples(tuple((row.prompt, row.completion) for row in rows))


def _rows(count: int) -> str:
    return f"{count} other rows"
