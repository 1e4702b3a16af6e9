"""safetensors bytes that depend on their content alone.

The library writes metadata in the order of a hash map, which differs from run to run.
"""

import json
from collections.abc import Mapping

from safetensors.torch import save
from torch import Tensor

_ALIGNMENT = 8


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """One safetensors file; equal tensors and metadata give equal bytes in every process.

    Tensors are copied to the CPU, so views, tied and trained ones are welcome.
    """
    plain = {name: tensors[name].detach().cpu().clone().contiguous() for name in sorted(tensors)}
    raw = save(plain, {"format": "pt", **metadata})
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text + raw[start:]
