"""Peak memory of a step: what it holds at its worst beyond what it was given.

On a GPU the caching allocator counts (`torch.cuda.max_memory_allocated`). On a CPU torch's profiler
records every allocation and release of torch's allocator, in kernels and in the backward pass too;
the running sum of these is exact. What other libraries allocate by themselves (oneDNN's scratch
space, OpenMP's stacks) is in neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

COUNTED = "the call that counts"


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Bytes that one call holds at its worst, beyond what was held before it.

    It should not be the first call: what is made once and kept is no part of a step. Gradients that
    an earlier call left behind and this one drops are held before it.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()  # the release of what is older than the recording would go unseen
        with record_function(COUNTED):
            step()
    changes, start = _changes(seen.profiler.kineto_results.experimental_event_tree())
    before = held = sum(size for at, size in changes if at < start)
    peak = held
    for at, size in changes:
        if at >= start:
            held += size
            peak = max(peak, held)
    return peak - before


def _changes(nodes: list[Any]) -> tuple[list[tuple[int, int]], int]:
    """(time, bytes) of each allocation and release in order, and when the counted call began."""
    changes: list[tuple[int, int]] = []
    start, waiting = 0, list(nodes)
    while waiting:
        node = waiting.pop()
        if node.tag == torch._C._profiler._EventType.Allocation:
            changes.append((node.start_time_ns, node.extra_fields.alloc_size))
        elif node.name == COUNTED:
            start = node.start_time_ns
        waiting += node.children
    return sorted(changes, key=lambda change: change[0]), start
