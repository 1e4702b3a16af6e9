"""One way from a request to a row: adapters, libraries and trees."""

import pytest
import torch

import weft
from weft.engine import Engine
from weft.engine.request import Chooser, named_base, under
from weft.errors import BaseMismatchError, ConfigError, ShapeError, UnknownNameError
from weft.host.share import join
from weft.route import load_library
from weft.rows import Share
from weft.types import Adapter, Mixture, Term

LIBRARY = "weft/letters-adapters"


@pytest.fixture(scope="module")
def letters():
    return weft.Host.from_pretrained("weft/letters")


@pytest.fixture(scope="module")
def library():
    return load_library(LIBRARY)


def test_one_adapter_of_weight_one_takes_the_single_path(letters, library):
    adapter = library.adapters[0]
    (joined,) = join([under(letters, [adapter])], letters.pool, letters.device)
    assert joined.decode is not None
    assert joined.decode.scale_BM is None
    halved = join([under(letters, [adapter], [0.5])], letters.pool, letters.device)
    assert halved[0].decode is not None
    assert halved[0].decode.scale_BM is not None


def test_weight_zero_is_left_out_and_wrong_numbers_are_refused(letters, library):
    assert under(letters, library.adapters[:2], [0.0, 0.5]).adapters == ((library.adapters[1], 0.5),)
    assert under(letters, []).adapters == ()
    with pytest.raises(ShapeError, match="1 weights for 2 adapters"):
        under(letters, library.adapters[:2], [1.0])
    with pytest.raises(BaseMismatchError):
        under(letters, [Adapter(library.adapters[0].factors, base="0" * 16)])


def test_an_adapter_says_the_same_alone_and_from_a_library_in_low_precision(library):
    host = weft.Host.from_pretrained("weft/letters", dtype="bfloat16")
    chooser = Chooser.over(host, library, "nearest", threshold=-1.0)
    share = chooser.share("reverse the text")
    ((adapter, weight),) = share.adapters
    assert (adapter.name, weight) == ("reverse", 1.0)
    ids = torch.tensor([[5, 9, 7, 4]])
    one = host.step(ids, host.new_cache(), [share]).logits_BV
    other = host.step(ids, host.new_cache(), [under(host, [weft.load(f"{LIBRARY}/reverse")])]).logits_BV
    assert torch.equal(one, other)
    gate = Chooser.over(host, library, "arrow").share("x").terms[0]
    stored = next(iter(adapter.factors.values())).a_RI.dtype
    assert next(iter(gate.bank.a.values())).dtype == stored


def test_choosers_tell_their_weights(letters, library):
    chooser = Chooser.over(letters, library, "blend", top_k=2, threshold=-1.0)
    (told,) = chooser.weights(["sort the letters"])
    assert told is not None
    assert len(told) == 2
    assert sum(told.values()) == pytest.approx(1)
    share = chooser.share("sort the letters")
    assert {adapter.name: weight for adapter, weight in share.adapters} == pytest.approx(told)
    gate = Chooser.over(letters, library, "arrow")
    assert gate.weights(["x", "y"]) == [None, None]
    assert isinstance(gate.share("x").terms[0], Term)
    with pytest.raises(UnknownNameError, match="nearest"):
        Chooser.over(letters, library, "nearst")


def test_the_engine_takes_shares_row_by_row(letters, library):
    engine = Engine(letters)
    one, other = library.adapters[:2]
    mixture = Mixture.rows(weft.Bank.stack([one, other]), [0, 1])
    prompts = ["cab", "decaf"]
    wanted = engine.generate(prompts, mixture=mixture, max_new_tokens=8)
    assert engine.generate(prompts, shares=[Share.of(one), Share.of(other)], max_new_tokens=8) == wanted
    assert "".join(engine.stream("decaf", share=Share.of(other), max_new_tokens=8)) == wanted[1]
    with pytest.raises(ConfigError, match="not both"):
        engine.generate(prompts, mixture=mixture, shares=[Share()] * 2)
    with pytest.raises(ShapeError, match="1 shares for 2 prompts"):
        engine.generate(prompts, shares=[Share()])


def test_shares_add_up(letters, library):
    one, other = library.adapters[:2]
    both = under(letters, [one], [0.5]) + under(letters, [other], [0.25])
    assert both.adapters == ((one, 0.5), (other, 0.25))


def test_the_base_is_what_adapters_or_a_hypernetwork_name(library):
    assert named_base(library.adapters) == "weft/letters"
    assert named_base([], "weft/letters-t2l") == "weft/letters"
    assert named_base([]) is None
