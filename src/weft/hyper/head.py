"""What a head is: the part of a hypernetwork that turns latents into A and B."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weft.hyper.groups import Group


class AbstractHead(nn.Module, ABC):
    """Asks the trunk's tail Q times per site, then emits all sites of a group at once.

    Every head starts with B exactly 0: at step 0 each generated adapter leaves the base as it is.
    """

    @abstractmethod
    def queries(self, x_BSW: Float[Tensor, "B S W"]) -> Float[Tensor, "B S Q W"]:
        """What the trunk's tail is to read for each site."""

    @abstractmethod
    def emit(
        self, group: Group, z_BLQF: Float[Tensor, "B L Q F"]
    ) -> tuple[Float[Tensor, "B L R I"], Float[Tensor, "B L R O"]]:
        """A and transposed B of the L sites of one group, before scaling."""


def kaiming(*shape: int) -> nn.Parameter:
    """A learned tensor that starts uniform in +-1/sqrt(last axis), as PEFT starts A."""
    bound = 1 / math.sqrt(shape[-1])
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


def zero_linear(head_in: int, out: int, *, bias: bool) -> nn.Linear:
    """A linear layer whose output starts at 0."""
    linear = nn.Linear(head_in, out, bias=bias)
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
    return linear
