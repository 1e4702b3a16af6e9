"""The ways to use a library that `weft experiment library` compares: what is made once, and what per seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from weft.errors import ConfigError
from weft.evaluate.answer import read
from weft.evaluate.specialists import Specialists, load_for, open_encoder
from weft.evaluate.statistics import statistics
from weft.experiments.library.learned_ways import layer_weights, learn_gates, lorahub_weights
from weft.experiments.library.recipe import RoutingRecipe
from weft.experiments.library.requests import QUARTER, Requests, Way, Ways
from weft.host import Host
from weft.merging import merge
from weft.route import Arrow, Classifier, Nearest, Spectr, load_tree
from weft.route.layers import by_layer
from weft.route.load import load_router
from weft.route.weigh import AbstractWeigher
from weft.rows import AbstractHost
from weft.tasks import collate, render, render_prompt
from weft.tasks.batch import pad_id
from weft.types import (
    UNDECIDED,
    AbstractGate,
    Adapter,
    Assignment,
    Bank,
    Dense,
    Mixture,
    Rows,
    Site,
    State,
    Term,
    Tokens,
    TopK,
)

_SINGLE_ROWS = 2
"""Train rows of a task by which the best single adapter is chosen."""
_STATISTICS_ROWS = 16
"""Train rows of a task that fisher and regmean look at."""
_FIRST = 3
"""How many adapters a blend by similarity and the gates take."""


def prepare_ways(
    recipe: RoutingRecipe, host: Host, library: Specialists, progress: Callable[[str], None]
) -> Ways:
    """Fit, merge and load what does not depend on the requests; returns what makes the ways of a seed."""
    bank = library.stack().to(host.device)
    count, rank = len(library), max(adapter.rank for adapter in library.adapters)
    whole = float(count)
    singles = [(name, load_for(host, one.path), one.described) for name, one in recipe.singles.items()]
    trees = _trees(recipe, host, rank)
    routers, gates = _routers(recipe, host, library, bank, progress)
    progress("best single adapter")
    best = best_single(host, library, recipe.tasks)
    learned = []
    if recipe.gates is not None:
        learned = learn_gates(recipe.gates, host, library, recipe.tasks, bank, progress)
    alone = [
        _alone(name, adapter, rank, described=described)
        for name, adapter, described in (*singles, *_merges(recipe, host, library, progress))
    ]
    own_TK = torch.eye(count)[: recipe.tasks]
    uniform_1K = torch.full((1, count), 1 / count)
    untrained = {"arrow": Arrow(bank, top_k=_FIRST), "spectr": Spectr(bank, top_k=_FIRST)}

    def build(requests: Requests, seed: int) -> Sequence[Way]:
        each = requests.per_task
        own = spread(bank, own_TK, each)
        ways = [
            Way("base", "nothing", None, 0.0, 0.0),
            Way("base, described", "prompt with description", None, 0.0, 0.0, described=True),
            Way("oracle", "the task", own, 1.0, whole, own_TK),
            Way("oracle, described", "the task", own, 1.0, whole, own_TK, described=True),
            Way(QUARTER, "the task", spread(bank, own_TK / 4, each), 1.0, whole, own_TK / 4, described=True),
            Way("best single", "nothing", Mixture.of(library.adapters[best]), 1.0, 1.0),
            Way("uniform average", "nothing", Mixture.dense(bank, uniform_1K), whole, whole),
            Way("sum of all", "nothing", Mixture.dense(bank, torch.ones(1, count)), whole, whole),
            *alone,
        ]
        for name, router in routers.items():
            weight_TK = router.weights(requests.wordings, bank.names).detach()
            active = float(router.top_k or count)
            ways.append(Way(name, "wording", spread(bank, weight_TK, each), active, whole, weight_TK))
        if recipe.lorahub is not None:
            progress(f"seed {seed}: searching for LoraHub")
            weight_TK = lorahub_weights(
                recipe.lorahub, host, library, recipe.tasks, bank, recipe.examples, seed
            )
            active = float(recipe.lorahub.candidates)
            ways.append(Way("lorahub", "examples", spread(bank, weight_TK, each), active, whole, weight_TK))
        if recipe.layers is not None:
            progress(f"seed {seed}: learning layer weights")
            weight_TLK = layer_weights(
                recipe.layers, host, library, recipe.tasks, bank, recipe.examples, seed
            )
            mixture = by_layer(bank, weight_TLK.to(host.device).repeat_interleave(each, 0))
            active = float(recipe.layers.candidates)
            ways.append(Way("layer weights (CAT)", "examples", mixture, active, whole, weight_TLK.mean(1)))
        for name, term, active in (*learned, *gates):
            weight_TK = watch(host, term, requests, True)
            sees = "prompt with description"
            ways.append(Way(name, sees, Mixture((term,)), active, whole, weight_TK, described=True))
        for described in (False, True):
            for name, gate in untrained.items():
                term = Term(bank, gate)
                weight_TK = watch(host, term, requests, described)
                sees = "prompt with description" if described else "prompt"
                shown = f"{name}, described" if described else name
                ways.append(Way(shown, sees, Mixture((term,)), float(_FIRST), whole, weight_TK, described))
        return [*ways, *trees]

    return build


def _alone(name: str, adapter: Adapter, rank: int, *, described: bool) -> Way:
    size = adapter.rank / rank
    sees = "prompt with description" if described else "nothing"
    return Way(name, sees, Mixture.of(adapter), size, size, described=described)


def spread(bank: Bank, weight_TK: Float[Tensor, "T K"], each: int) -> Mixture:
    """Every task's weights on each of its rows; one adapter per row where all weights are 0 and one 1."""
    best_T = weight_TK.argmax(-1)
    if torch.equal(weight_TK, torch.eye(len(bank))[best_T]):
        return Mixture.rows(bank, best_T.repeat_interleave(each))
    like = next(iter(bank.a.values()))
    return Mixture.dense(bank, weight_TK.to(like).repeat_interleave(each, 0))


def best_single(host: AbstractHost, library: Specialists, tasks: int) -> int:
    """The adapter with the least mean loss over train rows of all asking tasks.

    Raises ConfigError for tasks without train rows.
    """
    encoded = [
        render(host.tokenizer, row) for task in library.tasks[:tasks] for row in task.train[:_SINGLE_ROWS]
    ]
    if not encoded:
        raise ConfigError("the best single adapter is chosen by train rows, and these tasks have none")
    batch = collate(encoded, pad_id=pad_id(host), side="left")
    losses = [float((read(host, batch, Mixture.of(adapter)).nll_B).mean()) for adapter in library.adapters]
    return losses.index(min(losses))


def watch(host: Host, term: Term, requests: Requests, described: bool) -> Float[Tensor, "T K"]:
    """The weights that a gate gives each adapter, a mean over the tokens of one prompt per task and sites."""
    rows = requests.rows[:: requests.per_task]
    texts = requests.known if described else (None,) * len(rows)
    prompts = [
        render_prompt(host.tokenizer, row.question, description=text)
        for row, text in zip(rows, texts, strict=True)
    ]
    watched = _Watched(term.gate, len(term.bank))
    mixture = Mixture((Term(term.bank, watched, term.combine),))
    found = []
    for ids in prompts:
        watched.total_K = torch.zeros(len(term.bank))
        with torch.no_grad():
            host(torch.tensor([ids], device=host.device), mixture)
        found.append(watched.total_K / watched.total_K.sum())
    return torch.stack(found)


class _Watched(AbstractGate):
    """A gate that counts what another one, or an assignment, assigns."""

    def __init__(self, gate: Assignment | AbstractGate, count: int) -> None:
        super().__init__()
        self.gate = gate
        self.total_K = torch.zeros(count)

    def prepare(self, embeddings_BTH: Tensor, mask_BT: Tensor) -> State:
        if not isinstance(self.gate, AbstractGate):
            return UNDECIDED
        return self.gate.prepare(embeddings_BTH, mask_BT)

    def assign(self, x_BTI: Tensor, site: Site, state: State) -> tuple[Assignment, State]:
        assigned = self.gate
        if isinstance(assigned, AbstractGate):
            assigned, state = assigned.assign(x_BTI, site, state)
        match assigned:
            case TopK(index_BTk, weight_BTk):
                self.total_K.index_add_(
                    0, index_BTk.flatten().cpu(), weight_BTk.detach().float().flatten().cpu()
                )
            case Dense(weight):
                self.total_K += weight.detach().float().cpu().flatten(0, -2).sum(0)
            case Rows(index) | Tokens(index):
                kept = index[index >= 0].flatten().cpu()
                self.total_K += torch.bincount(kept, minlength=len(self.total_K))
        return assigned, state


def _routers(
    recipe: RoutingRecipe,
    host: Host,
    library: Specialists,
    bank: Bank,
    progress: Callable[[str], None],
) -> tuple[dict[str, AbstractWeigher], list[tuple[str, Term, float]]]:
    """Routers that read a request, and trained gates as (name, term, adapters per token)."""
    made: dict[str, AbstractWeigher] = {}
    gates: list[tuple[str, Term, float]] = []
    for name, config in recipe.encoders.items():
        progress(f"descriptions by {name}")
        encoder = open_encoder(config, host, recipe.encoder_cache, library.tasks)
        one, many = Nearest(encoder), Nearest(encoder)
        three = Nearest(encoder, top_k=_FIRST, temperature=0.05)
        for task in library.tasks:
            one.add(task.name, task.descriptions[:1])
            many.add(task.name, task.descriptions)
            three.add(task.name, task.descriptions)
        made[f"nearest, {name}, one label"] = one
        made[f"nearest, {name}"] = many
        made[f"nearest {_FIRST} blended, {name}"] = three
        pairs = [(text, task.name) for task in library.tasks for text in task.descriptions]
        made[f"classifier, {name}"] = Classifier.fit(encoder, pairs)
    for name, folder in recipe.routers.items():
        router = load_router(folder, bank, host=host)
        if isinstance(router, AbstractWeigher):
            made[name] = router
        else:
            gates.append((name, router, float(len(bank))))
    return made, gates


def _merges(
    recipe: RoutingRecipe, host: Host, library: Specialists, progress: Callable[[str], None]
) -> list[tuple[str, Adapter, bool]]:
    found = []
    for name, method in recipe.merges.items():
        progress(f"merge: {name}")
        options = method.options | statistics(
            method.method, host, library.adapters, library.tasks, _STATISTICS_ROWS
        )
        weights = None if method.weight is None else [method.weight] * len(library)
        found.append((name, merge(method.method, library.adapters, weights=weights, **options), False))
    return found


def _trees(recipe: RoutingRecipe, host: Host, rank: int) -> list[Way]:
    ways = []
    for name, folder in recipe.trees.items():
        for descent in ("hard", "soft"):
            tree = load_tree(folder, host=host)
            tree.gate.descent = descent
            leaves, *shared = [
                len(term.bank) * next(iter(term.bank.a.values())).shape[1] / rank
                for term in tree.mixture.terms
            ]
            always = sum(shared)
            one = leaves / len(tree.leaves)
            ways.append(
                Way(
                    f"{name}, {descent}",
                    "prompt with description",
                    tree.mixture,
                    always + (leaves if descent == "soft" else one),
                    always + leaves,
                    described=True,
                )
            )
    return ways
