"""Request or hidden state -> weights: routers before the forward, gates inside it, the tree of adapters."""

from weft.route.arrow import Arrow
from weft.route.blend import Blend
from weft.route.nearest import Nearest
from weft.route.paths import full
from weft.route.phatgoose import Phatgoose, PhatgooseTraining
from weft.route.smear import Smear
from weft.route.spectr import Spectr
from weft.route.tree import Tree, TreeGate
from weft.route.tree_change import export_leaves, grow, prune
from weft.route.tree_folder import load_tree, save_tree
from weft.route.xlora import XLora

__all__ = [
    "Arrow",
    "Blend",
    "Nearest",
    "Phatgoose",
    "PhatgooseTraining",
    "Smear",
    "Spectr",
    "Tree",
    "TreeGate",
    "XLora",
    "export_leaves",
    "full",
    "grow",
    "load_tree",
    "prune",
    "save_tree",
]
