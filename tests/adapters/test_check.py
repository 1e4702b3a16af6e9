import pytest
import torch

from weft.adapters import check_fits, site_at
from weft.errors import BaseMismatchError, ShapeError, UnknownNameError
from weft.types import Adapter, Factors

SITES = (site_at("model.layers.0.q_proj", 6, 4), site_at("model.layers.0.v_proj", 6, 2))


def adapter_of(path: str, n_in: int, n_out: int, *, base: str = "") -> Adapter:
    factors = Factors(torch.ones(1, n_in), torch.ones(n_out, 1), 1.0)
    return Adapter({site_at(path, n_in, n_out): factors}, base=base, name="mine")


@pytest.mark.parametrize(("base", "host"), [("", ""), ("x", ""), ("", "x"), ("x", "x")])
def test_what_fits_passes(base: str, host: str) -> None:
    check_fits(adapter_of("model.layers.0.q_proj", 6, 4, base=base), SITES, host)


def test_another_base() -> None:
    with pytest.raises(BaseMismatchError, match="adapter mine belongs to base weft1-a, this one is weft1-b"):
        check_fits(adapter_of("model.layers.0.q_proj", 6, 4, base="weft1-a"), SITES, "weft1-b")


def test_unknown_module_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"q_prog, .* \(did you mean model.layers.0.q_proj\?\)"):
        check_fits(adapter_of("model.layers.0.q_prog", 6, 4), SITES)


def test_another_size() -> None:
    with pytest.raises(ShapeError, match="v_proj from 6 to 4 features, this model has 6 to 2"):
        check_fits(adapter_of("model.layers.0.v_proj", 6, 4), SITES)
