"""The tests check what they call: types everywhere, shapes where they are told."""

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

import checked
from weft.files import is_name
from weft.merging.low_rank import refactor
from weft.swarm.message import Message
from weft.tasks import Row


def test_a_wrong_type_is_refused_where_no_shapes_are_told() -> None:
    with pytest.raises(TypeCheckError):
        is_name(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeCheckError):
        Row(prompt="a", completion=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeCheckError):
        Message({}).text(3)  # pyright: ignore[reportArgumentType]


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        refactor(torch.zeros(2, 2, 2), 1, torch.float32)


def product(a_BI: Float[Tensor, "B I"], b_IO: Float[Tensor, "I O"], *, cut: int = 0) -> Float[Tensor, "B O"]:
    return torch.zeros(a_BI.shape[0] - cut, b_IO.shape[1])


def test_a_letter_is_one_size_in_a_call_and_any_in_the_next() -> None:
    of = checked.check(product)
    for size in (2, 3):
        assert of(torch.ones(4, size), torch.ones(size, 1)).shape == (4, 1)
    with pytest.raises(TypeCheckError):
        of(torch.ones(4, 2), torch.ones(3, 1))
    with pytest.raises(TypeCheckError):
        of(torch.ones(4, 2), torch.ones(2, 1), cut=1)


def test_functions_within_functions_are_checked_the_first_times() -> None:
    refused = 0
    for _ in range(20):

        def within(value: int) -> int:
            return value

        try:
            checked.check_inner(within)("a")
        except TypeCheckError:
            refused += 1
    assert 0 < refused < 20
