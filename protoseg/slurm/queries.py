"""The three commands that know of jobs, each asked once for many: squeue, sacct, scontrol."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from protoseg.slurm.command import SECONDS, Reply, call
from protoseg.slurm.jobs import Job, array_id, base_state, expand, known, moment

CHUNK = 5000
"""Array ids on one command line: 5,000 of them are half of what Linux allows one argument."""
SCONTROL_LIMIT = 16
"""Arrays asked for with scontrol, which takes one at a time."""
SEPARATOR = "\x1f"
"""Between values: ASCII's unit separator. A line that has not exactly as many values as were asked
for is none of ours: sites print banners on standard output, and names may hold newlines."""

SQUEUE = {
    "jobarrayid": "id",
    "state": "state",
    "reason": "why",
    "nodelist": "node",
    "restartcnt": "restarts",
    "exit_code": "exit_code",
    "submittime": "submitted",
    "starttime": "start",
    "endtime": "end",
    "name": "name",
}
SACCT = {
    "JobID": "id",
    "State": "state",
    "ExitCode": "exit_code",
    "NodeList": "node",
    "Submit": "submitted",
    "Start": "start",
    "End": "end",
    "JobName": "name",
}
SCONTROL = {
    "JobState": "state",
    "Reason": "why",
    "NodeList": "node",
    "Restarts": "restarts",
    "ExitCode": "exit_code",
    "SubmitTime": "submitted",
    "StartTime": "start",
    "EndTime": "end",
    "JobName": "name",
}
"""What each command calls the fields of `Job`."""

UNKNOWN = re.compile(r"Invalid job id|^Job [0-9_]+ not found", re.MULTILINE)
SILENT = re.compile(
    r"Unable to contact slurm controller|timed out|Connection refused|no answer in|"
    r"Zero Bytes were transmitted|standby|not connected|not responding",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class QueryResult:
    """What one command knew."""

    jobs: Mapping[str, list[Job]] = field(default_factory=dict)
    """Id -> its incarnations, oldest first; squeue and scontrol know the newest alone."""
    problem: str = ""
    """Why it could not be asked, in one sentence; empty where it answered."""
    silent: bool = False
    """The daemon behind it did not answer: no use in asking it by another command."""


def unknown_job(reply: Reply) -> bool:
    """Whether a command failed because, and only because, the scheduler does not know the job."""
    return UNKNOWN.search(f"{reply.errors}\n{reply.out}") is not None


def squeue(wanted: Collection[str]) -> QueryResult:
    """The wanted jobs in the controller's memory: waiting, running, or ended some minutes ago."""
    jobs: dict[str, list[Job]] = {}
    arrays = sorted(set(map(array_id, wanted)))
    for start in range(0, len(arrays), CHUNK):
        reply, lines = ask_squeue("--jobs=" + ",".join(arrays[start : start + CHUNK]))
        if lines is None and unknown_job(reply):  # of a single unknown job it makes an error
            continue
        if lines is None:
            return QueryResult(jobs, reply.problem, SILENT.search(reply.problem) is not None)
        for values in lines:
            jobs |= {id: [_job(id, values, "squeue")] for id in expand(values["id"], wanted)}
    return QueryResult(jobs)


def ask_squeue(selection: str) -> tuple[Reply, list[dict[str, str]] | None]:
    """One line of values a job or task; None where the controller or squeue did not answer."""
    fields = ",".join(f"{name}:{SEPARATOR}" for name in SQUEUE)
    # --all: partitions may be hidden. All states: for some minutes it knows what has ended too.
    command = ["squeue", "--all", "--array", "--states=all", selection, f"--Format={fields}"]
    reply = call(command)
    return _rows(reply, (*SQUEUE.values(), ""))


def sacct(ids: Collection[str], wanted: Collection[str]) -> QueryResult:
    """The wanted jobs in accounting, each with all its incarnations.

    Args:
        ids: what to ask for: arrays, or single tasks.
    """
    jobs: dict[str, list[Job]] = {}
    asked = sorted(ids)
    for start in range(0, len(asked), CHUNK):
        reply, lines = ask_sacct("--jobs=" + ",".join(asked[start : start + CHUNK]))
        if lines is None:
            return QueryResult(jobs, reply.problem)
        for values in lines:
            for id in expand(values["id"], wanted):
                jobs.setdefault(id, []).append(_job(id, values, "sacct"))
        # An array that was cancelled before any task ran is one row without tasks.
        whole = {values["id"]: values for values in lines if values["id"].isdecimal()}
        for id in wanted:
            if id not in jobs and array_id(id) in whole:
                jobs[id] = [_job(id, whole[array_id(id)], "sacct")]
    for id, starts in jobs.items():
        # A job number may also have been another job's, years ago; the newest counts.
        starts.sort(key=lambda job: job.submitted)
        jobs[id] = [replace(job, restarts=n) for n, job in enumerate(starts)]
    return QueryResult(jobs)


def ending_in_sacct(id: str, seconds: float) -> Job | None:
    """How accounting says that a job ends which is just being stopped; None where it can not say.

    Accounting hears of it up to a second or two later; it is asked again until then, for half of
    the given seconds. An incarnation that waits is the next one already.
    """
    end, again = time.monotonic() + seconds, time.monotonic() + seconds / 2
    while (left := end - time.monotonic()) > 0:
        _, lines = ask_sacct(f"--jobs={id}", seconds=left)
        if lines is None:
            return None
        jobs = [_job(id, values, "sacct") for values in lines if values["id"] == id]
        begun = sorted((j for j in jobs if j.state != "PENDING"), key=lambda job: job.submitted)
        if begun and not begun[-1].active:
            return begun[-1]
        if time.monotonic() > again:
            return None
        time.sleep(0.3)
    return None


def ask_sacct(
    *selection: str, seconds: float = SECONDS
) -> tuple[Reply, list[dict[str, str]] | None]:
    """One line of values a job and incarnation; None where accounting did not answer."""
    # All users: two people may share one folder of runs.
    command = ["sacct", "--allusers", "--allocations", "--duplicates", "--parsable2", *selection,
               f"--delimiter={SEPARATOR}", "--format=" + ",".join(SACCT)]  # fmt: skip
    return _rows(call(command, seconds), tuple(SACCT.values()))


def _rows(reply: Reply, names: tuple[str, ...]) -> tuple[Reply, list[dict[str, str]] | None]:
    """The lines of an answer that are ours, without the heading.

    A command that answered printed the heading at least; one that is not what it seems (a site's
    wrapper that knows no options) did not, and its silence about a job says nothing.
    """
    if not reply.fine:
        return reply, None
    lines = [line.split(SEPARATOR) for line in reply.out.split("\n")]
    fitting = [line for line in lines if len(line) == len(names)]
    if not fitting:
        problem = f"{reply.command}: prints something else than what it was asked for"
        return replace(reply, problem=problem), None
    return reply, [
        dict(zip(names, map(str.strip, line), strict=True)) for line in fitting if line[0]
    ][1:]


def scontrol(wanted: Collection[str]) -> QueryResult:
    """The wanted jobs as scontrol shows them; it takes one array at a time, so only a few."""
    jobs: dict[str, list[Job]] = {}
    arrays = sorted(set(map(array_id, wanted)))
    for array in arrays[:SCONTROL_LIMIT]:
        reply = show_job(array)
        if not reply.fine and not unknown_job(reply):
            return QueryResult(jobs, reply.problem, silent=True)
        jobs |= {id: [job] for id, job, _ in shown(reply.out, wanted)}
    left = len(arrays) - SCONTROL_LIMIT
    return QueryResult(jobs, f"scontrol: {left} arrays not asked for" if left > 0 else "")


def show_job(id: str, seconds: float = SECONDS) -> Reply:
    """All that the controller says of a job or array."""
    return call(["scontrol", "--all", "--oneliner", "show", "job", id], seconds)


def shown(out: str, wanted: Collection[str]) -> Iterator[tuple[str, Job, dict[str, str]]]:
    """The wanted jobs in the output of ``scontrol --oneliner show job``: id, job, all values."""
    for line in out.split("\n"):
        if not line.startswith("JobId="):
            continue
        values = pairs(line)
        id, task = values["JobId"], values.get("ArrayTaskId", "")
        if task:
            array = values.get("ArrayJobId", "")
            id = f"{array}_{task}" if task.isdecimal() else f"{array}_[{task}]"
        ours = {name: values[key] for key, name in SCONTROL.items() if key in values}
        for each in expand(id, wanted):
            yield each, _job(each, ours, "scontrol"), values


def pairs(line: str) -> dict[str, str]:
    """The ``Key=value`` pairs of a line; of a key that stands twice the first counts."""
    found: dict[str, str] = {}
    for match in re.finditer(r"(?:^| )([A-Za-z][A-Za-z:/]*)=(\S*)", line):
        found.setdefault(match[1], match[2])
    return found


def _job(id: str, values: Mapping[str, str], source: str) -> Job:
    """A job from the words of SLURM."""
    state, by = base_state(values.get("state", ""))
    restarts = values.get("restarts", "")
    return Job(
        id=id,
        state=state,
        why=known(values.get("why", "")),
        node=known(values.get("node", "")),
        restarts=int(restarts) if restarts.isdecimal() else 0,
        exit_code=_exit_code(values.get("exit_code", "")),
        submitted=moment(values.get("submitted", "")),
        start=moment(values.get("start", "")),
        end=moment(values.get("end", "")),
        name=known(values.get("name", "")),
        by=by,
        source=source,  # type: ignore[arg-type]
    )


def _exit_code(text: str) -> str:
    """squeue writes the status of wait(2), 1792, where the others write "7:0"."""
    return f"{int(text) >> 8}:{int(text) & 127}" if text.isdecimal() else text
