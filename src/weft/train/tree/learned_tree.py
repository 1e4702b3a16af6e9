"""What tree training learns: a gate, the adapters under it, and perhaps one that is always on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import nn

from weft.errors import ConfigError
from weft.host import Host
from weft.route import Tree, TreeGate, full
from weft.route.tree import leaf_name
from weft.train.answer_logits import language_model
from weft.train.learned_bank import LearnedBank
from weft.train.tree.recipe import TreeRecipe
from weft.types import AbstractGate, Mixture, Rows, Site, Term


class LearnedTree(nn.Module):
    """A gate over adapters of rank `recipe.r` at some sites, and a shared one where the recipe has it."""

    def __init__(
        self,
        recipe: TreeRecipe,
        sites: Sequence[Site],
        gate: AbstractGate,
        names: Sequence[str],
        *,
        combine: Literal["sum", "average"] = "sum",
    ) -> None:
        super().__init__()
        self.gate = gate
        self.combine: Literal["sum", "average"] = combine
        seed = recipe.run.seed
        scaling = recipe.lora_alpha / recipe.r
        self.leaves = LearnedBank(sites, names, r=recipe.r, scaling=scaling, seed=seed)
        self.shared: LearnedBank | None = None
        if recipe.shared_r:
            scaling = recipe.lora_alpha / recipe.shared_r
            self.shared = LearnedBank(sites, ["shared"], r=recipe.shared_r, scaling=scaling, seed=seed)

    def mixture(self) -> Mixture:
        """What a host runs; what its gradients reach are the parameters."""
        terms = (Term(self.leaves.part(0, len(self.leaves.names)), self.gate, self.combine),)
        if self.shared is None:
            return Mixture(terms)
        shared = self.shared.part(0, 1)
        always = Rows(torch.zeros(1, dtype=torch.long, device=next(iter(shared.a.values())).device))
        return Mixture((*terms, Term(shared, always)))

    @torch.no_grad()
    def tree(self) -> Tree:
        """The tree as it is now. Its gate has to be that of a tree."""
        shared = None if self.shared is None else self.shared.part(0, 1)
        return Tree(self.leaves.part(0, len(self.leaves.names)), cast(TreeGate, self.gate), shared)


def learned_tree(recipe: TreeRecipe, host: Host) -> LearnedTree:
    """A tree at its start. Raises ConfigError for a layer that cannot decide."""
    layers, sites = deciding(recipe, host)
    paths = full(recipe.depth)
    gate = TreeGate(
        paths,
        width(recipe, host),
        scope=recipe.scope,
        layers=layers,
        descent="soft",
        temperature=recipe.temperature,
        seed=recipe.run.seed,
    )
    return LearnedTree(recipe, sites, gate, list(map(leaf_name, paths)))


def deciding(recipe: TreeRecipe, host: Host) -> tuple[tuple[int, ...], list[Site]]:
    """The layers that decide, and the sites that follow. Raises ConfigError where the first has none."""
    layers = recipe.layers
    if layers == "all":
        layers = tuple(range(language_model(host).config.get_text_config().num_hidden_layers))
    first = min(layers, default=-1) if recipe.scope == "token" else -1
    sites = [site for site in host.sites if site.layer >= first]
    if first not in {-1, *(site.layer for site in sites)}:
        raise ConfigError(f"layer {first} decides first, and this base has no site in it")
    return layers, sites


def width(recipe: TreeRecipe, host: Host) -> int:
    """The length of what a gate reads."""
    model = language_model(host)
    if recipe.scope == "sequence":
        return cast(nn.Embedding, model.get_input_embeddings()).embedding_dim
    return model.config.get_text_config().hidden_size
