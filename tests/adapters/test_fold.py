import pytest
import torch
from torch import nn

from weft.adapters import delta, fold, site_at
from weft.errors import ShapeError, UnknownNameError, UnsupportedAdapterError
from weft.types import Adapter, Factors


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.inner = nn.Linear(4, 4)
        self.head = nn.Linear(4, 5, bias=False)


def adapter_of(*sites: tuple[str, int, int]) -> Adapter:
    return Adapter({site_at(p, i, o): Factors(torch.ones(2, i), torch.ones(o, 2), 0.5) for p, i, o in sites})


def test_delta_is_in_float32_at_least() -> None:
    a_RI, b_OR = torch.randn(2, 3), torch.randn(4, 2)
    assert torch.equal(delta(Factors(a_RI, b_OR, 2.0)), 2.0 * (b_OR @ a_RI))
    assert delta(Factors(a_RI.bfloat16(), b_OR.bfloat16(), 1.0)).dtype == torch.float32
    assert delta(Factors(a_RI.double(), b_OR.double(), 1.0)).dtype == torch.float64


def test_unfold_twice_does_nothing() -> None:
    module = Small()
    folded = fold(module, adapter_of(("inner", 4, 4)))
    folded.unfold()
    with torch.no_grad():
        module.inner.weight.fill_(3.0)
    folded.unfold()
    assert torch.equal(module.inner.weight, torch.full((4, 4), 3.0))


@pytest.mark.parametrize(
    ("site", "error", "message"),
    [
        (("iner", 4, 4), UnknownNameError, r"no module iner \(did you mean inner\?\)"),
        (("inner", 5, 4), ShapeError, r"inner has weights of \(4, 4\), the adapter expects \(4, 5\)"),
        (("embed", 4, 5), UnsupportedAdapterError, "embed is a Embedding"),
    ],
)
def test_nothing_changes_unless_every_site_fits(
    site: tuple[str, int, int], error: type[Exception], message: str
) -> None:
    module = Small()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(error, match=message):
        fold(module, adapter_of(("head", 4, 5), site))
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_quantised_weights_are_refused_by_name() -> None:
    module = Small()
    module.inner.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(
        UnsupportedAdapterError, match=r"inner is a quantised Linear \(Parameter, torch.int8\)"
    ):
        fold(module, adapter_of(("inner", 4, 4)))

    class Packed(nn.Parameter):
        pass

    # Some libraries keep float as the dtype in name, and pack the numbers in a type of their own.
    module.inner.weight = Packed(torch.zeros(4, 4))
    with pytest.raises(UnsupportedAdapterError, match=r"inner is a quantised Linear \(Packed"):
        fold(module, adapter_of(("inner", 4, 4)))


def test_a_tied_weight_is_refused() -> None:
    module = Small()
    module.head.weight = module.embed.weight
    with pytest.raises(UnsupportedAdapterError, match=r"embed.weight and head.weight are one tied weight"):
        fold(module, adapter_of(("head", 4, 5)))
