"""Back to low rank: the nearest factors of a given rank, and what that loses.

    delta = U S V^T,   B = U_r sqrt(S_r),   A = sqrt(S_r) V_r^T,   lost = |delta - B A| / |delta|

Optimal in the Frobenius norm (Eckart and Young, 1936). Both halves share the singular values.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weft.adapters import Spectrum
from weft.checks import MAX_RANK
from weft.errors import ConfigError
from weft.types import Factors

_ROUNDING = 1e-7
"""A loss below this is rounding: it is the root of a difference of squares in float64."""


def check_rank(rank: int | None) -> None:
    """Raise ConfigError unless a rank is one that a folder can hold; None leaves it to the method."""
    if rank is not None and not 1 <= rank <= MAX_RANK:
        raise ConfigError(f"rank is {rank}, it should be between 1 and {MAX_RANK}")


def cut(factors: Factors, rank: int | None, dtype: torch.dtype) -> tuple[Factors, float]:
    """Factors of at most this rank, from factors alone; they stay as they are where that is no less.

    The same as `weft.adapters.truncate`. The Q of both QRs stay reflectors, which are applied to the kept
    vectors alone: with many adapters and a low rank that is most of the work.
    """
    if rank is None or factors.a_RI.shape[0] <= rank:
        return factors, 0.0
    b, a = (torch.geqrf(half.double()) for half in (factors.b_OR, factors.a_RI.mT))
    u, s, vh = torch.linalg.svd(factors.scaling * (_upper(b) @ _upper(a).mT), full_matrices=False)
    kept = Spectrum(_apply(b, u[:, :rank]), s[:rank], _apply(a, vh[:rank].mT))
    return _halves(kept, dtype), _lost(float(s.square().sum()), kept.s_R)


def refactor(delta_OI: Float[Tensor, "O I"], rank: int, dtype: torch.dtype) -> tuple[Factors, float]:
    """Factors of a dense delta in float64.

    By the eigenvectors of the Gram matrix of its smaller side, several times faster than an SVD; singular
    values below 1e-8 of the largest drown in rounding, which float32 factors would not hold anyway.
    """
    if delta_OI.shape[0] > delta_OI.shape[1]:
        v_IR, s_R, u_OR = _spectrum(delta_OI.mT, rank)
    else:
        u_OR, s_R, v_IR = _spectrum(delta_OI, rank)
    return _halves(Spectrum(u_OR, s_R, v_IR), dtype), _lost(float(delta_OI.square().sum()), s_R)


def _spectrum(wide_OI: Tensor, rank: int) -> Spectrum:
    """The largest singular values of a matrix that is not taller than wide, and their vectors."""
    _, u_OO = torch.linalg.eigh(wide_OI @ wide_OI.mT)
    u_OR = u_OO.flip(1)[:, :rank]
    projected_RI = u_OR.mT @ wide_OI
    s_R = projected_RI.norm(dim=1)
    return Spectrum(u_OR, s_R, (projected_RI / s_R.clamp(min=torch.finfo(s_R.dtype).tiny)[:, None]).mT)


def _upper(qr: tuple[Tensor, Tensor]) -> Tensor:
    """The R of a QR."""
    return qr[0][: len(qr[1])].triu()


def _apply(qr: tuple[Tensor, Tensor], x_KR: Tensor) -> Tensor:
    """The Q of a QR times a matrix that has as many rows as there are reflectors."""
    reflectors, tau_K = qr
    padded = nn.functional.pad(x_KR, (0, 0, 0, len(reflectors) - len(x_KR)))
    return torch.ormqr(reflectors[:, : len(tau_K)], tau_K, padded)


def _halves(kept: Spectrum, dtype: torch.dtype) -> Factors:
    u_OR, root_R, v_IR = kept.u_OR, kept.s_R.sqrt(), kept.v_IR
    # An SVD leaves the signs open; equal deltas should give equal factors.
    largest = u_OR.gather(0, u_OR.abs().argmax(0, keepdim=True))
    root_b = torch.where(largest[0] < 0, -root_R, root_R)
    a_RI = (v_IR * root_b).mT.contiguous().to(dtype)
    return Factors(a_RI, (u_OR * root_b).contiguous().to(dtype), 1.0)


def _lost(total: float, kept_R: Tensor) -> float:
    lost = math.sqrt(max(0.0, 1.0 - float(kept_R.square().sum()) / total)) if total else 0.0
    return lost if lost > _ROUNDING else 0.0
