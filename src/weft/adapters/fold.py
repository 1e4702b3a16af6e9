"""An adapter added into the base's own weights, and taken out again bit for bit.

    W' = W + s B A

Subtracting would leave rounding behind, so the old weights are kept and copied back.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from weft.errors import ShapeError, UnknownNameError, UnsupportedAdapterError
from weft.files import nearest
from weft.types import Adapter, Factors, Site


def delta(factors: Factors) -> Float[Tensor, "O I"]:
    """The dense change of one site, s B A, in float32 at least."""
    wide = torch.promote_types(torch.promote_types(factors.a_RI.dtype, factors.b_OR.dtype), torch.float32)
    return factors.scaling * (factors.b_OR.to(wide) @ factors.a_RI.to(wide))


class Folded:
    """An adapter that is inside the base's weights until `unfold`, or until the `with` block ends."""

    def __init__(self, kept: list[tuple[Tensor, Tensor]]) -> None:
        self._kept = kept

    @torch.no_grad()
    def unfold(self) -> None:
        """Put the old weights back, bit for bit; a second call does nothing."""
        for weight, old in self._kept:
            weight.copy_(old)
        self._kept = []

    def __enter__(self) -> "Folded":
        return self

    def __exit__(self, *error: object) -> None:
        self.unfold()


@torch.no_grad()
def fold(module: nn.Module, adapter: Adapter) -> Folded:
    """Add an adapter's delta to the weights of `module`, in place, and keep a copy of what was there.

    Works on `nn.Linear` and on Hugging Face's `Conv1D`. Nothing is changed unless every site fits. Fold
    out in the reverse order of folding in.

    Raises UnknownNameError for a module that is not there, ShapeError for another size, and
    UnsupportedAdapterError for quantised weights and for a weight that another module shares.

    Args:
        module: The network whose weights change.
        adapter: Whose delta is added; the base that it names is not compared.

    Example:
        >>> from weft.adapters import fold
        >>> module = weft.Host.from_pretrained("weft/letters").module
        >>> with fold(module, weft.load("weft/letters-adapters/reverse")):
        ...     module.save_pretrained("folded")
    """
    modules = dict(module.named_modules())
    weights = {site: _weight(modules, site) for site in adapter.sites}
    _refuse_tied(module, weights)
    kept = []
    for site, (weight, transposed) in weights.items():
        kept.append((weight, weight.clone()))
        change = delta(adapter.factors[site]).to(weight.device)
        weight.copy_(weight.to(change.dtype) + (change.mT if transposed else change))
    return Folded(kept)


def _weight(modules: dict[str, nn.Module], site: Site) -> tuple[Tensor, bool]:
    """The weight at a site, and whether it is stored as [in, out]."""
    if site.path not in modules:
        raise UnknownNameError(f"the base has no module {site.path}{nearest(site.path, modules)}")
    layer = modules[site.path]
    kind = type(layer).__name__
    if not isinstance(layer, nn.Linear | Conv1D):
        raise UnsupportedAdapterError(f"{site.path} is a {kind}; weights fold into Linear and Conv1D only")
    weight = layer.weight
    # Quantised layers are Linear by name: their numbers are packed, or a tensor type of their own.
    if type(weight) is not nn.Parameter or not weight.is_floating_point() or weight.element_size() < 2:
        raise UnsupportedAdapterError(
            f"{site.path} is a quantised {kind} ({type(weight).__name__}, {weight.dtype}); "
            "fold into the full-precision base, or run the adapter unfolded"
        )
    transposed = isinstance(layer, Conv1D)
    want = (site.out_features, site.in_features)
    have = tuple(weight.shape[::-1] if transposed else weight.shape)
    if have != want:
        raise ShapeError(f"{site.path} has weights of {have}, the adapter expects {want}")
    return weight, transposed


def _refuse_tied(module: nn.Module, weights: dict[Site, tuple[Tensor, bool]]) -> None:
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for weight, _ in weights.values():
        if len(names[id(weight)]) > 1:
            raise UnsupportedAdapterError(
                f"{' and '.join(names[id(weight)])} are one tied weight; folding would change both"
            )
