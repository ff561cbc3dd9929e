"""The error for a refusal by sbatch, with its kind: a limit, or a lost answer."""

from __future__ import annotations

import re

from protoseg.errors import ProtosegError

JOB_COUNT_LIMIT = r"MaxSubmit|GrpSubmit|MaxJobs|GrpJobs|submit limit|temporarily un|MaxJobCount"
"""SLURM's names of limits on the number of jobs; some jobs must end first."""
JOB_SIZE_LIMIT = r"(?:QOS|Assoc)(?:Max|Min|Grp)(?!Submit|Jobs)\w*"
"""SLURM's names of limits on the size of a job; its sentence is the same for both kinds."""
ANSWER_LOST = (
    r"timed out|Zero Bytes|Unexpected message|Message (?:send|receive) failure|shutdown failure"
)
"""Messages of a lost answer: the controller may have accepted the job."""


class SubmissionRefused(ProtosegError):  # noqa: N818 (an answer of sbatch, not an error)
    """sbatch accepted no job.

    Attributes:
        is_limit: a limit on the number of jobs is reached; fewer jobs may be accepted now.
        is_unsure: the controller may have accepted the job; query it by name.
    """

    def __init__(self, message: str, *, limit: bool = False, unsure: bool = False) -> None:
        super().__init__(message)
        self.is_limit = limit
        self.is_unsure = unsure


def parse_refusal(output: str, status: int = 1) -> SubmissionRefused:
    """Return the error for sbatch's output.

    Args:
        output: standard error of sbatch.
        status: its exit status.
    """
    lines = [re.sub(r"^sbatch: (error: |fatal: )?", "", x.strip()) for x in output.splitlines()]
    message = "; ".join(dict.fromkeys(line.rstrip(".") for line in lines if line))
    message = message[-500:] or f"exit status {status}, no output"
    is_too_large = re.search(JOB_SIZE_LIMIT, output) is not None
    return SubmissionRefused(
        f"sbatch: {message}.",
        limit=not is_too_large and re.search(JOB_COUNT_LIMIT, output, re.IGNORECASE) is not None,
        unsure=re.search(ANSWER_LOST, output, re.IGNORECASE) is not None,
    )
