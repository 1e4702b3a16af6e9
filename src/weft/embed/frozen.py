"""What tells one frozen encoder from another."""

import hashlib

import torch
from torch import nn


def weights_hash(module: nn.Module) -> str:
    """A hash of all weights and buffers, by name: 16 characters, equal in every process."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().cpu().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
