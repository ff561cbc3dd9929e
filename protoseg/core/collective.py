"""Sums, maxima and collections over the processes of a distributed run; no-ops outside one."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes, 1 outside a distributed run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_sum(tensor: Tensor) -> Tensor:
    """The sum of ``tensor`` over all processes; ``tensor`` itself where there is one."""
    if world_size() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total


def all_sum_with_gradient(tensor: Tensor) -> Tensor:
    """`all_sum` whose gradient is that of the sum of what all processes make of it."""
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
    """The elementwise maximum of ``tensor`` over all processes."""
    if world_size() == 1:
        return tensor
    highest = tensor.clone()
    dist.all_reduce(highest, op=dist.ReduceOp.MAX)
    return highest


def rank() -> int:
    """The number of this process, 0 outside a distributed run."""
    return dist.get_rank() if world_size() > 1 else 0


def gather(tensor: Tensor) -> Tensor:
    """``tensor`` of every process, stacked by rank, (processes, ...)."""
    if world_size() == 1:
        return tensor[None]
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.stack(parts)
