"""Sums, maxima and gathered tensors over all processes of a distributed run.

Outside a distributed run each function returns its input, or the input with a process axis.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of processes; 1 outside a distributed run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the index of this process; 0 outside a distributed run."""
    return dist.get_rank() if world_size() > 1 else 0


def all_sum(tensor: Tensor) -> Tensor:
    """Return the sum of ``tensor`` over all processes; ``tensor`` itself if there is only one."""
    if world_size() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total


def all_sum_with_gradient(tensor: Tensor) -> Tensor:
    """Return `all_sum` of ``tensor``; its gradient is summed over all processes as well."""
    if world_size() == 1:
        return tensor
    total: Tensor = _AllSum.apply(tensor)
    return total


class _AllSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return all_sum(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_sum(gradient.contiguous())


def all_max(tensor: Tensor) -> Tensor:
    """Return the elementwise maximum of ``tensor`` over all processes."""
    if world_size() == 1:
        return tensor
    highest = tensor.clone()
    dist.all_reduce(highest, op=dist.ReduceOp.MAX)
    return highest


def all_gather(tensor: Tensor) -> Tensor:
    """Stack ``tensor`` of all processes in rank order, (processes, ...)."""
    if world_size() == 1:
        return tensor[None]
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.stack(parts)
