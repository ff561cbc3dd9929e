"""CPU memory: glibc keeps freed tensors for reuse instead of returning them to the kernel.

Each iteration frees large tensors and allocates them again. By default glibc returns them to the
kernel, which then provides zeroed pages one page fault at a time: about 13,000 faults per iteration
of the quickstart, 10% of its time. The setting does not change any result.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGEST_MMAP_THRESHOLD = 32 << 20
"""Upper limit of glibc; each larger tensor is still mapped separately."""
KEPT_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Let glibc keep up to `KEPT_BYTES` of freed memory; returns False for another C library."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # not glibc
        return False
    settings = ((M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD), (M_TRIM_THRESHOLD, KEPT_BYTES))
    return all(mallopt(name, value) == 1 for name, value in settings)
