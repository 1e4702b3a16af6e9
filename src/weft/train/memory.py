"""The C library's memory, kept between the operations of a training step.

By default glibc gives large blocks back to the system as soon as they are freed, and takes them again for
the next operation, page by page: in a training of short rows on a CPU, up to half of the time.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its next tensors; False where that is not possible.

    The process holds its highest use until it ends. Only glibc, so only Linux.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is None:
        return False
    return bool(set_option(_M_MMAP_THRESHOLD, 2**30) and set_option(_M_TRIM_THRESHOLD, _NEVER))
