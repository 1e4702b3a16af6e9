"""Train a stack of hypernetworks: each level in its turn, then all of them, then the unit that stops.

    1  for k = 1, 2, ...   level k alone learns, always called: an initialising phase per level
    2  all levels learn, each cue at a depth drawn anew; with keep_first all but the first do, above it
    3  the halting unit alone learns: least expected cost sum_d P(stop at d) (loss_d + price * d)

UHN (arXiv 2604.02215) found that stacked hypernetworks need phase 1. The first level starts from a trained
hypernetwork. The cost of 3 is that of PonderNet (Banino et al. 2021, arXiv 2107.05407), with a price per
level in place of a prior.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from weft.config import Size
from weft.embed import Cached
from weft.errors import ConfigError
from weft.host import Host
from weft.hyper import HyperNetwork, Stack, StackConfig, T2LConfig
from weft.hyper.made import bank_of
from weft.hyper.stack import build_network
from weft.tasks import hash_tasks, samplers_by_category
from weft.tasks.source import Source, load_splits
from weft.train.answer_logits import answer_logits
from weft.train.learner import Learner
from weft.train.optimizer import OptimizerConfig
from weft.train.packing import Packed
from weft.train.reach import keep_reach
from weft.train.recipe import AbstractRecipe, load_base, provenance
from weft.train.run import Run
from weft.train.steering import mean_by_line, pack_draws
from weft.types import Description, Mixture


class StackRecipe(AbstractRecipe):
    """`weft train stack RECIPE`."""

    data: Source = Field(discriminator="kind")
    init: str
    """Folder of the trained hypernetwork that becomes the first level; its encoder reads the cues."""
    encoder_cache: str = "runs/encoder-cache"
    """Folder that remembers the vectors of texts."""
    higher: tuple[T2LConfig, ...] = Field(default=StackConfig(kind="stack").higher, min_length=1)
    """The levels above the first."""
    init_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the steps of the initialising phase of each level."""
    keep_first: bool = False
    """The first level stays as it was trained, so depth 0 answers as it did and others are added to it."""
    halting_share: float = Field(default=0.15, gt=0, lt=1)
    """Share of the steps, at the end, in which the halting unit learns."""
    price: float = Field(default=0.01, ge=0)
    """Of a level, in nats per answer token."""
    halting_learning_rate: float = Field(default=0.02, gt=0)
    """In the last phase, from where it falls to 0 in a line, in place of the schedule's."""
    optimizer: OptimizerConfig = OptimizerConfig()
    tasks_per_batch: Size = 32
    """How many tasks a step meets."""
    rows_per_task: Size = 4
    """Rows of a task in one step."""
    category_shares: dict[str, int] = {}
    """Tasks per step of each category, in place of `tasks_per_batch` drawn from all alike."""
    name: str = "stack"
    """What the stack is called in its folder's config."""


def train_stack(recipe: StackRecipe, *, host: Host | None = None, resume: bool = True) -> Path:
    """Run a recipe to its end; returns `output_dir/stack`, a hypernetwork that is a stack.

    A `host` that is given takes the place of loading `base`.
    Raises ConfigError for shares that leave no steps, or a first level that is a stack itself.
    """
    torch.manual_seed(recipe.run.seed)
    phases = _phases(recipe)
    train = load_splits(recipe.data)["train"]
    with Run(recipe.run, recipe, resume=resume, data_hash=hash_tasks(train)) as run:
        host = host or load_base(recipe, run.accelerator.device, target_modules="all-linear")
        first = HyperNetwork.from_pretrained(recipe.init, host=host)
        hyper = build_stack_on(first, recipe, data_hash=hash_tasks(train), encoder_cache=recipe.encoder_cache)
        keep_reach(hyper, train)
        stack = hyper.network.to(host.device)
        assert isinstance(stack, Stack)
        samplers = samplers_by_category(
            train,
            recipe.category_shares,
            tasks_per_batch=recipe.tasks_per_batch,
            rows_per_task=recipe.rows_per_task,
            seed=recipe.run.seed,
        )
        learner = Learner(run, host, recipe.optimizer, stack, steps=phases[-2][0])
        for done in learner.left():
            phase = next(p for until, p in phases if done <= until)
            draws = [draw for sampler in samplers for draw in sampler.draw(done - 1)]
            packed = pack_draws(host, draws, described=False)
            e_BD = hyper.encode([Description(draw.description) for draw in draws])
            learns = _learns(recipe, phase)
            for name, parameter in stack.named_parameters():
                parameter.requires_grad_(name.startswith(learns))
            if phase == "halting":
                loss, told = _halting_loss(recipe, stack, e_BD, packed, host)
            else:
                depth_B = _depths(recipe, phase, len(draws)).to(e_BD.device)
                loss = _losses(stack, stack.climb(e_BD, depth_B)[0], packed, host).mean()
                told = {"depth": float(depth_B.float().mean())}
            run.accelerator.backward(loss)
            stack.requires_grad_(True)  # a checkpoint keeps all that learns at any time
            if phase == "halting":
                left = (recipe.run.max_steps + 1 - done) / (recipe.run.max_steps - phases[-2][0])
                told["learning_rate"] = recipe.halting_learning_rate * left
                for group in (group for optimizer in learner.optimizers for group in optimizer.param_groups):
                    group["lr"] = told["learning_rate"]
            learner.step(done, {"loss": loss.item(), **told})
            learner.save(done)
        folder = run.folder / "stack"
        hyper.save_pretrained(folder)
    return folder


def build_stack_on(
    first: HyperNetwork, recipe: StackRecipe, *, data_hash: str, encoder_cache: str
) -> HyperNetwork:
    """A stack whose first level is a trained network; as long as no higher level has learned, it acts alike.

    Raises ConfigError where that is a stack itself.
    """
    if not isinstance(first.network.config, T2LConfig):
        raise ConfigError(f"{recipe.init} is a stack; the first level is a single network")
    config = StackConfig(kind="stack", first=first.network.config, higher=recipe.higher)
    encoder = Cached(first.encoder, encoder_cache)
    stack = build_network(config, first.sites, dim=encoder.dim)
    assert isinstance(stack, Stack)
    stack.levels[0].load_state_dict(first.network.state_dict())
    stack.copy_normaliser()
    facts = provenance(recipe, placed=True, data_hash=data_hash)
    return HyperNetwork(encoder, stack, base=first.base, name=recipe.name, provenance=facts)


def _phases(recipe: StackRecipe) -> list[tuple[int, int | str]]:
    """Last step of every phase, and what learns in it: a level, all, or halting."""
    steps, levels = recipe.run.max_steps, len(recipe.higher)
    left = 1 - levels * recipe.init_share - recipe.halting_share
    if left < -1e-9:
        raise ConfigError(
            f"{levels} levels at init_share {recipe.init_share} and halting_share {recipe.halting_share} "
            "are more than all steps; lower one"
        )
    phases: list[tuple[int, int | str]] = [
        (round(steps * recipe.init_share * k), k) for k in range(1, levels + 1)
    ]
    return [*phases, (steps - round(steps * recipe.halting_share), "all"), (steps, "halting")]


def _learns(recipe: StackRecipe, phase: int | str) -> tuple[str, ...]:
    """How the names of the parameters begin that learn in a phase."""
    if phase == "halting":
        return ("halts.",)
    levels = range(int(recipe.keep_first), len(recipe.higher) + 1) if phase == "all" else [phase]
    return tuple(f"levels.{level}." for level in levels)


def _depths(recipe: StackRecipe, phase: int | str, count: int) -> Tensor:
    """How many levels each cue is given: those of the phase, or some drawn anew, never none that learns."""
    if isinstance(phase, int):
        return torch.full((count,), phase)
    return torch.randint(int(recipe.keep_first), len(recipe.higher) + 1, (count,))


def _losses(stack: Stack, z_BSQF: Tensor, packed: Packed, host: Host) -> Tensor:
    """Mean loss of each cue's answer tokens under what the first level has said, in nats: [B]."""
    bank = bank_of(stack.emit(z_BSQF), [str(row) for row in range(len(z_BSQF))], stack.config.scaling)
    said = answer_logits(host, Mixture.rows(bank, range(len(bank))), packed)
    loss_N = F.cross_entropy(said.logits_NV.float(), said.targets_N, reduction="none")
    return mean_by_line(loss_N, said.line_N, len(bank))


def _halting_loss(
    recipe: StackRecipe, stack: Stack, e_BD: Tensor, packed: Packed, host: Host
) -> tuple[Tensor, dict[str, float]]:
    """Expected loss and price, over where each cue may stop."""
    going_B = torch.ones(len(e_BD), device=e_BD.device)
    cost_B, depth_B = torch.zeros_like(going_B), torch.zeros_like(going_B)
    for depth in range(stack.most + 1):
        with torch.no_grad():
            z_BSQF, _ = stack.climb(e_BD, depth)
            loss_B = _losses(stack, z_BSQF, packed, host)
        last = depth == stack.most
        stop_B = torch.ones_like(going_B) if last else stack.stops(depth, e_BD, z_BSQF)
        cost_B = cost_B + going_B * stop_B * (loss_B + recipe.price * depth)
        depth_B = depth_B + going_B * stop_B * depth
        going_B = going_B * (1 - stop_B)
    return cost_B.mean(), {"depth": float(depth_B.detach().mean())}
