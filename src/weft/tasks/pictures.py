"""Pictures to be named: handwritten digits, and drawn shapes of a colour, one task each.

The digits are scikit-learn's, 1797 of 8 x 8 pixels (Alpaydin and Kaynak 1998, UCI, CC BY 4.0), in its order,
in which writers follow each other; so the last fifth, held out, is by hands that no training saw. The shapes
are drawn here, 32 x 32: anywhere, of any size, turned, on a light ground, with noise. One colour of each
shape is never trained on. Questions are short, and what is asked is in no picture: the same question has
another answer under every picture's adapter.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from weft.tasks.task import Row, Task
from weft.types import Image

SIZE = 32
_FINE = 3  # pixels are averaged from so many times as many
_TRIANGLE = tuple((math.sin(turn), math.cos(turn)) for turn in (0.0, 2 * math.pi / 3, 4 * math.pi / 3))

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (215, 45, 40),
    "green": (45, 160, 70),
    "blue": (45, 80, 210),
    "yellow": (235, 205, 50),
    "purple": (140, 60, 170),
    "black": (35, 35, 40),
}
SHAPES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": lambda x, y: x.square() + y.square() < 0.8,
    "square": lambda x, y: torch.maximum(x.abs(), y.abs()) < 0.75,
    "triangle": lambda x, y: torch.stack([x * u + y * v for u, v in _TRIANGLE]).amax(0) < 0.5,
    "ring": lambda x, y: (x.square() + y.square() - 0.6).abs() < 0.35,
    "cross": lambda x, y: (torch.minimum(x.abs(), y.abs()) < 0.28) & (torch.maximum(x.abs(), y.abs()) < 1),
    "star": lambda x, y: torch.hypot(x, y) < 0.62 + 0.38 * torch.cos(5 * torch.atan2(x, -y)),
}
"""Name -> which points are inside, where the largest lie at a distance of about 1; y runs downwards."""


def picture_splits(*, seed: int, shapes: int) -> dict[str, tuple[Task, ...]]:
    """Splits train, validation, digits, shapes, unseen_pairs; `shapes` training pictures of each pair."""
    train, check, held_out = _digits()
    unseen = unseen_pairs(seed)
    pairs = [(shape, colour) for shape in SHAPES for colour in COLOURS]
    seen = [pair for pair in pairs if pair not in unseen]

    def drawn(split: str, some: list[tuple[str, str]], count: int) -> tuple[Task, ...]:
        return tuple(_shape_task(*pair, f"{seed}/{split}/{n}") for pair in some for n in range(count))

    return {
        "train": (*train, *drawn("train", seen, shapes)),
        "validation": (*check, *drawn("validation", seen, 3)),
        "digits": held_out,
        "shapes": drawn("shapes", seen, 8),
        "unseen_pairs": drawn("unseen_pairs", unseen, 40),
    }


def unseen_pairs(seed: int) -> list[tuple[str, str]]:
    """One colour of every shape, each colour once."""
    chance = random.Random(f"{seed}/pairs")
    return list(zip(SHAPES, sorted(COLOURS, key=lambda _: chance.random()), strict=True))


def draw_shape(shape: str, colour: str, key: str) -> Image:
    """A picture of one shape; place, size, turn, shades and noise are drawn by `key`."""
    rng = torch.Generator().manual_seed(zlib.crc32(key.encode()))

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((), generator=rng)

    radius, turn = between(0.45, 0.8), between(-0.35, 0.35)
    room = 1 - radius
    left, top = between(-1.0, 1.0) * room, between(-1.0, 1.0) * room
    line = (torch.arange(SIZE * _FINE) + 0.5) / (SIZE * _FINE) * 2 - 1
    y, x = torch.meshgrid((line - top) / radius, (line - left) / radius, indexing="ij")
    cos, sin = torch.cos(turn), torch.sin(turn)
    inside = SHAPES[shape](cos * x + sin * y, cos * y - sin * x).float()
    cover_HW1 = avg_pool2d(inside[None], _FINE)[0, :, :, None]
    paint = torch.tensor(COLOURS[colour]) + 12 * torch.randn(3, generator=rng)
    ground = between(215.0, 255.0) + 4 * torch.randn(3, generator=rng)
    pixels_HWC = cover_HW1 * paint + (1 - cover_HW1) * ground
    pixels_HWC = pixels_HWC + 5 * torch.randn(SIZE, SIZE, 3, generator=rng)
    return Image(pixels_HWC.round().clamp(0, 255).to(torch.uint8))


def _shape_task(shape: str, colour: str, key: str) -> Task:
    rows = (Row("colour", colour), Row("shape", shape))
    name = f"{colour}-{shape}-{key.replace('/', '-')}"
    image = draw_shape(shape, colour, f"{key}/{shape}/{colour}")
    return Task(name, ("name what is drawn",), train=rows, test=rows, category="shapes", image=image)


def _digits() -> tuple[tuple[Task, ...], tuple[Task, ...], tuple[Task, ...]]:
    """Tasks for training, for choosing, and of other hands."""
    from sklearn.datasets import load_digits  # here: it takes a second

    values_NP, labels_N = load_digits(return_X_y=True)
    pixels_NHW = torch.as_tensor(values_NP * (255 / 16)).round().to(torch.uint8).view(-1, 8, 8)
    tasks = []
    for number, (pixels_HW, label) in enumerate(zip(pixels_NHW, labels_N.tolist(), strict=True)):
        rows = (Row("digit", str(label)),)
        image = Image(pixels_HW[:, :, None].repeat(1, 1, 3))
        name, told = f"digit-{label}-{number}", ("name the digit",)
        tasks.append(Task(name, told, train=rows, test=rows, category="digits", image=image))
    known = tasks[: len(tasks) * 4 // 5]
    train = tuple(task for number, task in enumerate(known) if number % 16)
    return train, tuple(known[::16]), tuple(tasks[len(known) :])
