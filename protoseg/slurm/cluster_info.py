"""What a cluster is like: versions, limits, preemption, partitions, clocks."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from protoseg.slurm.command import Reply, call, installed
from protoseg.slurm.jobs import known
from protoseg.slurm.queries import SEPARATOR, ask_sacct, pairs

SINFO = ("partition", "nodes", "gres", "statelong")
"""Columns asked of sinfo: one line a group of like nodes."""
UP = {"idle", "mixed", "allocated", "completing", "planned", "reserved"}
"""States of nodes that take jobs, now or when there is room."""


@dataclass(frozen=True)
class Partition:
    """A partition as its users see it."""

    name: str
    state: str
    """UP, DOWN, DRAIN or INACTIVE."""
    default: bool
    time_limit: str
    """As SLURM writes it: "2-00:00:00", "UNLIMITED"."""
    grace_seconds: int
    """Between the signal of a preemption and its end."""
    preempt_mode: str
    """What happens to preempted jobs of this partition: OFF, REQUEUE, CANCEL, SUSPEND."""
    nodes: int = 0
    nodes_up: int = 0
    gpus: tuple[str, ...] = ()
    """Kinds of GPUs a node has, as in ``--gres``: "gpu:a100:8", "gpu:8"."""


@dataclass(frozen=True)
class Site:
    """Facts of a cluster; None or empty where they could not be asked."""

    reachable: bool
    problem: str = ""
    """Why the controller could not be asked."""
    version: str = ""
    name: str = ""
    max_array_size: int | None = None
    """One more than the highest index that an array may have."""
    max_job_count: int | None = None
    """Jobs and array tasks that the controller keeps at once."""
    min_job_age_seconds: int | None = None
    """How long the controller remembers a job that has ended."""
    has_accounting: bool = False
    """sacct answers."""
    accounting_problem: str = ""
    job_requeue: bool | None = None
    """Jobs are requeued unless they say otherwise."""
    preempt_type: str = ""
    preempt_mode: str = ""
    send_user_signal: bool | None = None
    """A job that is preempted gets the signal of its ``--signal`` first."""
    kill_wait_seconds: int | None = None
    """Between SIGTERM and SIGKILL."""
    clock_ahead_seconds: float | None = None
    """By how much the controller's clock is ahead of this machine's, to a second or so."""
    partitions: tuple[Partition, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    """All that ``scontrol show config`` lists."""


def array_limit() -> int | None:
    """`Site.max_array_size` in one call; None where the controller does not answer."""
    settings = _settings(call(["scontrol", "show", "config"]).out)
    return _number(settings.get("MaxArraySize", ""))


def cluster_name() -> str:
    """The name of the cluster that answers here; empty where none does."""
    return _settings(call(["scontrol", "show", "config"]).out).get("ClusterName", "")


def site() -> Site:
    """Ask the controller and accounting, in four short calls. Never raises."""
    before = time.time()
    reply = call(["scontrol", "show", "config"])
    after = time.time()
    settings = _settings(reply.out)
    if "SLURM_VERSION" not in settings:  # 22.05 ends with status 0 when nobody answers
        problem = reply.problem or reply.errors.strip() or "scontrol shows no configuration"
        return Site(reachable=False, problem=problem)
    accounting, problem = _accounting(settings)
    parameters = re.split(r"[,\s]+", settings.get("PreemptParameters", "").lower())
    return Site(
        reachable=True,
        version=settings.get("SLURM_VERSION", ""),
        name=settings.get("ClusterName", ""),
        max_array_size=_number(settings.get("MaxArraySize", "")),
        max_job_count=_number(settings.get("MaxJobCount", "")),
        min_job_age_seconds=_number(settings.get("MinJobAge", "")),
        has_accounting=accounting,
        accounting_problem=problem,
        job_requeue=settings["JobRequeue"] == "1" if "JobRequeue" in settings else None,
        preempt_type=settings.get("PreemptType", ""),
        preempt_mode=settings.get("PreemptMode", ""),
        send_user_signal="send_user_signal" in parameters,
        kill_wait_seconds=_number(settings.get("KillWait", "")),
        clock_ahead_seconds=_clock(reply.out, before, after),
        partitions=_partitions(),
        settings=settings,
    )


def _settings(out: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in out.split("\n"):
        match = re.match(r"([A-Za-z][A-Za-z_0-9\[\]]*)\s*= ?(.*)", line)
        if match:
            found.setdefault(match[1], match[2].strip())
    return found


def _number(text: str) -> int | None:
    """ "300 sec" -> 300."""
    match = re.match(r"[0-9]+", text)
    return int(match[0]) if match else None


def _clock(out: str, before: float, after: float) -> float | None:
    """The controller prints its time when it answers, without fractions, between two of ours."""
    match = re.search(r"Configuration data as of ([0-9T:-]{19})", out)
    if match is None:
        return None
    there = datetime.datetime.fromisoformat(f"{match[1]}+00:00").timestamp()
    if there > after:
        return round(there - after, 1)
    return round(min(0.0, there + 1 - before), 1)


def _accounting(settings: Mapping[str, str]) -> tuple[bool, str]:
    """Whether sacct answers, and why not."""
    if settings.get("AccountingStorageType", "").endswith("/none"):
        return False, "SLURM keeps no accounting here"
    if not installed("sacct"):
        return False, "no sacct on this machine"
    reply, lines = ask_sacct("--jobs=1")
    return lines is not None, reply.problem


def _partitions() -> tuple[Partition, ...]:
    reply = call(["scontrol", "--all", "--oneliner", "show", "partition"])
    groups = _groups(call(["sinfo", "--all", "--Format=" + ",".join(
        f"{column}:{SEPARATOR}" for column in SINFO)]))  # fmt: skip
    found = []
    for line in reply.out.split("\n"):
        if not line.startswith("PartitionName="):
            continue
        values = pairs(line)
        name = values["PartitionName"]
        own = [group for group in groups if group["partition"].rstrip("*") == name]
        found.append(
            Partition(
                name=name,
                state=values.get("State", ""),
                default=values.get("Default") == "YES",
                time_limit=values.get("MaxTime", ""),
                grace_seconds=_number(values.get("GraceTime", "")) or 0,
                preempt_mode=values.get("PreemptMode", ""),
                nodes=sum(int(group["nodes"]) for group in own),
                nodes_up=sum(int(g["nodes"]) for g in own if g["statelong"] in UP),
                gpus=tuple(dict.fromkeys(gpu for group in own for gpu in _gpus(group["gres"]))),
            )
        )
    return tuple(found)


def _groups(reply: Reply) -> list[dict[str, str]]:
    lines = (line.split(SEPARATOR) for line in reply.out.split("\n"))
    fitting = [line for line in lines if len(line) == len(SINFO) + 1]
    groups = [dict(zip(SINFO, map(str.strip, line[:-1]), strict=True)) for line in fitting[1:]]
    return [group for group in groups if group["nodes"].isdecimal()]


def _gpus(gres: str) -> list[str]:
    """ "gpu:a100:8(S:0-1),nvme:1" -> ["gpu:a100:8"]."""
    return re.findall(r"\bgpu(?::[A-Za-z0-9_.-]+)?:[0-9]+", known(gres))
