"""Whether raw tensor bytes hold NaN or infinity, without making numbers of them.

A value is not finite when all bits of its exponent are 1. In IEEE types those lie in the top byte, some also
in the byte below; the top bytes alone, one slice, clear nearly every tensor.
"""

from collections.abc import Callable


def _tops(mask: int, full: int) -> bytes:
    return bytes(top for top in range(256) if top & mask == full)


# dtype: bytes of an element, which top bytes are suspicious, and whether the byte below settles it.
_TYPES: dict[str, tuple[int, bytes, Callable[[int], bool]]] = {
    "F64": (8, _tops(0x7F, 0x7F), lambda below: below & 0xF0 == 0xF0),
    "F32": (4, _tops(0x7F, 0x7F), lambda below: below & 0x80 == 0x80),
    "BF16": (2, _tops(0x7F, 0x7F), lambda below: below & 0x80 == 0x80),
    "F16": (2, _tops(0x7C, 0x7C), lambda _: True),
    "F8_E5M2": (1, _tops(0x7C, 0x7C), lambda _: True),
    "F8_E4M3": (1, _tops(0x7F, 0x7F), lambda _: True),
    "F8_E8M0": (1, b"\xff", lambda _: True),
    "F8_E4M3FNUZ": (1, b"\x80", lambda _: True),
    "F8_E5M2FNUZ": (1, b"\x80", lambda _: True),
}
_TYPES["C64"] = _TYPES["F32"]


def is_finite(dtype: str, data: bytes) -> bool:
    """Whether every value of a tensor is finite; types without NaN and infinity always are."""
    if dtype not in _TYPES:
        return True
    width, suspicious, settles = _TYPES[dtype]
    tops = data[width - 1 :: width]
    for top in suspicious:
        at = tops.find(top)
        while at >= 0:
            if settles(data[at * width + width - 2]):
                return False
            at = tops.find(top, at + 1)
    return True
