"""The shared trunk of Text-to-LoRA: a cue's vector and a site's identity in, a latent for the head out.

Text-to-LoRA (Charakorn et al. 2025, arXiv 2506.06105), section 3:

    x = mixer([task(e); layer(l); role(m)]);  x = x + mlp1(x);  x = x + mlp2(x);  z = mlp3(x)

Departs from the paper in: z is scaled to a fixed L2 norm (unless that is None), because with plain z either B
never leaves zero or one Adam step moves it too far; linear layers start at N(0, 1/fan_in); the input is
z-scored.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from weft.errors import ShapeError
from weft.hyper.groups import Group, role_of


class Trunk(nn.Module):
    """[B, D] cue vectors to one latent per (cue, site), sites in the order of the groups.

    `body` and `tail` are apart because some heads ask the tail several times per site. Rows stay in the first
    axis throughout, so the trunk's own linear layers can carry one adapter per cue.
    """

    def __init__(
        self,
        dim: int,
        groups: Sequence[Group],
        *,
        latent: int,
        head_in: int,
        dropout: float,
        norm: float | None,
    ) -> None:
        super().__init__()
        sites = [site for group in groups for site in group.sites]
        layers = sorted({site.layer for site in sites})
        roles = sorted({role_of(site) for site in sites})
        self.norm = norm
        self.mean: Tensor
        self.std: Tensor
        self.layer_S: Tensor
        self.role_S: Tensor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        layer_S = torch.tensor([layers.index(site.layer) for site in sites])
        role_S = torch.tensor([roles.index(role_of(site)) for site in sites])
        self.register_buffer("layer_S", layer_S, persistent=False)
        self.register_buffer("role_S", role_S, persistent=False)
        self.task = nn.Sequential(nn.Linear(dim, latent // 2), nn.LayerNorm(latent // 2))
        self.layer = nn.Sequential(nn.Embedding(len(layers), latent // 4), nn.LayerNorm(latent // 4))
        self.role = nn.Sequential(nn.Embedding(len(roles), latent // 4), nn.LayerNorm(latent // 4))
        wide, drop = 4 * latent, nn.Dropout(dropout)
        self.mixer = nn.Sequential(drop, *mlp(latent, wide, latent, drop))
        self.mlp1 = nn.Sequential(nn.LayerNorm(latent), *mlp(latent, wide, latent, drop))
        self.mlp2 = nn.Sequential(nn.LayerNorm(latent), *mlp(latent, wide, latent, drop))
        self.mlp3 = nn.Sequential(nn.LayerNorm(latent), *mlp(latent, wide, head_in, drop)[:-1])
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
                nn.init.zeros_(module.bias)

    @torch.no_grad()
    def fit_normaliser(self, e_ND: Float[Tensor, "N D"]) -> None:
        """Take mean and standard deviation of the input from the cue vectors of the training tasks.

        Raises ShapeError for fewer than two.
        """
        if e_ND.shape[0] < 2:
            raise ShapeError("the input normaliser needs at least two cue vectors")
        std = e_ND.std(0)
        self.mean.copy_(e_ND.mean(0))
        self.std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def body(self, e_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B S W"]:
        """Mix cue, layer and role. Raises ShapeError for vectors of another length."""
        if e_BD.shape[1] != self.mean.numel():
            raise ShapeError(
                f"the hypernetwork reads vectors of length {self.mean.numel()}, got {e_BD.shape[1]}; "
                "use the encoder that it was trained with"
            )
        task_B1W = self.task(((e_BD - self.mean) / self.std)[:, None])
        site_SW = torch.cat([self.layer(self.layer_S), self.role(self.role_S)], -1)
        shape = (e_BD.shape[0], site_SW.shape[0], -1)
        x_BSW = self.mixer(torch.cat([task_B1W.expand(shape), site_SW.expand(shape)], -1))
        return x_BSW + self.mlp1(x_BSW)

    def tail(self, x_BQW: Float[Tensor, "B Q W"]) -> Float[Tensor, "B Q F"]:
        """The latents that the heads read, each of L2 norm `norm` unless that is None."""
        z_BQF = self.mlp3(x_BQW + self.mlp2(x_BQW))
        return z_BQF if self.norm is None else self.norm * F.normalize(z_BQF, dim=-1)


def mlp(inside: int, wide: int, outside: int, drop: nn.Dropout) -> list[nn.Module]:
    """Two linear layers, each with SiLU and dropout behind it."""
    return [nn.Linear(inside, wide), nn.SiLU(), drop, nn.Linear(wide, outside), nn.SiLU(), drop]
