"""Train a hypernetwork to write down adapters that were trained one by one.

Text-to-LoRA (Charakorn et al. 2025, arXiv 2506.06105), section 3.1, reconstruction:

    min_theta  E_task  | A - A*_task | / s_A + | B - B*_task | / s_B        (objective: factors)
    min_theta  E_task  || BA - B*A* ||_F^2 / || B*A* ||_F^2                 (objective: delta)

Factors that make the same delta differ by any R x R matrix, so those of a target are taken from its SVD,
balanced, with fixed signs; s is the spread of a site's A or B over all targets. The delta's norm is formed
from the factors, never the delta itself.

The network has the sites that some adapter changes, and no other. What is made goes on under
`weft train hyper` with `init`, given the `target_modules` that its provenance tells.

Departs from the paper in: that gauge, and one scale per site and factor in place of one per number.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from weft.adapters import load, norm, spectrum, squared_norms
from weft.config import Size
from weft.embed import Cached, build_encoder
from weft.errors import ConfigError, MissingFileError
from weft.files import resolve
from weft.host import Host, fitted, short_names
from weft.hyper import HyperNetwork, build_t2l
from weft.tasks import Task, TaskSampler, hash_tasks
from weft.tasks.source import Data, load_splits
from weft.train.learner import Learner
from weft.train.reach import keep_reach
from weft.train.recipe import AbstractNetworkRecipe, load_base, provenance
from weft.train.run import Run
from weft.types import Adapter, Bank, Description, Site


class ReconstructRecipe(AbstractNetworkRecipe):
    """`weft train reconstruct RECIPE`; the base is what the adapters are for, and an encoder may read it.

    An encoder of kind `onehot` or `learned` is given the tasks' names, any other their descriptions.
    """

    data: Data
    """Where the tasks' descriptions come from."""
    library: str
    """Folder of adapter folders, each named as its task, or one that ships with Weft."""
    tasks: Size | None = None
    """The first so many of the tasks that have an adapter, or all."""
    objective: Literal["factors", "delta"] = "factors"
    """L1 between factors in a fixed gauge, or the distance of what they multiply to."""
    tasks_per_batch: int = Field(default=32, gt=0)
    """How many adapters a step is about."""


def train_reconstruct(recipe: ReconstructRecipe, *, host: Host | None = None, resume: bool = True) -> Path:
    """Run a recipe to its end; returns `output_dir/hypernetwork`.

    Raises MissingFileError for a library that is not there or holds no adapter of these tasks, ConfigError
    for adapters of a higher rank than the network's or that change nothing, and what loading raises.
    """
    torch.manual_seed(recipe.run.seed)
    host = host or load_base(recipe, "cpu", target_modules=recipe.target_modules)
    tasks, targets = _read(recipe, host)
    with Run(recipe.run, recipe, resume=resume, data_hash=hash_tasks(tasks)) as run:
        sites = [site for site in host.sites if any(site in one.factors for one in targets.values())]
        hyper = _build(recipe, host, tasks, sites)
        wanted = _canonical(targets, sites, recipe.network.rank).to(run.accelerator.device)
        network = hyper.to(run.accelerator.device)
        sampler = TaskSampler(
            tasks,
            tasks_per_batch=min(recipe.tasks_per_batch, len(tasks)),
            rows_per_task=1,
            seed=recipe.run.seed,
        )
        learner = Learner(run, host, recipe.optimizer, network)
        by_name = _takes_names(recipe)
        for done in learner.left():
            draws = sampler.draw(done - 1)
            bank = hyper.generate([Description(d.task.name if by_name else d.description) for d in draws])
            target = wanted.select(torch.tensor([d.task_index for d in draws], device=run.accelerator.device))
            error = relative_error(bank, target)
            loss = error if recipe.objective == "delta" else _factor_error(bank, target, wanted)
            run.accelerator.backward(loss)
            learner.step(done, {"loss": loss.item(), "error": error.item()})
            learner.save(done)
        hyper.provenance |= {"step": recipe.run.max_steps}
        folder = run.folder / "hypernetwork"
        hyper.save_pretrained(folder, dtype=getattr(torch, recipe.save_dtype))
    return folder


def relative_error(made: Bank, wanted: Bank) -> Float[Tensor, ""]:
    """Mean over adapters of || made - wanted ||_F^2 / || wanted ||_F^2, over all sites together.

    With B = [b, -b*] and A = [a; a*], the squared norm of BA is the sum of (B^T B) * (A A^T)^T.
    """
    lost, total = [], []
    for site in wanted.a:
        a_KRI = torch.cat([made.a[site], wanted.a[site]], 1)
        b_KOR = torch.cat([made.b[site], -wanted.b[site]], 2)
        lost.append(squared_norms(a_KRI, b_KOR))
        total.append(squared_norms(wanted.a[site], wanted.b[site]))
    return (torch.stack(lost).sum(0) / torch.stack(total).sum(0).clamp_min(1e-12)).mean()


def _factor_error(made: Bank, wanted: Bank, everything: Bank) -> Float[Tensor, ""]:
    parts = []
    for site in wanted.a:
        for ours, theirs, spread in (
            (made.a[site], wanted.a[site], everything.a[site].std()),
            (made.b[site], wanted.b[site], everything.b[site].std()),
        ):
            parts.append((ours - theirs).abs().mean() / spread.clamp_min(1e-8))
    return torch.stack(parts).mean()


def _canonical(adapters: Mapping[str, Adapter], sites: Sequence[Site], rank: int) -> Bank:
    """Balanced factors of each adapter's SVD, scaling in B, zeros where an adapter lacks a site or a rank."""
    a = {site: torch.zeros(len(adapters), rank, site.in_features) for site in sites}
    b = {site: torch.zeros(len(adapters), site.out_features, rank) for site in sites}
    for k, adapter in enumerate(adapters.values()):
        for site, factors in adapter.factors.items():
            if factors.a_RI.shape[0] > rank:
                raise ConfigError(
                    f"{adapter.name} has rank {factors.a_RI.shape[0]}, the network's is {rank}; raise it"
                )
            u_OR, s_R, v_IR = spectrum(factors)
            root = s_R.sqrt()
            a[site][k, : len(s_R)] = (v_IR * root).mT
            b[site][k, :, : len(s_R)] = u_OR * root
    return Bank(tuple(adapters), a, b)


def _read(recipe: ReconstructRecipe, host: Host) -> tuple[list[Task], dict[str, Adapter]]:
    """The tasks that have an adapter, and those adapters."""
    folder = resolve(recipe.library)
    if folder is None:
        raise MissingFileError(f"no folder of adapters at {recipe.library}")
    tasks = [
        task
        for task in load_splits(recipe.data)["train"]
        if (folder / task.name / "adapter_config.json").is_file()
    ][: recipe.tasks]
    if not tasks:
        raise MissingFileError(f"{recipe.library} holds no adapter named as one of these tasks")
    adapters = {t.name: fitted(load(folder / t.name, base=host.fingerprint), host) for t in tasks}
    for name, adapter in adapters.items():
        if not norm(adapter):
            raise ConfigError(f"{recipe.library}/{name} changes nothing; train it, or take it out")
    return tasks, adapters


def _takes_names(recipe: ReconstructRecipe) -> bool:
    return recipe.encoder.kind in ("onehot", "learned")


def _build(
    recipe: ReconstructRecipe, host: Host, tasks: Sequence[Task], sites: Sequence[Site]
) -> HyperNetwork:
    encoder = build_encoder(recipe.encoder, host=host)
    if not _takes_names(recipe):
        encoder = Cached(encoder, recipe.encoder_cache)
    network = build_t2l(recipe.network, sites, dim=encoder.dim)
    names = short_names(sites, host.module)
    facts = provenance(recipe, placed=True, target_modules=names, data_hash=hash_tasks(tasks))
    hyper = HyperNetwork(encoder, network, base=host.fingerprint, name=recipe.name, provenance=facts)
    if not _takes_names(recipe):
        hyper.fit_normaliser(
            hyper.encode([Description(text) for task in tasks for text in task.descriptions])
        )
        keep_reach(hyper, tasks)
    return hyper
