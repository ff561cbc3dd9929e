"""Start several workers of one run with srun's environment variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from waiting import finish

from protoseg.runs.folder import RunFolder
from training.small import log_paths, start_worker, worker_environment

JOB = "4000000000"
"""A job id that does not exist."""


def environment(rank: int, size: int, step: int = 0, restarts: int = 0) -> dict[str, str]:
    """The environment of a task that srun starts."""
    return {
        **worker_environment(),
        "SLURM_CONF": "/dev/null",  # no SLURM command can answer
        "SLURM_JOB_ID": JOB,
        "SLURM_RESTART_COUNT": str(restarts),
        "SLURM_STEP_ID": str(step),
        "SLURM_STEP_NUM_TASKS": str(size),
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURMD_NODENAME": "node7",
    }


class Workers:
    """The worker processes of one step.

    Args:
        code: code that all processes run first.
        codes: rank -> code that only this rank runs first.
        ranks: the ranks to start; by default all.
    """

    def __init__(
        self,
        folder: RunFolder,
        size: int = 2,
        code: str = "",
        codes: Mapping[int, str] | None = None,
        ranks: Sequence[int] | None = None,
        step: int = 0,
        arguments: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.processes = [
            start_worker(
                folder,
                f"{code}\n{(codes or {}).get(rank, '')}",
                arguments=arguments,
                environment=environment(rank, size, step),
            )
            for rank in (range(size) if ranks is None else ranks)
        ]

    def end(self) -> list[int | None]:
        """Wait for all processes and return their exit statuses."""
        try:
            self.output = [
                finish(process, logs=log_paths(self.folder))[0] for process in self.processes
            ]
        finally:
            for process in self.processes:
                process.kill()
        return [process.returncode for process in self.processes]
