"""Cue -> vector: sentences, pictures, the base's states and Fisher, adapters, one-hot, learned; cached."""

from weft.embed.adapters import cosines, inner_products
from weft.embed.cache import Cached
from weft.embed.histograms import Histograms
from weft.embed.image_file import read_image
from weft.embed.inputs import InputEmbedding
from weft.embed.joined import Joined
from weft.embed.learned import Learned
from weft.embed.load import EncoderConfig, build_encoder
from weft.embed.onehot import OneHot
from weft.embed.parts import Parts
from weft.embed.plan import NEAREST, LibraryMap, lay_out, plan_to_dict
from weft.embed.sentence import SentenceEncoder
from weft.embed.states import HostStates
from weft.embed.task2vec import Task2Vec, distances, task2vec

__all__ = [
    "NEAREST",
    "Cached",
    "EncoderConfig",
    "Histograms",
    "HostStates",
    "InputEmbedding",
    "Joined",
    "Learned",
    "LibraryMap",
    "OneHot",
    "Parts",
    "SentenceEncoder",
    "Task2Vec",
    "build_encoder",
    "cosines",
    "distances",
    "inner_products",
    "lay_out",
    "plan_to_dict",
    "read_image",
    "task2vec",
]
