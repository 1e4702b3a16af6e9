"""Whether raw tensor bytes hold NaN or infinity, without making numbers of them.

A value is not finite when all bits of its exponent are 1. In IEEE types those lie in the top byte, some also
in the byte below; the top bytes alone, one slice, clear nearly every tensor.
"""

from collections.abc import Callable

# dtype: bytes of an element, which top bytes are suspicious, and whether the byte below settles it.
_TYPES: dict[str, tuple[int, Callable[[int], bool], Callable[[int], bool]]] = {
    "F64": (8, lambda top: top & 0x7F == 0x7F, lambda below: below & 0xF0 == 0xF0),
    "F32": (4, lambda top: top & 0x7F == 0x7F, lambda below: below & 0x80 == 0x80),
    "BF16": (2, lambda top: top & 0x7F == 0x7F, lambda below: below & 0x80 == 0x80),
    "F16": (2, lambda top: top & 0x7C == 0x7C, lambda _: True),
    "F8_E5M2": (1, lambda top: top & 0x7C == 0x7C, lambda _: True),
    "F8_E4M3": (1, lambda top: top & 0x7F == 0x7F, lambda _: True),
    "F8_E8M0": (1, lambda top: top == 0xFF, lambda _: True),
    "F8_E4M3FNUZ": (1, lambda top: top == 0x80, lambda _: True),
    "F8_E5M2FNUZ": (1, lambda top: top == 0x80, lambda _: True),
}
_TYPES["C64"] = _TYPES["F32"]
_MARKS = {dtype: bytes(map(suspect, range(256))) for dtype, (_, suspect, _) in _TYPES.items()}


def is_finite(dtype: str, data: bytes) -> bool:
    """Whether every value of a tensor is finite; types without NaN and infinity always are."""
    if dtype not in _TYPES:
        return True
    width, _, settles = _TYPES[dtype]
    marks = data[width - 1 :: width].translate(_MARKS[dtype])
    at = marks.find(1)
    while at >= 0:
        if width == 1 or settles(data[at * width + width - 2]):
            return False
        at = marks.find(1, at + 1)
    return True
