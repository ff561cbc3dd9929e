"""Queries about jobs with squeue, sacct and scontrol, each in one call for many jobs."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from protoseg.slurm.command import SECONDS, Reply, run_command
from protoseg.slurm.jobs import (
    DependentJob,
    Job,
    array_id,
    clean_value,
    expand_ids,
    parse_slurm_time,
    parse_state,
)

IDS_PER_CALL = 5000
"""Array ids in one argument; 5,000 of them take half of what Linux allows."""
MAX_SCONTROL_ARRAYS = 16
"""Most arrays for scontrol, which takes one at a time."""
SEPARATOR = "\x1f"
"""ASCII's unit separator between values. Lines with another number of values are ignored: sites
print banners on standard output, and names may contain newlines."""

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
DEPENDENCIES = {"jobarrayid": "id", "state": "state", "name": "name", "dependency": "dependency"}
"""Columns of squeue for jobs that wait for others."""
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
"""Each command's names for the fields of `Job`."""

UNKNOWN_JOB = re.compile(r"Invalid job id|^Job [0-9_]+ not found", re.MULTILINE)
NO_ANSWER = re.compile(
    r"Unable to contact slurm controller|timed out|Connection refused|no answer in|"
    r"Zero Bytes were transmitted|standby|not connected|not responding",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class QueryResult:
    """The answer of one command."""

    jobs: Mapping[str, list[Job]] = field(default_factory=dict)
    """Id -> its starts, oldest first; squeue and scontrol show only the newest."""
    problem: str = ""
    """Why it did not answer, in one sentence; empty if it answered."""
    is_silent: bool = False
    """Whether the controller did not answer: then other commands get no answer either."""


def is_unknown_job(reply: Reply) -> bool:
    """Return whether a command failed only because SLURM does not know the job."""
    return UNKNOWN_JOB.search(f"{reply.errors}\n{reply.out}") is not None


def query_squeue(wanted: Collection[str]) -> QueryResult:
    """Query the controller for jobs that wait, run, or ended some minutes ago."""
    jobs: dict[str, list[Job]] = {}
    arrays = sorted(set(map(array_id, wanted)))
    for start in range(0, len(arrays), IDS_PER_CALL):
        reply, lines = run_squeue("--jobs=" + ",".join(arrays[start : start + IDS_PER_CALL]))
        if lines is None and is_unknown_job(reply):  # a query for one unknown job fails
            continue
        if lines is None:
            return QueryResult(jobs, reply.problem, NO_ANSWER.search(reply.problem) is not None)
        for values in lines:
            jobs |= {
                id: [_make_job(id, values, "squeue")] for id in expand_ids(values["id"], wanted)
            }
    return QueryResult(jobs)


def run_squeue(
    selection: str, columns: Mapping[str, str] = SQUEUE
) -> tuple[Reply, list[dict[str, str]] | None]:
    """Return one row of values per job or task; None without an answer.

    Args:
        selection: the option that selects jobs.
        columns: squeue's name of a column -> its key in a row.
    """
    fields = ",".join(f"{name}:{SEPARATOR}" for name in columns)
    # --all: partitions may be hidden. All states: squeue shows ended jobs for some minutes.
    command = ["squeue", "--all", "--array", "--states=all", selection, f"--Format={fields}"]
    reply = run_command(command)
    return _parse_rows(reply, (*columns.values(), ""))


def query_dependent_jobs(name: str) -> tuple[str, list[DependentJob]]:
    """Query the controller for jobs of one name that wait or run.

    Returns:
        Why it did not answer, or an empty text; and the jobs, oldest first.
    """
    reply, lines = run_squeue(f"--name={name}", DEPENDENCIES)
    if lines is None:
        return reply.problem, []
    jobs = []
    for values in lines:
        job = _make_job(values["id"], values, "squeue")
        if job.name == name and not job.has_ended:
            # For example "afterany:12_*(unfulfilled),afterany:13(unfulfilled)".
            waits_for = frozenset(re.findall(r"\b[0-9]+", values["dependency"]))
            jobs.append(DependentJob(job.id, job.is_waiting, waits_for))
    return "", sorted(jobs, key=lambda job: int(array_id(job.id)))


def query_sacct(ids: Collection[str], wanted: Collection[str]) -> QueryResult:
    """Query accounting for jobs, each with all its starts.

    Args:
        ids: arrays or single tasks for the command line.
        wanted: ids of the jobs to return.
    """
    jobs: dict[str, list[Job]] = {}
    sorted_ids = sorted(ids)
    for start in range(0, len(sorted_ids), IDS_PER_CALL):
        reply, lines = run_sacct("--jobs=" + ",".join(sorted_ids[start : start + IDS_PER_CALL]))
        if lines is None:
            return QueryResult(jobs, reply.problem)
        for values in lines:
            for id in expand_ids(values["id"], wanted):
                jobs.setdefault(id, []).append(_make_job(id, values, "sacct"))
        # An array that was cancelled before any task ran is one row without tasks.
        arrays = {values["id"]: values for values in lines if values["id"].isdecimal()}
        for id in wanted:
            if id not in jobs and array_id(id) in arrays:
                jobs[id] = [_make_job(id, arrays[array_id(id)], "sacct")]
    for id, starts in jobs.items():
        # SLURM reuses job numbers after years; the newest job counts.
        starts.sort(key=lambda job: job.submitted)
        jobs[id] = [replace(job, restarts=n) for n, job in enumerate(starts)]
    return QueryResult(jobs)


def wait_for_end_in_sacct(id: str, seconds: float) -> Job | None:
    """Return the end of a job that is being stopped, from accounting; None if it is unknown.

    Accounting shows the end one or two seconds later, so the query is repeated for half of the
    given seconds. A pending start is already the next one.
    """
    end, last_query = time.monotonic() + seconds, time.monotonic() + seconds / 2
    while (left := end - time.monotonic()) > 0:
        _, lines = run_sacct(f"--jobs={id}", seconds=left)
        if lines is None:
            return None
        jobs = [_make_job(id, values, "sacct") for values in lines if values["id"] == id]
        started = sorted((j for j in jobs if j.state != "PENDING"), key=lambda job: job.submitted)
        if started and not started[-1].is_active:
            return started[-1]
        if time.monotonic() > last_query:
            return None
        time.sleep(0.3)
    return None


def run_sacct(
    *selection: str, seconds: float = SECONDS
) -> tuple[Reply, list[dict[str, str]] | None]:
    """Return one row of values per job and start; None if accounting did not answer."""
    # All users: two people may share one runs folder.
    command = ["sacct", "--allusers", "--allocations", "--duplicates", "--parsable2", *selection,
               f"--delimiter={SEPARATOR}", "--format=" + ",".join(SACCT)]  # fmt: skip
    return _parse_rows(run_command(command, seconds), tuple(SACCT.values()))


def _parse_rows(reply: Reply, names: tuple[str, ...]) -> tuple[Reply, list[dict[str, str]] | None]:
    """Return the rows of an answer with the expected number of values, without the heading.

    Without a heading there is no answer: a site's wrapper may ignore the options of the command.
    """
    if not reply.is_ok:
        return reply, None
    lines = [line.split(SEPARATOR) for line in reply.out.split("\n")]
    rows = [line for line in lines if len(line) == len(names)]
    if not rows:
        problem = f"{reply.command}: the output does not have the requested columns"
        return replace(reply, problem=problem), None
    return reply, [dict(zip(names, map(str.strip, row), strict=True)) for row in rows if row[0]][1:]


def query_scontrol(wanted: Collection[str]) -> QueryResult:
    """Query scontrol for jobs, of a few arrays at most: it takes one array at a time."""
    jobs: dict[str, list[Job]] = {}
    arrays = sorted(set(map(array_id, wanted)))
    for array in arrays[:MAX_SCONTROL_ARRAYS]:
        reply = show_job(array)
        if not reply.is_ok and not is_unknown_job(reply):
            return QueryResult(jobs, reply.problem, is_silent=True)
        jobs |= {id: [job] for id, job, _ in parse_scontrol(reply.out, wanted)}
    left = len(arrays) - MAX_SCONTROL_ARRAYS
    return QueryResult(jobs, f"scontrol: {left} arrays not queried" if left > 0 else "")


def show_job(id: str, seconds: float = SECONDS) -> Reply:
    """Run ``scontrol show job`` for a job or array."""
    return run_command(["scontrol", "--all", "--oneliner", "show", "job", id], seconds)


def parse_scontrol(out: str, wanted: Collection[str]) -> Iterator[tuple[str, Job, dict[str, str]]]:
    """Yield (id, job, all values) for wanted jobs in ``scontrol --oneliner show job``."""
    for line in out.split("\n"):
        if not line.startswith("JobId="):
            continue
        values = parse_pairs(line)
        id, task = values["JobId"], values.get("ArrayTaskId", "")
        if task:
            array = values.get("ArrayJobId", "")
            id = f"{array}_{task}" if task.isdecimal() else f"{array}_[{task}]"
        fields = {name: values[key] for key, name in SCONTROL.items() if key in values}
        for wanted_id in expand_ids(id, wanted):
            yield wanted_id, _make_job(wanted_id, fields, "scontrol"), values


def parse_pairs(line: str) -> dict[str, str]:
    """Return the ``Key=value`` pairs of a line; the first value of a repeated key counts."""
    values: dict[str, str] = {}
    for match in re.finditer(r"(?:^| )([A-Za-z][A-Za-z:/]*)=(\S*)", line):
        values.setdefault(match[1], match[2])
    return values


def _make_job(id: str, values: Mapping[str, str], source: str) -> Job:
    """Make a job from SLURM's values."""
    state, by = parse_state(values.get("state", ""))
    restarts = values.get("restarts", "")
    return Job(
        id=id,
        state=state,
        why=clean_value(values.get("why", "")),
        node=clean_value(values.get("node", "")),
        restarts=int(restarts) if restarts.isdecimal() else 0,
        exit_code=_exit_code(values.get("exit_code", "")),
        submitted=parse_slurm_time(values.get("submitted", "")),
        start=parse_slurm_time(values.get("start", "")),
        end=parse_slurm_time(values.get("end", "")),
        name=clean_value(values.get("name", "")),
        by=by,
        source=source,  # type: ignore[arg-type]
    )


def _exit_code(text: str) -> str:
    """Convert squeue's wait(2) status (1792) to the form of the other commands ("7:0")."""
    return f"{int(text) >> 8}:{int(text) & 127}" if text.isdecimal() else text
