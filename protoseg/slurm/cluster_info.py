"""Facts about a cluster: version, limits, preemption, partitions, clock offset."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from protoseg.slurm.command import Reply, is_installed, run_command
from protoseg.slurm.jobs import clean_value
from protoseg.slurm.queries import SEPARATOR, parse_pairs, run_sacct

SINFO = ("partition", "nodes", "gres", "statelong")
"""Columns of sinfo; each line is a group of equal nodes."""
UP = {"idle", "mixed", "allocated", "completing", "planned", "reserved"}
"""States of nodes that accept jobs, now or when they have room."""


@dataclass(frozen=True)
class Partition:
    """A partition as its users see it."""

    name: str
    state: str
    """UP, DOWN, DRAIN or INACTIVE."""
    default: bool
    time_limit: str
    """In SLURM's form: "2-00:00:00", "UNLIMITED"."""
    grace_seconds: int
    """Time between the signal of a preemption and the end of the job."""
    preempt_mode: str
    """Treatment of preempted jobs: OFF, REQUEUE, CANCEL, SUSPEND."""
    nodes: int = 0
    nodes_up: int = 0
    gpus: tuple[str, ...] = ()
    """GPUs of a node in the form of ``--gres``: "gpu:a100:8", "gpu:8"."""


@dataclass(frozen=True)
class ClusterInfo:
    """Facts about a cluster; None or empty if they are unknown."""

    reachable: bool
    problem: str = ""
    """Why the controller did not answer."""
    version: str = ""
    name: str = ""
    max_array_size: int | None = None
    """Highest allowed index of a job array, plus one."""
    max_job_count: int | None = None
    """Most jobs and array tasks that the controller keeps at once."""
    min_job_age_seconds: int | None = None
    """How long the controller remembers an ended job."""
    has_accounting: bool = False
    """Whether sacct answers."""
    accounting_problem: str = ""
    job_requeue: bool | None = None
    """Whether jobs are requeued by default."""
    preempt_type: str = ""
    preempt_mode: str = ""
    send_user_signal: bool | None = None
    """Whether a preempted job first gets the signal of its ``--signal`` option."""
    kill_wait_seconds: int | None = None
    """Time between SIGTERM and SIGKILL."""
    clock_ahead_seconds: float | None = None
    """How far the controller's clock is ahead of this machine's, to about a second."""
    partitions: tuple[Partition, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    """All settings of ``scontrol show config``."""


def read_array_limit() -> int | None:
    """Return `Site.max_array_size` with one call; None if the controller does not answer."""
    settings = _parse_settings(run_command(["scontrol", "show", "config"]).out)
    return _parse_number(settings.get("MaxArraySize", ""))


def read_cluster_name() -> str:
    """Return the name of this machine's cluster; empty if no controller answers."""
    return _parse_settings(run_command(["scontrol", "show", "config"]).out).get("ClusterName", "")


def query_cluster() -> ClusterInfo:
    """Query the controller and accounting with four short calls. Never raises."""
    before = time.time()
    reply = run_command(["scontrol", "show", "config"])
    after = time.time()
    settings = _parse_settings(reply.out)
    if "SLURM_VERSION" not in settings:  # SLURM 22.05 exits with 0 if no controller answers
        problem = reply.problem or reply.errors.strip() or "scontrol prints no configuration"
        return ClusterInfo(reachable=False, problem=problem)
    accounting, problem = _check_accounting(settings)
    parameters = re.split(r"[,\s]+", settings.get("PreemptParameters", "").lower())
    return ClusterInfo(
        reachable=True,
        version=settings.get("SLURM_VERSION", ""),
        name=settings.get("ClusterName", ""),
        max_array_size=_parse_number(settings.get("MaxArraySize", "")),
        max_job_count=_parse_number(settings.get("MaxJobCount", "")),
        min_job_age_seconds=_parse_number(settings.get("MinJobAge", "")),
        has_accounting=accounting,
        accounting_problem=problem,
        job_requeue=settings["JobRequeue"] == "1" if "JobRequeue" in settings else None,
        preempt_type=settings.get("PreemptType", ""),
        preempt_mode=settings.get("PreemptMode", ""),
        send_user_signal="send_user_signal" in parameters,
        kill_wait_seconds=_parse_number(settings.get("KillWait", "")),
        clock_ahead_seconds=_measure_clock_offset(reply.out, before, after),
        partitions=_list_partitions(),
        settings=settings,
    )


def _parse_settings(out: str) -> dict[str, str]:
    settings: dict[str, str] = {}
    for line in out.split("\n"):
        match = re.match(r"([A-Za-z][A-Za-z_0-9\[\]]*)\s*= ?(.*)", line)
        if match:
            settings.setdefault(match[1], match[2].strip())
    return settings


def _parse_number(text: str) -> int | None:
    """ "300 sec" -> 300."""
    match = re.match(r"[0-9]+", text)
    return int(match[0]) if match else None


def _measure_clock_offset(out: str, before: float, after: float) -> float | None:
    """Return how far the controller's clock is ahead, from its output in whole seconds.

    Args:
        before, after: this machine's time before and after the call.
    """
    match = re.search(r"Configuration data as of ([0-9T:-]{19})", out)
    if match is None:
        return None
    remote = datetime.datetime.fromisoformat(f"{match[1]}+00:00").timestamp()
    if remote > after:
        return round(remote - after, 1)
    return round(min(0.0, remote + 1 - before), 1)


def _check_accounting(settings: Mapping[str, str]) -> tuple[bool, str]:
    """Return whether sacct answers, and otherwise the reason."""
    if settings.get("AccountingStorageType", "").endswith("/none"):
        return False, "this SLURM has no accounting"
    if not is_installed("sacct"):
        return False, "no sacct on this machine"
    reply, lines = run_sacct("--jobs=1")
    return lines is not None, reply.problem


def _list_partitions() -> tuple[Partition, ...]:
    reply = run_command(["scontrol", "--all", "--oneliner", "show", "partition"])
    groups = _parse_node_groups(run_command(["sinfo", "--all", "--Format=" + ",".join(
        f"{column}:{SEPARATOR}" for column in SINFO)]))  # fmt: skip
    partitions = []
    for line in reply.out.split("\n"):
        if not line.startswith("PartitionName="):
            continue
        values = parse_pairs(line)
        name = values["PartitionName"]
        own = [group for group in groups if group["partition"].rstrip("*") == name]
        partitions.append(
            Partition(
                name=name,
                state=values.get("State", ""),
                default=values.get("Default") == "YES",
                time_limit=values.get("MaxTime", ""),
                grace_seconds=_parse_number(values.get("GraceTime", "")) or 0,
                preempt_mode=values.get("PreemptMode", ""),
                nodes=sum(int(group["nodes"]) for group in own),
                nodes_up=sum(int(g["nodes"]) for g in own if g["statelong"] in UP),
                gpus=tuple(
                    dict.fromkeys(gpu for group in own for gpu in _parse_gpus(group["gres"]))
                ),
            )
        )
    return tuple(partitions)


def _parse_node_groups(reply: Reply) -> list[dict[str, str]]:
    lines = (line.split(SEPARATOR) for line in reply.out.split("\n"))
    rows = [line for line in lines if len(line) == len(SINFO) + 1]
    groups = [dict(zip(SINFO, map(str.strip, row[:-1]), strict=True)) for row in rows[1:]]
    return [group for group in groups if group["nodes"].isdecimal()]


def _parse_gpus(gres: str) -> list[str]:
    """ "gpu:a100:8(S:0-1),nvme:1" -> ["gpu:a100:8"]."""
    return re.findall(r"\bgpu(?::[A-Za-z0-9_.-]+)?:[0-9]+", clean_value(gres))
