"""Jobs in SLURM's notation: ids, array expressions, states and times."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

Source = Literal["squeue", "sacct", "scontrol"]

WAITING = {
    *("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"),
    *("RESV_DEL_HOLD", "SUSPENDED", "STOPPED", "EXPEDITING"),
}
ACTIVE = {"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING"}
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"),
}

ID_PATTERN = re.compile(r"[0-9]{1,18}(_[0-9]{1,10})?")
ARRAY_PATTERN = re.compile(r"([0-9]+)_\[([^\]%]*)(%[0-9]+)?(\])?")


@dataclass(frozen=True)
class Job:
    """One job, or one task of an array."""

    id: str
    """ "123_4" for a task of an array, "123" for any other job."""
    state: str
    """SLURM's state in its base form: RUNNING, CANCELLED, NODE_FAIL ..."""
    why: str = ""
    """SLURM's reason why it waits (Priority, Resources, JobHeldUser ...) or how it ended."""
    node: str = ""
    """The nodes that it runs on or last ran on."""
    restarts: int = 0
    """How often it was requeued."""
    exit_code: str = ""
    """ "status:signal", as SLURM writes it."""
    submitted: str = ""
    start: str = ""
    end: str = ""
    """Times in UTC, ISO 8601; empty if unknown. The end of a running job is its time limit."""
    name: str = ""
    by: str = ""
    """Number of the user who cancelled it, if known."""
    source: Source = "squeue"

    @property
    def is_waiting(self) -> bool:
        """Whether SLURM will start it."""
        return self.state in WAITING

    @property
    def is_held(self) -> bool:
        """Whether it waits until it is released: "JobHeldUser", "launch failed requeued held"."""
        return self.is_waiting and "held" in self.why.lower()

    @property
    def is_active(self) -> bool:
        """Whether it holds its nodes now. Workers of a COMPLETING job may still save."""
        return self.state in ACTIVE

    @property
    def has_ended(self) -> bool:
        """Whether it has ended and SLURM will not start it again."""
        return self.state in ENDED


@dataclass(frozen=True)
class DependentJob:
    """A job that waits for the ends of other jobs, or that has begun."""

    id: str
    is_waiting: bool
    waits_for: frozenset[str]
    """Ids ("123") of the jobs and arrays that have not ended."""


@dataclass(frozen=True)
class JobReport:
    """SLURM's answer about some jobs.

    If ``reachable`` is true, SLURM does not know a job that is missing in ``jobs``: it ended before
    MinJobAge and there is no accounting, it was a single task that was cancelled while it waited
    (SLURM keeps no trace of that), or it never existed. If ``reachable`` is false, a missing job
    means nothing.
    """

    jobs: Mapping[str, Job] = field(default_factory=dict)
    reachable: bool = False
    """Whether the controller answered."""
    accounting: bool = False
    """Whether accounting answered, or was not needed."""
    problem: str = ""
    """One sentence on what did not answer."""


def is_job_id(text: str) -> bool:
    """Return whether a text is a job id that can be passed to a command."""
    return ID_PATTERN.fullmatch(text) is not None


def array_id(job: str) -> str:
    """ "123_4" -> "123"."""
    return job.partition("_")[0]


def expand_ids(text: str, wanted: Collection[str]) -> Iterator[str]:
    """Yield the wanted ids that an id in SLURM's output includes.

    "123_4" includes only itself; "123_[0-3,7-900:2%4]" includes all its tasks. An expression that
    SLURM has cut ("123_[0-3,7,...]", "123_[0-3,7,1") includes the tasks before the cut.
    """
    match = ARRAY_PATTERN.fullmatch(text)
    if match is None:
        if text in wanted:
            yield text
        return
    array, expression, _, closed = match.groups()
    parts = expression.split(",")
    if not closed:
        parts.pop()  # may be only the first digits of a longer number
    ranges = []
    for part in parts:
        tasks = re.fullmatch(r"([0-9]{1,10})(?:-([0-9]{1,10})(?::([0-9]{1,10}))?)?", part.strip())
        if tasks:
            first, last, step = int(tasks[1]), int(tasks[2] or tasks[1]), int(tasks[3] or 1)
            ranges.append(range(first, last + 1, max(1, step)))
    for id in wanted:
        wanted_array, _, task = id.partition("_")
        if wanted_array == array and task and any(int(task) in numbers for numbers in ranges):
            yield id


def compress_ids(ids: Iterable[str]) -> list[str]:
    """Return ids in the form of scancel, with the tasks of an array together: "123_[0-3,7]"."""
    arrays: dict[str, list[int]] = {}
    compressed = []
    for id in dict.fromkeys(ids):
        array, _, task = id.partition("_")
        if task:
            arrays.setdefault(array, []).append(int(task))
        else:
            compressed.append(id)
    for array, tasks in arrays.items():
        tasks.sort()
        numbers = set(tasks)
        starts = [n for n in tasks if n - 1 not in numbers]
        ends = [n for n in tasks if n + 1 not in numbers]
        parts = [f"{a}-{b}" if a < b else f"{a}" for a, b in zip(starts, ends, strict=True)]
        compressed += [f"{array}_[{','.join(parts)}]" if len(tasks) > 1 else f"{array}_{parts[0]}"]
    return compressed


def parse_state(text: str) -> tuple[str, str]:
    """ "CANCELLED by 1000" -> ("CANCELLED", "1000"); accepts "CANCELLED+" and "running" too."""
    parts = text.replace("+", " ").split()
    by = parts[2] if len(parts) > 2 and parts[1] == "by" else ""
    return (parts[0].upper() if parts else ""), by


def parse_slurm_time(text: str) -> str:
    """Convert a time of SLURM in UTC to ISO 8601 with its zone; empty if there is none."""
    match = re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}", text.strip())
    return f"{match[0]}+00:00" if match else ""


def clean_value(
    text: str, nothing: Iterable[str] = ("(null)", "N/A", "None", "Unknown", "n/a")
) -> str:
    """Return the value, or "" for SLURM's placeholders for a missing value."""
    stripped = text.strip()
    return "" if stripped in nothing or stripped == "None assigned" else stripped
