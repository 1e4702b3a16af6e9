"""Request or hidden state -> weights: routers before the forward, gates inside it, the tree of adapters."""

from weft.route.arrow import Arrow
from weft.route.blend import Blend
from weft.route.classifier import Classifier
from weft.route.everyday import calibrate
from weft.route.layers import LayerWeights, layers_of
from weft.route.learn import learn
from weft.route.library import Library, load_library
from weft.route.live import LiveLibrary
from weft.route.load import load_router, routed
from weft.route.nearest import Nearest
from weft.route.paths import full
from weft.route.phatgoose import Phatgoose, PhatgooseTraining
from weft.route.smear import Smear
from weft.route.spectr import Spectr
from weft.route.top1 import Top1
from weft.route.tree import Tree, TreeGate
from weft.route.tree_change import export_leaves, grow, prune
from weft.route.tree_devices import place_leaves
from weft.route.tree_folder import load_tree, save_tree
from weft.route.xlora import XLora

__all__ = [
    "Arrow",
    "Blend",
    "Classifier",
    "LayerWeights",
    "Library",
    "LiveLibrary",
    "Nearest",
    "Phatgoose",
    "PhatgooseTraining",
    "Smear",
    "Spectr",
    "Top1",
    "Tree",
    "TreeGate",
    "XLora",
    "calibrate",
    "export_leaves",
    "full",
    "grow",
    "layers_of",
    "learn",
    "load_library",
    "load_router",
    "load_tree",
    "place_leaves",
    "prune",
    "routed",
    "save_tree",
]
