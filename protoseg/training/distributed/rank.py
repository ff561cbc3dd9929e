"""Which process of a run this is, as srun says in the environment; alone everywhere else."""

from __future__ import annotations

import os
from dataclasses import dataclass

from protoseg.errors import UsageError
from protoseg.slurm.environment import current_job

NO_STEPS = 0xFFFFFFF0
"""Step numbers from here on name the batch script and other things that srun did not start."""


@dataclass(frozen=True)
class RankInfo:
    """One process among those that train a run together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Its number on its node; decides which GPU is its."""
    nodes: int = 1
    name: str = ""
    """Job, restart and step: no two meetings of processes share it."""


def rank_from_slurm() -> RankInfo:
    """The place that srun gave to this process.

    Raises:
        UsageError: a step of several tasks whose variables are missing or make no sense.
    """
    job = current_job()
    if job is None or not job.step.isdecimal() or int(job.step) >= NO_STEPS:
        return RankInfo()
    size = _number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", default=1)
    if size <= 1:
        return RankInfo()
    place = RankInfo(
        rank=_number("SLURM_PROCID"),
        size=size,
        local_rank=_number("SLURM_LOCALID"),
        nodes=_number("SLURM_STEP_NUM_NODES", "SLURM_NNODES"),
        name=f"{job.key}.{job.restarts}.{job.step}",
    )
    if place.rank >= size:
        raise UsageError(
            f"SLURM_PROCID: {place.rank} is out of range; this step has {size} tasks. Start the "
            "worker by srun alone."
        )
    return place


def _number(*names: str, default: int | None = None) -> int:
    """The first of some variables that is set."""
    for name in names:
        value = os.environ.get(name, "")
        if value.isdecimal():
            return int(value)
    if default is None:
        raise UsageError(
            f"{names[0]}: missing in the environment of a step of several tasks. Start the worker "
            "by srun alone."
        )
    return default
