"""Sums and maxima over the processes of a distributed run; no-ops outside one."""

from __future__ import annotations

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


def all_max(tensor: Tensor) -> Tensor:
    """The elementwise maximum of ``tensor`` over all processes."""
    if world_size() == 1:
        return tensor
    highest = tensor.clone()
    dist.all_reduce(highest, op=dist.ReduceOp.MAX)
    return highest


def first_holder(holds: Tensor) -> Tensor:
    """Which elements of a boolean mask this process is the lowest-ranked one to hold."""
    if world_size() == 1:
        return holds
    rank = torch.where(holds, dist.get_rank(), dist.get_world_size())
    dist.all_reduce(rank, op=dist.ReduceOp.MIN)
    return rank == dist.get_rank()
