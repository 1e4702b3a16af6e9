"""Descriptions and pictures that mean nothing, to measure against those that do."""

import random
import zlib

import torch

from weft.types import Image

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def gibberish(text: str, key: str) -> str:
    """Random letters in words of the same lengths as the text's, drawn by `key`."""
    chance = random.Random(key)
    return "".join(c if c.isspace() else _LETTERS[int(chance.random() * len(_LETTERS))] for c in text)


def noise(image: Image, key: str) -> Image:
    """A picture of the same size whose pixels are all drawn by `key`."""
    rng = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    return Image(torch.randint(256, image.pixels_HWC.shape, dtype=torch.uint8, generator=rng))
