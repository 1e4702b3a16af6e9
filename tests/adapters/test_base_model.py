"""Which base an adapter is for, and adapters that are taken over to another one on purpose."""

import warnings
from types import MappingProxyType

import pytest
import torch

from weft.adapters import OnMismatch, check_one_base, load, on_host, on_one_base, save, site_at
from weft.adapters.card import base_model
from weft.errors import BaseMismatchError
from weft.types import Adapter, Factors

LLAMA, MISTRAL = "meta-llama/Llama-2-7b-hf", "mistralai/Mistral-7B-v0.1"


def make(name: str, base: str = "", named: str = "", *, from_peft: bool = True) -> Adapter:
    """An adapter whose folder says so much of its base."""
    config = {"base_model_name_or_path": named} if from_peft else {}
    site = site_at("model.layers.0.self_attn.q_proj", 4, 4)
    return Adapter(
        {site: Factors(torch.ones(2, 4), torch.ones(4, 2), 1.0)},
        base=base,
        name=name,
        peft_config=MappingProxyType(config),
        provenance=MappingProxyType({} if from_peft else {"base_model": named}),
    )


@pytest.mark.parametrize(
    "pair",
    [
        (make("a", named=LLAMA), make("b", named=MISTRAL)),
        (make("a", named=LLAMA), make("b", named=MISTRAL, from_peft=False)),
        (make("a", "weft2-1", LLAMA), make("b", "weft2-2", LLAMA)),
        (make("a", "weft2-1", LLAMA), make("b", named=MISTRAL)),
        (make("a", named=LLAMA), make("b", "weft2-1", MISTRAL)),
    ],
    ids=["names", "card", "fingerprints", "one with a fingerprint", "the other with one"],
)
def test_two_bases(pair: tuple[Adapter, Adapter]) -> None:
    for adapters in (pair, pair[::-1]):
        with pytest.raises(BaseMismatchError, match=r"(?s)a is for .*b for|b is for .*a for"):
            check_one_base(adapters)


@pytest.mark.parametrize(
    "pair",
    [
        (make("a", named=LLAMA), make("b", named="/models/llama-2-7B-hf")),
        (make("a", named=LLAMA), make("b")),
        (make("a", "weft2-1", "my-llama"), make("b", "weft2-1", LLAMA)),
        (make("a", "weft2-1"), make("b", named=LLAMA)),
        (make("a", "weft2-1", LLAMA), make("b")),
        (
            make("a", named=LLAMA),
            make("b", named=f"/hub/models--{LLAMA.replace('/', '--')}/snapshots/3f"),
        ),
    ],
    ids=["folder and hub", "unnamed", "one fingerprint", "fingerprint and name", "nothing known", "cached"],
)
def test_one_base_as_far_as_they_say(pair: tuple[Adapter, Adapter]) -> None:
    check_one_base(pair)
    check_one_base(pair[::-1])
    check_one_base([])


def test_all_are_taken_for_the_first_ones_base() -> None:
    adapters = [make("a", "weft2-1", LLAMA), make("b", "weft2-2", MISTRAL), make("c")]
    with pytest.raises(BaseMismatchError):
        on_one_base(adapters, "refuse")
    with pytest.warns(UserWarning, match=f"taken for ones of {LLAMA}"):
        told = on_one_base(adapters, "warn")
    allowed = on_one_base(adapters, "allow")
    for moved in (told, allowed):
        assert [(a.base, base_model(a)) for a in moved] == [("weft2-1", LLAMA)] * 3
        assert moved[1].provenance["made_for"] == {"fingerprint": "weft2-2", "base_model": MISTRAL}
        assert moved[1].factors is adapters[1].factors
        assert moved[0] is adapters[0]


def test_a_host_of_another_fingerprint() -> None:
    adapter = make("a", "weft2-1", LLAMA)
    assert on_host(adapter, "weft2-1", "a-copy", "refuse") is adapter
    with pytest.raises(
        BaseMismatchError, match=r"adapter a belongs to base meta-llama.*--base-mismatch warn"
    ):
        on_host(adapter, "weft2-2", LLAMA, "refuse")
    with pytest.warns(UserWarning, match="was made for base meta-llama"):
        assert on_host(adapter, "weft2-2", LLAMA, "warn").base == "weft2-2"
    assert on_host(adapter, "weft2-2", LLAMA, "allow").base == "weft2-2"


@pytest.mark.parametrize("on_mismatch", ["refuse", "warn"])
def test_a_host_of_another_name_alone_is_told(on_mismatch: OnMismatch) -> None:
    with pytest.warns(UserWarning, match=f"made for base {LLAMA} and runs on {MISTRAL}"):
        assert on_host(make("a", named=LLAMA), "weft2-1", MISTRAL, on_mismatch).base == "weft2-1"


def test_the_name_of_a_folder_says_nothing(tmp_path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        on_host(make("a", named=LLAMA), "weft2-1", str(tmp_path), "refuse")


def test_what_was_moved_is_saved_with_what_it_was_made_for(tmp_path) -> None:
    save(make("a", "weft2-1", LLAMA, from_peft=False), tmp_path / "a")
    save(on_host(load(tmp_path / "a"), "weft2-2", MISTRAL, "allow"), tmp_path / "b")
    again = load(tmp_path / "b")
    assert (again.base, base_model(again)) == ("weft2-2", MISTRAL)
    assert again.provenance["made_for"]["fingerprint"] == "weft2-1"


def test_a_base_that_is_no_text_is_no_name():
    """A config from elsewhere may hold any JSON value there."""
    for value in (1.5, ["x"], {"a": 1}, None, True):
        adapter = Adapter({}, peft_config={"base_model_name_or_path": value}, provenance={"base_model": "b"})
        assert base_model(adapter) == "b"
