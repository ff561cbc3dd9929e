"""Several workers of one run, as srun would start them: by the variables it sets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from protoseg.runs.folder import RunFolder

JOB = "4000000000"
"""A job that no scheduler knows."""


def environment(rank: int, size: int, step: int = 0, restarts: int = 0) -> dict[str, str]:
    """What srun tells one of its tasks."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    return {
        **clean,
        "OMP_NUM_THREADS": "1",
        "SLURM_CONF": "/dev/null",  # nobody is asked
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
    """The processes of one step.

    Args:
        code: runs in all of them first.
        codes: rank -> code that runs in it alone.
        ranks: those that are started at all.
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
        self.processes = []
        for rank in range(size) if ranks is None else ranks:
            own = (codes or {}).get(rank, "")
            program = (
                f"import sys\nfrom protoseg.training import worker\n{code}\n{own}\n"
                "sys.exit(worker.main(sys.argv[1:]))"
            )
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", program, str(folder.path), *arguments],
                    env=environment(rank, size, step),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )

    def end(self, seconds: float = 90) -> list[int]:
        """Wait for all; their exit statuses. None may hang."""
        try:
            self.output = [process.communicate(timeout=seconds)[0] for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
                process.wait()
                if process.stdout:
                    process.stdout.close()
        return [process.returncode for process in self.processes]
