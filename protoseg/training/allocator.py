"""Memory of the CPU: freed tensors stay with the process instead of going back to the kernel.

An iteration frees and allocates the same large tensors again. glibc returns each of them to the
kernel, which then hands out zeroed pages one fault at a time: about 13,000 faults an iteration of
the quickstart, a tenth of its time. Nothing of a result depends on it.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGEST_MMAP_THRESHOLD = 32 << 20
"""glibc accepts no larger one; larger tensors are still mapped one by one."""
KEPT_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Let glibc keep up to `KEPT_BYTES` of freed memory; whether this C library can."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # not glibc
        return False
    settings = ((M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD), (M_TRIM_THRESHOLD, KEPT_BYTES))
    return all(mallopt(name, value) == 1 for name, value in settings)
