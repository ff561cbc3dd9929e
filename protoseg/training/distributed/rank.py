"""The rank of this process and the number of processes, from srun's variables; 0 and 1 without."""

from __future__ import annotations

import os
from dataclasses import dataclass

from protoseg.errors import UsageError
from protoseg.slurm.environment import current_job

FIRST_SPECIAL_STEP = 0xFFFFFFF0
"""Step ids from here on are special steps, for example the batch script; srun starts no such."""


@dataclass(frozen=True)
class RankInfo:
    """One of the processes that train a run together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Rank within the node; selects the GPU."""
    nodes: int = 1
    name: str = ""
    """Job, restart count and step: unique for each start of a group of processes."""


def rank_from_slurm() -> RankInfo:
    """Read the rank that srun gave to this process.

    Raises:
        UsageError: a step of several tasks whose variables are missing or inconsistent.
    """
    job = current_job()
    if job is None or not job.step.isdecimal() or int(job.step) >= FIRST_SPECIAL_STEP:
        return RankInfo()
    size = _read_number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", default=1)
    if size <= 1:
        return RankInfo()
    rank_info = RankInfo(
        rank=_read_number("SLURM_PROCID"),
        size=size,
        local_rank=_read_number("SLURM_LOCALID"),
        nodes=_read_number("SLURM_STEP_NUM_NODES", "SLURM_NNODES"),
        name=f"{job.key}.{job.restarts}.{job.step}",
    )
    if rank_info.rank >= size:
        raise UsageError(
            f"SLURM_PROCID: {rank_info.rank} is out of range; this step has {size} tasks. Start "
            "the worker with srun."
        )
    return rank_info


def _read_number(*names: str, default: int | None = None) -> int:
    """The value of the first variable that is set."""
    for name in names:
        value = os.environ.get(name, "")
        if value.isdecimal():
            return int(value)
    if default is None:
        raise UsageError(
            f"{names[0]}: missing in the environment of a step of several tasks. Start the worker "
            "with srun."
        )
    return default
