"""A short name for a base network, so that an adapter finds its base and refuses another."""

import hashlib

import torch
from torch import Tensor, nn

_SAMPLES = 64
# Below this, float16 keeps fewer digits than bfloat16, and a float16 copy would look like another network.
_TINY = 2.0**-14


def fingerprint(module: nn.Module) -> str:
    """`weft1-` and 16 hex digits from the names, shapes and a sample of every parameter.

    At most 64 values of each parameter are read, evenly spaced and with both ends, rounded to bfloat16. So it
    does not depend on device or process, and a float32 and a bfloat16 copy share it; a float16 copy shares it
    when the weights were published in bfloat16.

    It tells checkpoints apart, not adversaries: a change of unsampled values, below bfloat16, or of buffers
    goes unseen. Quantised weights are other numbers in other shapes and have a fingerprint of their own.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
        digest.update(_sample(parameter))
    return f"weft1-{digest.hexdigest()[:16]}"


@torch.no_grad()
def _sample(parameter: Tensor) -> bytes:
    last, count = parameter.numel() - 1, min(parameter.numel(), _SAMPLES)
    index = [i * last // max(count - 1, 1) for i in range(count)]
    values = parameter.reshape(-1)[torch.tensor(index, dtype=torch.long, device=parameter.device)]
    values = values.to(torch.bfloat16).cpu()
    return values.masked_fill(values.abs() < _TINY, 0.0).view(torch.uint8).numpy().tobytes()
