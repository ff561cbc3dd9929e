"""The checks of ``protoseg doctor`` that ask SLURM."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from protoseg.errors import ProtosegError
from protoseg.runs.claim import STALE_SECONDS
from protoseg.slurm.cluster_info import ClusterInfo, Partition, query_cluster
from protoseg.slurm.probe import PARTITION, run_probe_job

CheckState = Literal["ok", "absent", "broken"]
SMALL_SKEW = 5.0
"""Clock difference in seconds up to which no warning is given."""
LARGE_SKEW = STALE_SECONDS / 2
"""Clock difference in seconds from which the age of a heartbeat is misjudged."""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        state: ``absent``: some features are unavailable; ``broken``: protoseg does not work.
        found: what was found.
        todo: what to do; empty if nothing.
    """

    subject: str
    state: CheckState
    found: str
    todo: str = ""


def check_slurm(runs: Path, probe_partition: str | None = None) -> list[Finding]:
    """Check the cluster.

    Args:
        runs: the folder of run folders, which a probe job accesses.
        probe_partition: partition for a probe job, "" for SLURM's default; None: no probe.
    """
    if shutil.which("sbatch") is None:
        todo = "Needed only for sweeps on a cluster, not for runs on this machine."
        findings = [Finding("SLURM", "absent", "no sbatch on this machine", todo)]
    else:
        cluster = query_cluster()
        if not cluster.reachable:
            findings = [_unreachable_cluster(cluster)]
        else:
            findings = _check_cluster(cluster)
            if probe_partition is not None:
                return findings + _run_probe(runs, probe_partition, cluster)
    if probe_partition is not None:
        todo = "Run it where sbatch works, e.g. on a login node."
        findings.append(Finding("SLURM: probe job", "broken", "no cluster to submit it to", todo))
    return findings


def _unreachable_cluster(cluster: ClusterInfo) -> Finding:
    if "configuration source" in cluster.problem:
        todo = "Set SLURM_CONF, or use a login node. Runs on this machine do not need it."
        return Finding("SLURM", "absent", "installed, but no cluster is configured", todo)
    todo = "Submitted jobs continue. Try again in some minutes, then ask the administrators."
    return Finding("SLURM", "broken", f"the controller does not answer: {cluster.problem}", todo)


def _check_cluster(cluster: ClusterInfo) -> list[Finding]:
    version = f"{cluster.version}, cluster {cluster.name}, the controller answers"
    return [
        Finding("SLURM", "ok", version),
        _check_accounting(cluster),
        _check_array_limits(cluster),
        _check_requeue(cluster),
        _check_preemption(cluster),
        *(_check_partition(partition) for partition in cluster.partitions),
        *_check_clock("SLURM: clock of the controller", cluster.clock_ahead_seconds),
    ]


def _check_accounting(cluster: ClusterInfo) -> Finding:
    subject = "SLURM: accounting"
    if cluster.has_accounting:
        return Finding(subject, "ok", "sacct answers: the ends of old jobs are known")
    memory = cluster.min_job_age_seconds
    period = f"for {memory} s after it (MinJobAge)" if memory else "for a short time after it"
    todo = (
        f"Sweeps work without it. The end of a job is known {period}; after that, a killed job is "
        "reported as lost, without who cancelled or requeued it."
    )
    return Finding(subject, "absent", cluster.accounting_problem or "sacct does not answer", todo)


def _check_array_limits(cluster: ClusterInfo) -> Finding:
    subject = "SLURM: job arrays"
    if cluster.max_array_size == 0:
        todo = "Sweeps need job arrays. Ask the administrators to raise MaxArraySize."
        return Finding(subject, "broken", "switched off (MaxArraySize=0)", todo)
    size = "unknown" if cluster.max_array_size is None else str(cluster.max_array_size)
    jobs = "unknown" if cluster.max_job_count is None else str(cluster.max_job_count)
    return Finding(
        subject,
        "ok",
        f"MaxArraySize {size} (longer sweeps are divided), MaxJobCount {jobs}",
    )


def _check_requeue(cluster: ClusterInfo) -> Finding:
    subject = "SLURM: requeue"
    if cluster.job_requeue is False:
        return Finding(subject, "ok", "JobRequeue=0: only for jobs that request it, as sweeps do")
    return Finding(subject, "ok", "JobRequeue=1: jobs start again after a node failure")


def _check_preemption(cluster: ClusterInfo) -> Finding:
    subject = "SLURM: preemption"
    if cluster.preempt_type in ("", "preempt/none", "(null)"):
        return Finding(subject, "ok", "none: jobs keep their nodes")
    graces = sorted({partition.grace_seconds for partition in cluster.partitions}) or [0]
    grace = f"{graces[0]}" if len(graces) == 1 else f"{graces[0]} to {graces[-1]}"
    signal = "their --signal first" if cluster.send_user_signal else "SIGTERM alone"
    text = (
        f"{cluster.preempt_type}, mode {cluster.preempt_mode}; jobs get {signal}; "
        f"GraceTime {grace} s, KillWait {cluster.kill_wait_seconds} s"
    )
    todo = ""
    ends_jobs = cluster.preempt_mode.startswith(("CANCEL", "OFF"))
    if ends_jobs or (graces == [0] and _is_kill_wait_short(cluster)):
        todo = "A run may lose its work since the last checkpoint: keep checkpoint_seconds low."
    if "SUSPEND" in cluster.preempt_mode:
        todo = "Suspended runs keep their memory and continue later, without a heartbeat meanwhile."
    return Finding(subject, "ok", text, todo)


def _is_kill_wait_short(cluster: ClusterInfo) -> bool:
    """Whether writing a large checkpoint may take longer than SLURM waits."""
    return cluster.kill_wait_seconds is not None and cluster.kill_wait_seconds < 30


def _check_partition(partition: Partition) -> Finding:
    subject = f"SLURM: partition {partition.name}"
    parts = [
        f"{partition.nodes_up} of {partition.nodes} nodes up",
        f"limit {partition.time_limit}",
        ", ".join(partition.gpus) or "no GPUs",
    ]
    if partition.default:
        parts.append("the default")
    if partition.preempt_mode not in ("", "OFF"):
        parts.append(f"preempted jobs: {partition.preempt_mode}")
    text = "; ".join(parts)
    if partition.state != "UP":
        todo = "Jobs wait or are refused. Use another partition."
        return Finding(subject, "absent", f"{partition.state}; {text}", todo)
    if partition.nodes and not partition.nodes_up:
        return Finding(subject, "absent", text, "Jobs wait until nodes are up.")
    return Finding(subject, "ok", text)


def _check_clock(subject: str, ahead: float | None) -> list[Finding]:
    """Compare a clock with that of this machine.

    Args:
        ahead: difference in seconds; None: unknown.
    """
    if ahead is None:
        return []
    if abs(ahead) < 1:
        return [Finding(subject, "ok", "differs from this machine's by less than 1 s")]
    text = f"{abs(ahead):g} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    if abs(ahead) <= SMALL_SKEW:
        return [Finding(subject, "ok", text)]
    if abs(ahead) < LARGE_SKEW:
        todo = "Times in status are wrong by this much. Ask for synchronised clocks (NTP)."
        return [Finding(subject, "absent", text, todo)]
    todo = (
        "Heartbeats of runs would be misjudged. Do not sweep until clocks are synchronised (NTP)."
    )
    return [Finding(subject, "broken", text, todo)]


MISSING_COMMANDS: dict[str, tuple[CheckState, str]] = {
    "srun": (
        "broken",
        "It starts the workers. Ask the administrators for SLURM's commands on the nodes.",
    ),
    "scontrol": ("absent", "Without it, an interrupted run waits for the next sweep."),
    "protoseg": ("broken", "Put the checkout and its .venv on a disk that the nodes share."),
}
"""Command -> consequence if a node does not have it, and what to do."""


def _missing_commands(node: str, names: tuple[str, ...]) -> list[Finding]:
    return [
        Finding(f"SLURM: {name} on {node}", state, "missing, or does not start", todo)
        for name in names
        for state, todo in [MISSING_COMMANDS[name]]
    ]


def _run_probe(runs: Path, partition: str, cluster: ClusterInfo) -> list[Finding]:
    """Submit a job that reads and writes in the folder of run folders."""
    subject = "SLURM: probe job"
    names = [known.name for known in cluster.partitions]
    if partition and (not PARTITION.fullmatch(partition) or (names and partition not in names)):
        todo = f"Partitions: {', '.join(names)}."
        return [Finding(subject, "broken", f"no partition '{partition}'", todo)]
    try:
        result = run_probe_job(runs, partition)
    except ProtosegError as error:
        return [Finding(subject, "broken", str(error), "Correct this and run the probe again.")]
    if result.node:
        text = f"job {result.job} on {result.node} reads and writes {runs}"
        clock = _check_clock(f"SLURM: clock of {result.node}", result.clock_ahead_seconds)
        missing = _missing_commands(result.node, result.lacks)
        return [Finding(subject, "ok", text), *missing, *clock]
    if not result.started:
        todo = "It did not start and was cancelled. Try another partition, or later."
        return [Finding(subject, "absent", f"job {result.job}: {result.problem}", todo)]
    todo = (
        f"Nodes may not have access to {runs}. Choose a folder on a disk that login nodes and "
        "nodes share, with --runs or PROTOSEG_RUNS."
    )
    return [Finding(subject, "broken", f"job {result.job}: {result.problem}", todo)]
