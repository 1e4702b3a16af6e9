"""A library of three tasks and an encoder that counts letters, for the tests of routers."""

import torch

from weft.types import AbstractEncoder

TASKS = {
    "reverse": "write the word backwards",
    "upper": "turn the text into capital letters",
    "count": "count how many letters there are",
}


class Letters(AbstractEncoder):
    """How often each letter occurs."""

    dim = 26
    identity = "letters"

    def config(self):
        return {}

    def encode(self, cues):
        return torch.tensor([[float(c.text.count(chr(97 + i))) for i in range(26)] for c in cues])
