"""Cue -> vector: sentence encoders, the base's own states, one-hot, learned; joined, and cached on disk."""

from weft.embed.cache import Cached
from weft.embed.joined import Joined
from weft.embed.learned import Learned
from weft.embed.load import EncoderConfig, build_encoder
from weft.embed.onehot import OneHot
from weft.embed.sentence import SentenceEncoder
from weft.embed.states import HostStates

__all__ = [
    "Cached",
    "EncoderConfig",
    "HostStates",
    "Joined",
    "Learned",
    "OneHot",
    "SentenceEncoder",
    "build_encoder",
]
