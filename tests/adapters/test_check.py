import pytest
import torch

from weft.adapters import check_factors, check_fits, site_at
from weft.errors import BaseMismatchError, ShapeError, UnknownNameError, WeightsError
from weft.types import Adapter, Bank, Factors

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


def test_a_scaling_that_makes_factors_infinite_is_no_part_of_a_bank() -> None:
    site = site_at("layers.0.q_proj", 6, 4)
    good = Adapter({site: Factors(torch.ones(2, 6), torch.ones(4, 2), 1.0)}, name="good")
    bad = Adapter({site: Factors(torch.ones(2, 6), torch.full((4, 2), 1e30), 1e30)}, name="bad")
    with pytest.raises(WeightsError, match="q_proj of adapter bad holds NaN or infinity after scaling"):
        Bank.stack([good, bad])
    half = Adapter({site: Factors(torch.ones(2, 6).half(), torch.full((4, 2), 6e4).half(), 1.5)})
    with pytest.raises(WeightsError, match=r"a scaling of 1.5 makes torch.float16 numbers of up to 6e\+04"):
        check_factors(half)
