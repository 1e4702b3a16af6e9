"""A short name for a base network, so that an adapter finds its base and refuses another."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_SAMPLES = 64
# Below this, float16 keeps fewer digits than bfloat16, and a float16 copy would look like another network.
_TINY = 2.0**-14
_Weights = tuple[tuple[int, int], ...]
_STORED: WeakKeyDictionary[nn.Module, tuple[str, _Weights]] = WeakKeyDictionary()
"""Networks that were cast when read: the fingerprint of what is stored, and the weights it speaks of."""


def fingerprint(module: nn.Module) -> str:
    """`weft2-` and 16 hex digits from the names, shapes and a sample of every parameter but the vocabulary's.

    A language model's input embeddings and output head stay out: tokens are added to a base, and its
    vocabulary is padded, while the layers that adapters change stay as they were. Of an adapter on the head
    the size alone is compared.

    At most 64 values of each parameter are read, evenly spaced and with both ends, rounded to bfloat16. So it
    does not depend on device or process, and a float32 and a bfloat16 copy share it; a float16 copy shares it
    when the weights were published in bfloat16. Of a network that was cast when it was read,
    the stored weights count (`stored_as`), until one is changed.

    It tells checkpoints apart, not adversaries: a change of unsampled values, below bfloat16, or of buffers
    goes unseen. Quantised weights are other numbers in other shapes and have a fingerprint of their own.
    """
    stored, weights = _STORED.get(module, ("", ()))
    if stored and weights == _weights(module):
        return stored
    return fingerprint_by(module, lambda _, parameter, index_N: _values(parameter, index_N))


def fingerprint_by(module: nn.Module, read: Callable[[str, nn.Parameter, list[int]], Tensor]) -> str:
    """The same with values that lie elsewhere: `read(name, parameter, places)` gives those of one tensor.

    So a network on the meta device has the fingerprint of the files that it would be filled from.
    """
    digest = hashlib.sha256()
    left_out = _vocabulary(module)
    for name, parameter in sorted(module.named_parameters()):
        if id(parameter) not in left_out:
            digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
            last, count = parameter.numel() - 1, min(parameter.numel(), _SAMPLES)
            digest.update(
                _bytes(read(name, parameter, [i * last // max(count - 1, 1) for i in range(count)]))
            )
    return f"weft2-{digest.hexdigest()[:16]}"


def stored_as(module: nn.Module, found: str) -> None:
    """Let a network that was cast when it was read have the fingerprint of the weights that are stored."""
    _STORED[module] = (found, _weights(module))


def _weights(module: nn.Module) -> _Weights:
    """Every parameter, and how often it was changed in place since."""
    return tuple((id(parameter), parameter._version) for parameter in module.parameters())


def _vocabulary(module: nn.Module) -> set[int]:
    """Identities of the parameters that have a row for each token."""
    if not isinstance(module, PreTrainedModel):
        return set()
    ends: list[nn.Module | None] = [module.get_output_embeddings()]
    with suppress(NotImplementedError):  # a model that embeds something else than tokens
        ends.append(module.get_input_embeddings())
    return {id(parameter) for end in ends if end is not None for parameter in end.parameters()}


@torch.no_grad()
def _values(parameter: Tensor, index_N: list[int]) -> Tensor:
    return parameter.reshape(-1)[torch.tensor(index_N, dtype=torch.long, device=parameter.device)]


def _bytes(values: Tensor) -> bytes:
    values = values.detach().to(torch.bfloat16).cpu()
    return values.masked_fill(values.abs() < _TINY, 0.0).view(torch.uint8).numpy().tobytes()
