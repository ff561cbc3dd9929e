"""Jobs as the scheduler shows them: ids, states, and the lines of squeue, sacct and scontrol."""

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

ID = re.compile(r"[0-9]{1,18}(_[0-9]{1,10})?")
ARRAY = re.compile(r"([0-9]+)_\[([^\]%]*)(%[0-9]+)?(\])?")


@dataclass(frozen=True)
class Job:
    """One job, or one task of an array."""

    id: str
    """As everywhere in protoseg: "123_4" for a task of an array, "123" for a job that is none."""
    state: str
    """SLURM's word in its base form: RUNNING, CANCELLED, NODE_FAIL ..."""
    why: str = ""
    """SLURM's word for why it waits (Priority, Resources, JobHeldUser ...) or how it ended."""
    node: str = ""
    """The nodes it runs on or ran on last."""
    restarts: int = 0
    """How often it was requeued."""
    exit_code: str = ""
    """ "status:signal", as SLURM writes it."""
    submitted: str = ""
    start: str = ""
    end: str = ""
    """Times in UTC, ISO 8601; empty where unknown. The end of a running job is its time limit."""
    name: str = ""
    by: str = ""
    """User number of who cancelled it, where known."""
    source: Source = "squeue"

    @property
    def waiting(self) -> bool:
        """It is going to run, as far as the scheduler knows."""
        return self.state in WAITING

    @property
    def active(self) -> bool:
        """It holds its nodes now. A job that is COMPLETING may have workers that still save."""
        return self.state in ACTIVE

    @property
    def ended(self) -> bool:
        """It will not run again by itself."""
        return self.state in ENDED


@dataclass(frozen=True)
class JobReport:
    """What the scheduler said about some jobs.

    A job that is missing in ``jobs`` while ``reachable`` is true is unknown to the scheduler: it
    ended longer ago than SLURM remembers (MinJobAge) and no accounting tells how, it was a task
    that was cancelled alone while it waited (which leaves no trace), or it never was. While
    ``reachable`` is false, nothing follows from its absence.
    """

    jobs: Mapping[str, Job] = field(default_factory=dict)
    reachable: bool = False
    """The controller answered."""
    accounting: bool = False
    """The accounting answered, or did not need to be asked."""
    problem: str = ""
    """One sentence about what could not be asked."""


def is_id(text: str) -> bool:
    """Whether a text may stand on a command line as a job's id."""
    return ID.fullmatch(text) is not None


def array_id(job: str) -> str:
    """ "123_4" -> "123"."""
    return job.partition("_")[0]


def expand(text: str, wanted: Collection[str]) -> Iterator[str]:
    """The wanted ids that an id as SLURM prints it stands for.

    "123_4" is itself; "123_[0-3,7-900:2%4]" is every task in it. An expression that SLURM cut
    ("123_[0-3,7,...]", "123_[0-3,7,1") stands for the tasks before the cut; the rest is unknown.
    """
    match = ARRAY.fullmatch(text)
    if match is None:
        if text in wanted:
            yield text
        return
    array, expression, _, closed = match.groups()
    parts = expression.split(",")
    if not closed:
        parts.pop()  # perhaps the first digits of a longer number
    ranges = []
    for part in parts:
        tasks = re.fullmatch(r"([0-9]{1,10})(?:-([0-9]{1,10})(?::([0-9]{1,10}))?)?", part.strip())
        if tasks:
            first, last, step = int(tasks[1]), int(tasks[2] or tasks[1]), int(tasks[3] or 1)
            ranges.append(range(first, last + 1, max(1, step)))
    for id in wanted:
        own, _, task = id.partition("_")
        if own == array and task and any(int(task) in numbers for numbers in ranges):
            yield id


def compress(ids: Iterable[str]) -> list[str]:
    """Ids as scancel takes them, the tasks of an array together: "123_[0-3,7]"."""
    arrays: dict[str, list[int]] = {}
    whole = []
    for id in dict.fromkeys(ids):
        array, _, task = id.partition("_")
        if task:
            arrays.setdefault(array, []).append(int(task))
        else:
            whole.append(id)
    for array, tasks in arrays.items():
        tasks.sort()
        own = set(tasks)
        starts = [n for n in tasks if n - 1 not in own]
        ends = [n for n in tasks if n + 1 not in own]
        parts = [f"{a}-{b}" if a < b else f"{a}" for a, b in zip(starts, ends, strict=True)]
        whole += [f"{array}_[{','.join(parts)}]" if len(tasks) > 1 else f"{array}_{parts[0]}"]
    return whole


def base_state(text: str) -> tuple[str, str]:
    """ "CANCELLED by 1000" -> ("CANCELLED", "1000"); "CANCELLED+" and "running" are understood."""
    words = text.replace("+", " ").split()
    by = words[2] if len(words) > 2 and words[1] == "by" else ""
    return (words[0].upper() if words else ""), by


def moment(text: str) -> str:
    """A time of SLURM, asked for in UTC, as ISO 8601 with its zone; empty where there is none."""
    found = re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}", text.strip())
    return f"{found[0]}+00:00" if found else ""


def known(text: str, nothing: Iterable[str] = ("(null)", "N/A", "None", "Unknown", "n/a")) -> str:
    """The value, or "" for the words by which SLURM says that there is none."""
    stripped = text.strip()
    return "" if stripped in nothing or stripped == "None assigned" else stripped
