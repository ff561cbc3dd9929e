"""The cluster part of ``doctor``: what SLURM here can do, and what that means for sweeps."""

from __future__ import annotations

import shutil
from pathlib import Path

from protoseg.cli.commands.finding import CheckState, Finding
from protoseg.errors import ProtosegError
from protoseg.runs.claim import STALE_SECONDS
from protoseg.slurm.cluster_info import Partition, Site, site
from protoseg.slurm.probe import PARTITION, probe

SMALL_SKEW = 5.0
"""Seconds that clocks may differ without a word."""
LARGE_SKEW = STALE_SECONDS / 2
"""From here on a heartbeat that is fine may look old, and an old one fine."""


def slurm(runs: Path, probe_partition: str | None = None) -> list[Finding]:
    """All findings about the cluster.

    Args:
        runs: the folder of the run folders, which a probe job looks for.
        probe_partition: where to run a probe job, "" for SLURM's default; None: no probe.
    """
    if shutil.which("sbatch") is None:
        todo = "Only needed for sweeps on a cluster; runs on this machine do without."
        findings = [Finding("SLURM", "absent", "no sbatch on this machine", todo)]
    else:
        here = site()
        findings = _cluster(here) if here.reachable else [_silent(here)]
        if here.reachable and probe_partition is not None:
            findings += _probe(runs, probe_partition, here)
            return findings
    if probe_partition is not None:
        todo = "Run it where sbatch works, e.g. on a login node."
        findings.append(Finding("SLURM: probe job", "broken", "no cluster to submit it to", todo))
    return findings


def _silent(here: Site) -> Finding:
    if "configuration source" in here.problem:
        todo = "Set SLURM_CONF, or use a login node; runs on this machine do without."
        return Finding("SLURM", "absent", "installed, but no cluster is configured", todo)
    todo = "Submitted jobs go on. Try again in some minutes; if it stays so, ask the site."
    return Finding("SLURM", "broken", f"the controller does not answer: {here.problem}", todo)


def _cluster(here: Site) -> list[Finding]:
    return [
        Finding("SLURM", "ok", f"{here.version}, cluster {here.name}, the controller answers"),
        _accounting(here),
        _limits(here),
        _requeue(here),
        _preemption(here),
        *(_partition(partition) for partition in here.partitions),
        *_clock("SLURM: clock of the controller", here.clock_ahead_seconds),
    ]


def _accounting(here: Site) -> Finding:
    subject = "SLURM: accounting"
    if here.has_accounting:
        return Finding(subject, "ok", "sacct answers: ends of jobs are known for long")
    memory = here.min_job_age_seconds
    known = f"for {memory} s after it (MinJobAge)" if memory else "for a short time after it"
    todo = (
        f"Sweeps do without: the end of a job is known {known}, later a killed job is found lost, "
        "and who cancelled or requeued it stays unknown."
    )
    return Finding(subject, "absent", here.accounting_problem or "sacct does not answer", todo)


def _limits(here: Site) -> Finding:
    subject = "SLURM: job arrays"
    if here.max_array_size == 0:
        todo = "Sweeps need arrays; ask the site to raise MaxArraySize."
        return Finding(subject, "broken", "switched off (MaxArraySize=0)", todo)
    size = "unknown" if here.max_array_size is None else str(here.max_array_size)
    jobs = "unknown" if here.max_job_count is None else str(here.max_job_count)
    return Finding(
        subject,
        "ok",
        f"MaxArraySize {size} (longer sweeps are cut into several), MaxJobCount {jobs}",
    )


def _requeue(here: Site) -> Finding:
    subject = "SLURM: requeue"
    if here.job_requeue is False:
        return Finding(subject, "ok", "JobRequeue=0: only jobs that ask for it, as sweeps do")
    return Finding(subject, "ok", "JobRequeue=1: jobs that lost their node start again")


def _preemption(here: Site) -> Finding:
    subject = "SLURM: preemption"
    if here.preempt_type in ("", "preempt/none", "(null)"):
        return Finding(subject, "ok", "none: jobs keep their nodes")
    graces = sorted({partition.grace_seconds for partition in here.partitions}) or [0]
    grace = f"{graces[0]}" if len(graces) == 1 else f"{graces[0]} to {graces[-1]}"
    signal = "their --signal first" if here.send_user_signal else "SIGTERM alone"
    found = (
        f"{here.preempt_type}, mode {here.preempt_mode}; jobs get {signal}; GraceTime {grace} s, "
        f"KillWait {here.kill_wait_seconds} s"
    )
    todo = ""
    if here.preempt_mode.startswith(("CANCEL", "OFF")) or (graces == [0] and _short(here)):
        todo = "A run may lose what it did since its last checkpoint: keep checkpoint_seconds low."
    if "SUSPEND" in here.preempt_mode:
        todo = "Suspended runs keep their memory and go on later; their heartbeat stops meanwhile."
    return Finding(subject, "ok", found, todo)


def _short(here: Site) -> bool:
    """Whether a large checkpoint may take longer to write than SLURM waits."""
    return here.kill_wait_seconds is not None and here.kill_wait_seconds < 30


def _partition(partition: Partition) -> Finding:
    name = f"SLURM: partition {partition.name}"
    parts = [
        f"{partition.nodes_up} of {partition.nodes} nodes up",
        f"limit {partition.time_limit}",
        ", ".join(partition.gpus) or "no GPUs",
    ]
    if partition.default:
        parts.append("the default")
    if partition.preempt_mode not in ("", "OFF"):
        parts.append(f"preempted jobs: {partition.preempt_mode}")
    found = "; ".join(parts)
    if partition.state != "UP":
        todo = "Jobs wait or are refused here; use another partition."
        return Finding(name, "absent", f"{partition.state}; {found}", todo)
    if partition.nodes and not partition.nodes_up:
        return Finding(name, "absent", found, "Jobs wait here until nodes come back.")
    return Finding(name, "ok", found)


def _clock(subject: str, ahead: float | None) -> list[Finding]:
    if ahead is None:
        return []
    if abs(ahead) < 1:
        return [Finding(subject, "ok", "agrees with this machine's to a second")]
    found = f"{abs(ahead):g} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    if abs(ahead) <= SMALL_SKEW:
        return [Finding(subject, "ok", found)]
    if abs(ahead) < LARGE_SKEW:
        todo = "Times in status are off by as much. Ask the site to synchronise clocks (NTP)."
        return [Finding(subject, "absent", found, todo)]
    todo = (
        "Heartbeats of runs would be misjudged: do not sweep until clocks are synchronised (NTP)."
    )
    return [Finding(subject, "broken", found, todo)]


LACKING: dict[str, tuple[CheckState, str]] = {
    "srun": (
        "broken",
        "It starts the workers; ask the site for SLURM's commands on its nodes.",
    ),
    "scontrol": ("absent", "Without it a run that was cut off waits for the next sweep."),
    "protoseg": ("broken", "Put the checkout and its .venv on a disk that the nodes see."),
}


def _lacking(node: str, names: tuple[str, ...]) -> list[Finding]:
    """What a node does not have, and what follows from that."""
    return [
        Finding(f"SLURM: {name} on {node}", state, "not there, or does not start", todo)
        for name in names
        for state, todo in [LACKING[name]]
    ]


def _probe(runs: Path, partition: str, here: Site) -> list[Finding]:
    """A job that reads and writes in the run folders."""
    subject = "SLURM: probe job"
    names = [known.name for known in here.partitions]
    if partition and (not PARTITION.fullmatch(partition) or (names and partition not in names)):
        todo = f"Partitions: {', '.join(names)}."
        return [Finding(subject, "broken", f"no partition '{partition}'", todo)]
    try:
        found = probe(runs, partition)
    except ProtosegError as error:
        return [Finding(subject, "broken", str(error), "Put this right and probe again.")]
    if found.node:
        seen = f"job {found.job} on {found.node} reads and writes {runs}"
        clock = _clock(f"SLURM: clock of {found.node}", found.clock_ahead_seconds)
        return [Finding(subject, "ok", seen), *_lacking(found.node, found.lacks), *clock]
    if not found.started:
        todo = (
            "It was cancelled; this says nothing about the nodes. Try another partition, or later."
        )
        return [Finding(subject, "absent", f"job {found.job}: {found.problem}", todo)]
    todo = (
        f"Nodes may not see {runs}: choose a folder on a disk that login nodes and nodes share, "
        "with --runs or PROTOSEG_RUNS."
    )
    return [Finding(subject, "broken", f"job {found.job}: {found.problem}", todo)]
