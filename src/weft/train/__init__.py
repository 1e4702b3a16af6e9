"""Training: one flat loop per thing that is trained, and the run folder that they share."""

from weft.train.base import BaseRecipe, train_base
from weft.train.blend import BlendRecipe, train_blend
from weft.train.hyper import HyperRecipe, train_hyper
from weft.train.lora import LoraRecipe, train_lora
from weft.train.reconstruct import ReconstructRecipe, train_reconstruct
from weft.train.run import Run, RunConfig
from weft.train.shift import ShiftRecipe, train_shift
from weft.train.tree import TreeRecipe, train_tree

__all__ = [
    "BaseRecipe",
    "BlendRecipe",
    "HyperRecipe",
    "LoraRecipe",
    "ReconstructRecipe",
    "Run",
    "RunConfig",
    "ShiftRecipe",
    "TreeRecipe",
    "train_base",
    "train_blend",
    "train_hyper",
    "train_lora",
    "train_reconstruct",
    "train_shift",
    "train_tree",
]
