"""A picture as histograms of edges and colours."""

import pytest
import torch

from weft.embed import Histograms, build_encoder
from weft.errors import CueError
from weft.tasks.pictures import COLOURS, SHAPES, draw_shape
from weft.types import Description, Image

DIRECTIONS = 12


def picture(pixels: torch.Tensor) -> Image:
    return Image(pixels.to(torch.uint8))


def square(top: int, left: int, colour: tuple[int, int, int] = (0, 0, 0)) -> Image:
    pixels = torch.full((32, 32, 3), 255)
    pixels[top : top + 8, left : left + 12] = torch.tensor(colour)
    return picture(pixels)


def test_it_is_made_again_from_its_config() -> None:
    encoder = Histograms()
    again = build_encoder(encoder.config())
    assert again.identity == encoder.identity
    assert encoder.dim == again.dim == DIRECTIONS * 21 + 27
    assert encoder.encode([]).shape == (0, encoder.dim)
    assert not list(encoder.parameters())


def test_edges_of_the_whole_do_not_move_with_what_is_drawn_and_those_of_a_cell_do() -> None:
    here, there = Histograms().encode([square(4, 4), square(18, 14)])
    torch.testing.assert_close(here[:DIRECTIONS], there[:DIRECTIONS])
    assert (here[DIRECTIONS : 5 * DIRECTIONS] - there[DIRECTIONS : 5 * DIRECTIONS]).abs().max() > 0.3


def test_a_quarter_turn_moves_every_direction_by_a_quarter() -> None:
    image = draw_shape("star", "red", "0")
    turned = Image(image.pixels_HWC.rot90().contiguous())
    upright, other = Histograms().encode([image, turned])
    # rot90 turns against the clock, and directions count with it, since rows run downwards.
    wanted = upright[:DIRECTIONS].roll(-DIRECTIONS // 4)
    torch.testing.assert_close(other[:DIRECTIONS], wanted, atol=1e-4, rtol=1e-3)


def test_shares_add_up_and_a_picture_of_one_colour_has_no_edges() -> None:
    plain = picture(torch.tensor([255, 0, 127]).expand(5, 9, 3))
    drawn = square(4, 4)
    flat, edged = Histograms().encode([plain, drawn])
    edges, colours = flat[:-27], flat[-27:].square()
    assert not edges.any()
    assert colours.sum() == pytest.approx(1, abs=1e-5)
    assert colours.view(3, 3, 3)[2, 0, 1] == pytest.approx(1, abs=0.02)
    assert edged[:DIRECTIONS].square().sum() == pytest.approx(1, abs=1e-5)


def test_a_vector_does_not_depend_on_its_batch_mates_or_the_size_of_the_picture() -> None:
    images = [draw_shape(shape, colour, "1") for shape in SHAPES for colour in COLOURS]
    encoder = Histograms()
    together = encoder.encode(images)
    torch.testing.assert_close(encoder.encode(images[7:8])[0], together[7])
    larger = Image(images[7].pixels_HWC.repeat_interleave(4, 0).repeat_interleave(4, 1))
    assert torch.cosine_similarity(encoder.encode([larger])[0], together[7], dim=0) > 0.95


def test_other_cues_are_refused() -> None:
    with pytest.raises(CueError, match="reads pictures, got Description"):
        Histograms().encode([Description("a red star")])
    with pytest.raises(CueError, match="no pixels"):
        Histograms().encode([Image(torch.zeros(0, 4, 3, dtype=torch.uint8))])
