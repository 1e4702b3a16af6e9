"""A host spread over workers that may die: stages of layers, calls that are done once, journals."""

from weft.swarm.cache import SwarmCache
from weft.swarm.host import SwarmHost
from weft.swarm.link import AbstractLink, LocalLink, TcpLink
from weft.swarm.load import load_part
from weft.swarm.open import open_swarm
from weft.swarm.part import Part
from weft.swarm.stage import Stage
from weft.swarm.worker import Worker, listen, load_stage, serve

__all__ = [
    "AbstractLink",
    "LocalLink",
    "Part",
    "Stage",
    "SwarmCache",
    "SwarmHost",
    "TcpLink",
    "Worker",
    "listen",
    "load_part",
    "load_stage",
    "open_swarm",
    "serve",
]
