"""Ways that learn inside the experiment: gates on the library's rows, LoraHub and layer weights on a few."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from weft.engine.score import nll
from weft.errors import ConfigError
from weft.evaluate.specialists import Specialists
from weft.experiments.library.recipe import GateTraining, LayerTraining, LoraHub
from weft.host import Host
from weft.route import Phatgoose, PhatgooseTraining, Smear, Top1, XLora
from weft.route.layers import by_layer, layers_of
from weft.route.learn import learn
from weft.route.library import select
from weft.route.lorahub import search
from weft.rows import AbstractHost
from weft.tasks import IGNORE, Batch, Encoded, Row, collate, render
from weft.tasks.batch import pad_id
from weft.types import AbstractGate, Bank, Mixture, Term


def learn_gates(
    options: GateTraining,
    host: Host,
    library: Specialists,
    tasks: int,
    bank: Bank,
    tell: Callable[[str], None],
) -> list[tuple[str, Term, float]]:
    """(name, term, adapters per token) of every gate that is trained, library and base frozen.

    A step sees one train row of every asking task, the description in its prompt. PHATGOOSE trains the gate
    of each adapter by itself, so those of the distractors learn too, on rows of their own tasks: a gate that
    never learned is all zeros, and its score of 0 is never among the best.
    """
    layers = tuple(sorted({site.layer for site in bank.sites if site.layer > 0})) or (0,)
    count, dim = len(bank), _width(host)
    # The first layer sees single tokens and not what stands before them, so it decides nothing.
    xlora, top1 = XLora(count, dim, layers=layers), Top1(XLora(count, dim, layers=layers))
    smear = Smear(count, dim)
    phatgoose = PhatgooseTraining(bank.sites, len(bank))
    phatgoose.index_B = torch.arange(len(bank))
    terms = {
        "x-lora": Term(bank, xlora),
        "top 1, straight-through": Term(bank, top1),
        "smear": Term(bank, smear, "average"),
        "phatgoose": Term(bank, phatgoose),
    }
    for name, term in terms.items():
        tell(f"training {name}")
        assert isinstance(term.gate, AbstractGate)
        meets = len(bank) if name == "phatgoose" else tasks
        learn(
            term.gate,
            lambda step, term=term, meets=meets: _loss(
                host, Mixture((term,)), _step(host, library, meets, step)
            ).mean(),
            steps=options.steps,
            learning_rate=options.learning_rate,
        )
        term.gate.eval()
    gates = phatgoose.gates
    return [
        ("x-lora", terms["x-lora"], float(len(bank))),
        ("top 1, straight-through", terms["top 1, straight-through"], 1.0),
        ("smear", terms["smear"], 1.0),
        ("phatgoose", Term(bank, Phatgoose(bank, gates)), 2.0),
    ]


def lorahub_weights(
    options: LoraHub,
    host: AbstractHost,
    library: Specialists,
    tasks: int,
    bank: Bank,
    examples: int,
    seed: int,
) -> Float[Tensor, "T K"]:
    """The weights that LoraHub finds for every asking task on a few of its train rows."""
    weight_TK = torch.zeros(tasks, len(bank))
    for t in range(tasks):
        chosen, rows = _draw(library, t, options.candidates, examples, seed)
        part = select(bank, [bank.names[k] for k in chosen])
        batch = _collate(host, [render(host.tokenizer, row) for row in rows] * options.at_once)

        def loss(weight_NK: Tensor, part: Bank = part, batch: Batch = batch) -> Tensor:
            count = len(weight_NK)
            here = Batch(*(tensor[: count * examples] for tensor in batch))
            mixture = Mixture.dense(part, weight_NK.to(host.device).repeat_interleave(examples, 0))
            with torch.no_grad():
                return _loss(host, mixture, here).view(count, examples).mean(1)

        found = search(loss, len(chosen), budget=options.budget, at_once=options.at_once, seed=seed)
        weight_TK[t, chosen] = found.weight_K
    return weight_TK


def layer_weights(
    options: LayerTraining,
    host: AbstractHost,
    library: Specialists,
    tasks: int,
    bank: Bank,
    examples: int,
    seed: int,
) -> Float[Tensor, "T L K"]:
    """Free weights per layer, learned for every asking task on a few of its train rows, all in one forward.

    A task's loss depends on its own weights alone and Adam works number by number, so each learns as it would
    alone. All start at 1 / candidates.
    """
    chosen_TK = torch.zeros(tasks, len(bank))
    encoded: list[Encoded] = []
    for t in range(tasks):
        chosen, rows = _draw(library, t, options.candidates, examples, seed)
        chosen_TK[t, chosen] = 1
        encoded += [render(host.tokenizer, row) for row in rows]
    batch = _collate(host, encoded)
    chosen_T1K = chosen_TK[:, None].to(host.device)
    count = chosen_T1K.sum(-1, keepdim=True)
    value_TLK = (chosen_T1K / count).repeat(1, len(layers_of(bank)), 1).requires_grad_()
    optimizer = torch.optim.Adam([value_TLK], lr=options.learning_rate)
    for _ in range(options.steps):
        mixture = by_layer(bank, (value_TLK * chosen_T1K).repeat_interleave(examples, 0))
        loss = _loss(host, mixture, batch).sum() / examples
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return value_TLK.detach().cpu()


def _draw(
    library: Specialists, t: int, candidates: int, examples: int, seed: int
) -> tuple[list[int], list[Row]]:
    """The adapters that a task may weigh, its own first, and the train rows that it shows."""
    chance = random.Random(f"{seed}/lorahub/{t}")
    others = sorted((k for k in range(len(library)) if k != t), key=lambda _: chance.random())
    rows = library.tasks[t].train
    if not rows:
        raise ConfigError(f"task {library.tasks[t].name} has no train rows to show")
    return [t, *others[: candidates - 1]], [rows[int(chance.random() * len(rows))] for _ in range(examples)]


def _step(host: AbstractHost, library: Specialists, tasks: int, step: int) -> Batch:
    encoded: list[Encoded] = []
    for t, task in enumerate(library.tasks[:tasks]):
        if not task.train:
            raise ConfigError(f"task {task.name} has no train rows to learn from")
        chance = random.Random(f"gates/{step}/{t}")
        text = task.descriptions[int(chance.random() * len(task.descriptions))]
        row = task.train[int(chance.random() * len(task.train))]
        encoded.append(render(host.tokenizer, row, description=text))
    return _collate(host, encoded)


def _collate(host: AbstractHost, encoded: Sequence[Encoded]) -> Batch:
    return collate(encoded, pad_id=pad_id(host), side="left")


def _loss(host: AbstractHost, mixture: Mixture, batch: Batch) -> Float[Tensor, " B"]:
    """Nats per answer token of every row, with gradient."""
    ids_BT, mask_BT, labels_BT = (tensor.to(host.device) for tensor in batch)
    nll_B = nll(host, ids_BT, labels_BT, mixture, mask_BT=mask_BT)
    return nll_B / (labels_BT != IGNORE).sum(1)


def _width(host: Host) -> int:
    """H, the length of an input embedding."""
    return host.module.get_input_embeddings().embedding_dim  # pyright: ignore
