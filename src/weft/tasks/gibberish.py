"""Descriptions that mean nothing, to measure against those that do."""

import random

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def gibberish(text: str, key: str) -> str:
    """Random letters in words of the same lengths as the text's, drawn by `key`."""
    chance = random.Random(key)
    return "".join(c if c.isspace() else _LETTERS[int(chance.random() * len(_LETTERS))] for c in text)
