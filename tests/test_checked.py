"""The tests check what they call: types everywhere, shapes where they are told."""

import pytest
import torch
from beartype.roar import BeartypeCallHintParamViolation
from jaxtyping import TypeCheckError

from weft.files import is_name
from weft.merging.low_rank import refactor
from weft.swarm.message import Message
from weft.tasks import Row


def test_a_wrong_type_is_refused_where_no_shapes_are_told() -> None:
    with pytest.raises(BeartypeCallHintParamViolation):
        is_name(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(BeartypeCallHintParamViolation):
        Row(prompt="a", completion=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(BeartypeCallHintParamViolation):
        Message({}).text(3)  # pyright: ignore[reportArgumentType]


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        refactor(torch.zeros(2, 2, 2), 1, torch.float32)
