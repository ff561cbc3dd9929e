"""Peak memory of a step: the maximum it allocates beyond its inputs.

On a GPU this is `torch.cuda.max_memory_allocated`. On a CPU it is the running sum of all
allocations and releases of torch's allocator, as recorded by torch's profiler, including kernels
and the backward pass. Memory that other libraries allocate (scratch space of oneDNN, stacks of
OpenMP) is not included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

MEASURED_CALL = "the measured call"


def measure_peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Return the maximum number of bytes that one call allocates beyond those allocated before.

    Call ``step`` once before, so that one-time allocations are not included. Gradients that an
    earlier call allocated and this call releases count as allocated before.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recording:
        step()  # releases of older memory are not recorded, so the step runs twice
        with record_function(MEASURED_CALL):
            step()
    changes, start = _collect_changes(recording.profiler.kineto_results.experimental_event_tree())
    before = allocated = sum(size for at, size in changes if at < start)
    peak = allocated
    for at, size in changes:
        if at >= start:
            allocated += size
            peak = max(peak, allocated)
    return peak - before


def _collect_changes(nodes: list[Any]) -> tuple[list[tuple[int, int]], int]:
    """Return (time, bytes) of each allocation and release, and the start of the measured call."""
    changes: list[tuple[int, int]] = []
    start, waiting = 0, list(nodes)
    while waiting:
        node = waiting.pop()
        if node.tag == torch._C._profiler._EventType.Allocation:
            changes.append((node.start_time_ns, node.extra_fields.alloc_size))
        elif node.name == MEASURED_CALL:
            start = node.start_time_ns
        waiting += node.children
    return sorted(changes, key=lambda change: change[0]), start
