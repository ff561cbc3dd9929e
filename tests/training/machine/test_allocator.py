"""`keep_freed_memory`: a repeated allocation causes no page faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource, sys
from protoseg.training.machine.allocator import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(3)
def use():
    block = libc.malloc(8 << 20)
    libc.memset(block, 1, 8 << 20)
    libc.free(block)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_page_faults(mode: str) -> int:
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode],
        capture_output=True,
        text=True,
        check=False,
        env={"MALLOC_MMAP_THRESHOLD_": "131072"} if mode == "default" else {},
    )
    if process.returncode == 3:
        pytest.skip("this C library has no mallopt")
    assert process.returncode == 0, process.stderr
    return int(process.stdout)


def test_reallocated_memory_causes_no_page_faults() -> None:
    assert count_page_faults("keep") * 100 < count_page_faults("default")
