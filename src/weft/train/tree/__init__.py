"""Training of a tree: leaves and routers together."""

from weft.train.tree.loop import train_tree
from weft.train.tree.recipe import TreeRecipe

__all__ = ["TreeRecipe", "train_tree"]
