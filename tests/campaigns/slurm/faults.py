"""The faults of a campaign (see campaign.py), injected into real processes and daemons.

Each function injects one fault and returns its entry, or None if there is no target now. The entry
has ``begin`` and ``end`` (seconds since the start of the campaign) and the target: ``targets`` (run
and job), ``node``, ``pid``, or ``everybody``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testbed.processes import is_alive
from testbed.testbed import TestbedError
from testbed.waiting import DEADLINE_SECONDS, poll_until

from campaigns.slurm.harness import Harness, QueuedRun
from protoseg.launch.submission import SUBMISSIONS_FOLDER
from protoseg.runs import claim

Fault = Callable[[Harness], dict[str, Any] | None]
NOTICED_SECONDS = 20
"""Longest node timeout of the testbed for which a campaign waits until SLURM sets a node down."""
RUNNING_JOB_SHARE = 0.75
"""Share of the faults on running jobs; the others may hit a pending job."""


def kill_worker(harness: Harness) -> dict[str, Any] | None:
    """Kill the process that trains a run with SIGKILL."""
    holders = {
        path.parent.name: held[0]
        for path in harness.runs.glob("*/claim.json")
        if (held := claim.read_claim(path)) and held[0].job and is_alive(held[0].pid)
        and not (path.parent / "record.json").exists()
    }  # fmt: skip
    if not holders:
        return None
    run = harness.random.choice(sorted(holders))
    begin = _seconds_now(harness)
    try:
        os.kill(holders[run].pid, signal.SIGKILL)
    except ProcessLookupError:
        return None
    return _make_entry(
        harness, begin, targets=[_target(run, holders[run].job)], pid=holders[run].pid
    )


def cancel(harness: Harness) -> dict[str, Any] | None:
    """Cancel a run with ``protoseg cancel RUN``."""
    job = _choose_job(harness, ("RUNNING", "PENDING"))
    if job is None:
        return None
    begin = _seconds_now(harness)
    done = harness.protoseg("cancel", job.run)
    if "Nothing to cancel" in done.stdout or done.returncode:
        return None
    return _make_entry(harness, begin, targets=[_target(job.run, job.key)], was=job.state)


def scancel(harness: Harness) -> dict[str, Any] | None:
    """Cancel a job with ``scancel``."""
    return _run_on_job(harness, ("RUNNING", "PENDING"), "scancel")


def requeue(harness: Harness) -> dict[str, Any] | None:
    """Requeue a running job with ``scontrol requeue``, as an administrator does."""
    return _run_on_job(harness, ("RUNNING",), "scontrol", "requeue")


def preempt(harness: Harness) -> dict[str, Any] | None:
    """Preempt all jobs of a node with a job of higher priority."""
    node = _choose_busy_node(harness)
    if node is None:
        return None
    targets = _targets_on(harness, node)
    begin = _seconds_now(harness)
    arguments = (
        f"--partition=urgent --nodelist={node} --exclusive --ntasks=1 --time=1 --output=/dev/null"
    )
    done = harness.testbed.run("sbatch", "--parsable", *arguments.split(), "--wrap=sleep 4")
    if done.returncode:
        return None
    job = done.stdout.strip()
    poll_until(60, lambda: "PENDING" not in _state(harness, job))
    harness.testbed.run("scancel", "--state=PENDING", job)  # the node may have died
    return _make_entry(harness, begin, targets=targets, node=node)


def timeout(harness: Harness) -> dict[str, Any] | None:
    """Move the time limit of a running job to a moment in the next 30 s.

    SLURM checks limits every 30 s, and sends SIGUSR2 20 s before the limit.
    """
    seconds = harness.random.choice([2, 2, 30])
    jobs = [job for job in harness.queue() or [] if job.state == "RUNNING"]
    if not jobs:
        return None
    # The run with the least progress: it must still train at the limit.
    job = min(jobs, key=lambda job: harness.iteration(job.run))
    begin = _seconds_now(harness)
    update = ("scontrol", "update", f"JobId={job.key}", f"EndTime=now+{seconds}")
    if harness.testbed.run(*update).returncode:
        return None
    return _make_entry(harness, begin, targets=[_target(job.run, job.key)], seconds=seconds)


def slurmd_restart(harness: Harness) -> dict[str, Any] | None:
    """Kill a slurmd and restart it before SLURM sets its node down; its jobs continue."""
    return _stop_slurmd(harness, lambda node: time.sleep(harness.random.uniform(2, 8)))


def slurmd_outage(harness: Harness) -> dict[str, Any] | None:
    """Kill a slurmd until SLURM sets its node down and requeues its jobs, which still run."""
    return _stop_slurmd(harness, lambda node: _wait_until_down(harness, node))


def node_dead(harness: Harness) -> dict[str, Any] | None:
    """Kill a node with all its processes, and restart it later."""
    node = _choose_busy_node(harness)
    if node is None:
        return None
    targets = _targets_on(harness, node)
    begin = _seconds_now(harness)
    harness.testbed.kill_node(node)
    if harness.random.random() < 0.8:
        _wait_until_down(harness, node)
    else:
        time.sleep(3)
    _restart_slurmd(harness, node)
    return _make_entry(harness, begin, targets=targets, node=node)


def controller(harness: Harness) -> dict[str, Any] | None:
    """Stop slurmctld for 3 to 20 s."""
    begin = _seconds_now(harness)
    harness.testbed.stop_controller()
    time.sleep(harness.random.uniform(3, 20))
    harness.testbed.start_controller()
    return _make_entry(harness, begin, everybody=True)


def disk_full(harness: Harness) -> dict[str, Any] | None:
    """Fill the disk of the run folders for 5 to 12 s."""
    if not harness.queue():
        return None
    begin = _seconds_now(harness)
    filling = harness.disk / "filling"
    until = time.monotonic() + harness.random.uniform(5, 12)
    try:
        with open(filling, "wb", buffering=0) as file:
            while time.monotonic() < until:
                # Space that other processes free is filled as well.
                with contextlib.suppress(OSError):
                    file.write(bytes(1 << 20))
                    continue
                with contextlib.suppress(OSError):
                    file.write(bytes(4096))
                    continue
                time.sleep(0.02)
    finally:
        filling.unlink(missing_ok=True)
    return _make_entry(harness, begin, everybody=True)


def two_sweeps(harness: Harness) -> dict[str, Any] | None:
    """Start two sweeps of overlapping matrices at the same time."""
    begin = _seconds_now(harness)
    before = len(harness.submissions())
    matrices = [harness.next_part(), harness.matrix(harness.random.randint(1, harness.stage))]
    started = [harness.start(*harness.sweep_arguments(matrix)) for matrix in matrices]
    for process in started:
        harness.finish(process, "protoseg sweep (two at once)")
    return _make_entry(harness, begin, submitted=len(harness.submissions()) - before)


def sweep_killed(harness: Harness) -> dict[str, Any] | None:
    """Kill a sweep between its intent and the answer of sbatch.

    SLURM gets the job before the kill (``answer lost``), after it (``late``), after the intent is
    withdrawn (``too late``), or never.
    """
    how = harness.random.choice(["answer lost", "late", "too late", "never"])
    before = {"answer lost": 0, "late": 5, "too late": 25, "never": 60}[how]
    begin = _seconds_now(harness)
    earlier = set((harness.runs / SUBMISSIONS_FOLDER).glob("*-*"))
    process = harness.start(
        *harness.sweep_arguments(harness.next_part()),
        CAMPAIGN_SBATCH_BEFORE=str(before),
        CAMPAIGN_SBATCH_AFTER="20" if how == "answer lost" else "0",
    )

    def intent() -> Path | None:
        paths = set((harness.runs / SUBMISSIONS_FOLDER).glob("*-*/intent.json"))
        new = [path for path in paths if path.parent not in earlier]
        return new[0] if new else None

    poll_until(DEADLINE_SECONDS, lambda: process.poll() is not None or intent() is not None)
    time.sleep(harness.random.uniform(0.3, 3) if process.poll() is None else 0)
    if process.poll() is not None:  # there was nothing to submit
        harness.finish(process, "protoseg sweep")
        return None
    if how == "never":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()
    return _make_entry(harness, begin, how=how)


QUICK: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (kill_worker, cancel, scancel, requeue, preempt, timeout, two_sweeps, sweep_killed)
}
LONG: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (slurmd_restart, slurmd_outage, node_dead, controller, disk_full)
}
"""Faults that last several seconds; quick faults are injected at the same time."""
ALL = QUICK | LONG


def _run_on_job(harness: Harness, states: tuple[str, ...], *command: str) -> dict[str, Any] | None:
    job = _choose_job(harness, states)
    if job is None:
        return None
    begin = _seconds_now(harness)
    if harness.testbed.run(*command, job.key).returncode:
        return None
    return _make_entry(harness, begin, targets=[_target(job.run, job.key)], was=job.state)


def _stop_slurmd(harness: Harness, wait: Callable[[str], object]) -> dict[str, Any] | None:
    node = _choose_busy_node(harness)
    if node is None:
        return None
    targets = _targets_on(harness, node)
    begin = _seconds_now(harness)
    harness.testbed.kill_slurmd(node)
    wait(node)
    _restart_slurmd(harness, node)
    return _make_entry(harness, begin, targets=targets, node=node)


def _wait_until_down(harness: Harness, node: str) -> None:
    """Wait until SLURM sets a node down; with a long timeout, set it down now."""
    if harness.testbed.shape.node_timeout > NOTICED_SECONDS:
        time.sleep(harness.random.uniform(1, 5))
        harness.testbed.declare_down(node)
    state = ("sinfo", "--noheader", f"--nodes={node}", "--format=%T")
    poll_until(DEADLINE_SECONDS, lambda: "down" in harness.testbed.run(*state).stdout)
    time.sleep(harness.random.uniform(0, 5))


def _restart_slurmd(harness: Harness, node: str) -> None:
    """Start slurmd; do not wait long for a node whose dead jobs SLURM has yet to clear."""
    try:
        harness.testbed.start_slurmd(node, seconds=15)
    except TestbedError:
        if not harness.testbed.status()[node]:
            raise


def _choose_job(harness: Harness, states: tuple[str, ...]) -> QueuedRun | None:
    queue = [job for job in harness.queue() or [] if job.state in states]
    jobs = [job for job in queue if not (harness.runs / job.run / "record.json").exists()]
    running = [job for job in jobs if job.state == "RUNNING"]
    chosen = running if running and harness.random.random() < RUNNING_JOB_SHARE else jobs
    return harness.random.choice(chosen) if chosen else None


def _choose_busy_node(harness: Harness) -> str | None:
    running = [job for job in harness.queue() or [] if job.state == "RUNNING"]
    nodes = sorted({j.node for j in running if not (harness.runs / j.run / "record.json").exists()})
    return harness.random.choice(nodes) if nodes else None


def _targets_on(harness: Harness, node: str) -> list[dict[str, str]]:
    return [_target(job.run, job.key) for job in harness.queue() or [] if job.node == node]


def _target(run: str, job: str) -> dict[str, str]:
    return {"run": run, "job": job}


def _state(harness: Harness, job: str) -> str:
    return harness.testbed.run("squeue", "--noheader", f"--jobs={job}", "--format=%T").stdout


def _seconds_now(harness: Harness) -> float:
    return time.time() - harness.began


def _make_entry(harness: Harness, begin: float, **details: Any) -> dict[str, Any]:
    return {"begin": round(begin, 2), "end": round(_seconds_now(harness), 2), **details}
