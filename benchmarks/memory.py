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
from torch.profiler import ProfilerActivity, profile


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Bytes that one call holds at its worst, beyond what was held before it.

    It should not be the first call: what is made once and kept is no part of a step.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    changes: list[tuple[int, int]] = []
    _gather(seen.profiler.kineto_results.experimental_event_tree(), changes)
    held = peak = 0
    for _, size in sorted(changes, key=lambda change: change[0]):
        held += size
        peak = max(peak, held)
    return peak


def _gather(nodes: list[Any], changes: list[tuple[int, int]]) -> None:
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node.tag == torch._C._profiler._EventType.Allocation:
            changes.append((node.start_time_ns, node.extra_fields.alloc_size))
        waiting += node.children
