"""The faults of a campaign (see campaign.py), each done for real and written down.

A fault is a function that does it and returns what it did, or None where there is nothing to do it
to just now. What it returns names its ``begin`` and ``end`` (seconds since the campaign began) and
whom it meant: ``targets`` (run and job), ``node``, ``pid``, or ``everybody``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testbed.processes import alive
from testbed.testbed import TestbedError
from testbed.waiting import DEADLINE_SECONDS, within

from campaigns.slurm.harness import Lab, QueuedRun
from protoseg.launch.submission import FOLDER
from protoseg.runs import claim

Fault = Callable[[Lab], dict[str, Any] | None]
NOTICED_SECONDS = 20
"""A campaign waits for SLURM to give up a node only where the testbed's `Shape` says that it is
soon."""
RUNNING_JOB_MATTERS = 0.75
"""Share of the cancels that go to jobs which run; the others meet one that waits."""


def kill_worker(lab: Lab) -> dict[str, Any] | None:
    """SIGKILL to the process that trains."""
    holders = {
        path.parent.name: found[0]
        for path in lab.runs.glob("*/claim.json")
        if (found := claim.read(path)) and found[0].job and alive(found[0].pid)
        and not (path.parent / "record.json").exists()
    }  # fmt: skip
    if not holders:
        return None
    run = lab.random.choice(sorted(holders))
    begin = _clock(lab)
    try:
        os.kill(holders[run].pid, signal.SIGKILL)
    except ProcessLookupError:
        return None
    return _done(lab, begin, targets=[_target(run, holders[run].job)], pid=holders[run].pid)


def cancel(lab: Lab) -> dict[str, Any] | None:
    """``protoseg cancel RUN``."""
    job = _some_job(lab, ("RUNNING", "PENDING"))
    if job is None:
        return None
    begin = _clock(lab)
    done = lab.protoseg("cancel", job.run)
    if "Nothing to cancel" in done.stdout or done.returncode:
        return None
    return _done(lab, begin, targets=[_target(job.run, job.key)], was=job.state)


def scancel(lab: Lab) -> dict[str, Any] | None:
    """``scancel``, without protoseg's knowledge."""
    return _command(lab, ("RUNNING", "PENDING"), "scancel")


def requeue(lab: Lab) -> dict[str, Any] | None:
    """``scontrol requeue`` of a running job, by an administrator."""
    return _command(lab, ("RUNNING",), "scontrol", "requeue")


def preempt(lab: Lab) -> dict[str, Any] | None:
    """A job of a partition with higher priority takes a whole node."""
    node = _busy_node(lab)
    if node is None:
        return None
    targets = _on(lab, node)
    begin = _clock(lab)
    words = (
        f"--partition=urgent --nodelist={node} --exclusive --ntasks=1 --time=1 --output=/dev/null"
    )
    done = lab.testbed.run("sbatch", "--parsable", *words.split(), "--wrap=sleep 4")
    if done.returncode:
        return None
    job = done.stdout.strip()
    within(60, lambda: "PENDING" not in _state(lab, job))
    lab.testbed.run("scancel", "--state=PENDING", job)  # the node may have died meanwhile
    return _done(lab, begin, targets=targets, node=node)


def timeout(lab: Lab) -> dict[str, Any] | None:
    """A running job's time limit is moved to where it is nearly, or already, reached.

    SLURM looks at limits every 30 s; 20 s before the limit the job gets SIGUSR2.
    """
    seconds = lab.random.choice([2, 2, 30])
    jobs = [job for job in lab.queue() or [] if job.state == "RUNNING"]
    if not jobs:
        return None
    # One that has time enough left to reach the limit.
    job = min(jobs, key=lambda job: lab.iteration(job.run))
    begin = _clock(lab)
    update = ("scontrol", "update", f"JobId={job.key}", f"EndTime=now+{seconds}")
    if lab.testbed.run(*update).returncode:
        return None
    return _done(lab, begin, targets=[_target(job.run, job.key)], seconds=seconds)


def slurmd_restart(lab: Lab) -> dict[str, Any] | None:
    """A slurmd is killed and back before anybody misses it; jobs go on."""
    return _without_slurmd(lab, lambda node: time.sleep(lab.random.uniform(2, 8)))


def slurmd_outage(lab: Lab) -> dict[str, Any] | None:
    """A slurmd is killed; its node is given up, its jobs are requeued while they still run."""
    return _without_slurmd(lab, lambda node: _wait_until_given_up(lab, node))


def node_dead(lab: Lab) -> dict[str, Any] | None:
    """A node with everything on it is dead for a while."""
    node = _busy_node(lab)
    if node is None:
        return None
    targets = _on(lab, node)
    begin = _clock(lab)
    lab.testbed.kill_node(node)
    if lab.random.random() < 0.8:
        _wait_until_given_up(lab, node)
    else:
        time.sleep(3)
    _bring_back(lab, node)
    return _done(lab, begin, targets=targets, node=node)


def controller(lab: Lab) -> dict[str, Any] | None:
    """slurmctld is down for a while."""
    begin = _clock(lab)
    lab.testbed.stop_controller()
    time.sleep(lab.random.uniform(3, 20))
    lab.testbed.start_controller()
    return _done(lab, begin, everybody=True)


def disk_full(lab: Lab) -> dict[str, Any] | None:
    """The disk with the run folders is full for a while."""
    if not lab.queue():
        return None
    begin = _clock(lab)
    filling = lab.disk / "filling"
    until = time.monotonic() + lab.random.uniform(5, 12)
    try:
        with open(filling, "wb", buffering=0) as file:
            while time.monotonic() < until:
                # What others remove meanwhile is taken as well.
                with contextlib.suppress(OSError):
                    file.write(bytes(1 << 20))
                    continue
                with contextlib.suppress(OSError):
                    file.write(bytes(4096))
                    continue
                time.sleep(0.02)
    finally:
        filling.unlink(missing_ok=True)
    return _done(lab, begin, everybody=True)


def two_sweeps(lab: Lab) -> dict[str, Any] | None:
    """Two sweeps of overlapping matrices at the same moment."""
    begin = _clock(lab)
    before = len(lab.submissions())
    matrices = [lab.next_part(), lab.matrix(lab.random.randint(1, lab.stage))]
    started = [lab.start(*lab.sweep_words(matrix)) for matrix in matrices]
    for process in started:
        lab.finish(process, "protoseg sweep (two at once)")
    return _done(lab, begin, submitted=len(lab.submissions()) - before)


def sweep_killed(lab: Lab) -> dict[str, Any] | None:
    """A sweep dies between its intent and the answer of sbatch; what came of it is left open.

    sbatch gets through before the death (``answer lost``), some time after it (``late``), long
    after the intent was given up (``too late``), or never.
    """
    how = lab.random.choice(["answer lost", "late", "too late", "never"])
    before = {"answer lost": 0, "late": 5, "too late": 25, "never": 60}[how]
    begin = _clock(lab)
    known = set((lab.runs / FOLDER).glob("*-*"))
    process = lab.start(
        *lab.sweep_words(lab.next_part()),
        CAMPAIGN_SBATCH_BEFORE=str(before),
        CAMPAIGN_SBATCH_AFTER="20" if how == "answer lost" else "0",
    )

    def intent() -> Path | None:
        new = set((lab.runs / FOLDER).glob("*-*/intent.json"))
        found = [path for path in new if path.parent not in known]
        return found[0] if found else None

    within(DEADLINE_SECONDS, lambda: process.poll() is not None or intent() is not None)
    time.sleep(lab.random.uniform(0.3, 3) if process.poll() is None else 0)
    if process.poll() is not None:  # there was nothing to submit
        lab.finish(process, "protoseg sweep")
        return None
    if how == "never":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()
    return _done(lab, begin, how=how)


QUICK: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (kill_worker, cancel, scancel, requeue, preempt, timeout, two_sweeps, sweep_killed)
}
LONG: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (slurmd_restart, slurmd_outage, node_dead, controller, disk_full)
}
"""They last a while, and others happen meanwhile."""
ALL = QUICK | LONG


def _command(lab: Lab, states: tuple[str, ...], *command: str) -> dict[str, Any] | None:
    job = _some_job(lab, states)
    if job is None:
        return None
    begin = _clock(lab)
    if lab.testbed.run(*command, job.key).returncode:
        return None
    return _done(lab, begin, targets=[_target(job.run, job.key)], was=job.state)


def _without_slurmd(lab: Lab, wait: Callable[[str], object]) -> dict[str, Any] | None:
    node = _busy_node(lab)
    if node is None:
        return None
    targets = _on(lab, node)
    begin = _clock(lab)
    lab.testbed.kill_slurmd(node)
    wait(node)
    _bring_back(lab, node)
    return _done(lab, begin, targets=targets, node=node)


def _wait_until_given_up(lab: Lab, node: str) -> None:
    """Wait until SLURM has noticed that a node is silent; one that would take long is told."""
    if lab.testbed.shape.node_timeout > NOTICED_SECONDS:
        time.sleep(lab.random.uniform(1, 5))
        lab.testbed.declare_down(node)
    state = ("sinfo", "--noheader", f"--nodes={node}", "--format=%T")
    within(DEADLINE_SECONDS, lambda: "down" in lab.testbed.run(*state).stdout)
    time.sleep(lab.random.uniform(0, 5))


def _bring_back(lab: Lab, node: str) -> None:
    """Start slurmd. While jobs of a dead node are still to be cleared it takes no others; the
    campaign goes on all the same."""
    try:
        lab.testbed.start_slurmd(node, seconds=15)
    except TestbedError:
        if not lab.testbed.status()[node]:
            raise


def _some_job(lab: Lab, states: tuple[str, ...]) -> QueuedRun | None:
    queue = [job for job in lab.queue() or [] if job.state in states]
    jobs = [job for job in queue if not (lab.runs / job.run / "record.json").exists()]
    running = [job for job in jobs if job.state == "RUNNING"]
    chosen = running if running and lab.random.random() < RUNNING_JOB_MATTERS else jobs
    return lab.random.choice(chosen) if chosen else None


def _busy_node(lab: Lab) -> str | None:
    running = [job for job in lab.queue() or [] if job.state == "RUNNING"]
    nodes = sorted({j.node for j in running if not (lab.runs / j.run / "record.json").exists()})
    return lab.random.choice(nodes) if nodes else None


def _on(lab: Lab, node: str) -> list[dict[str, str]]:
    return [_target(job.run, job.key) for job in lab.queue() or [] if job.node == node]


def _target(run: str, job: str) -> dict[str, str]:
    return {"run": run, "job": job}


def _state(lab: Lab, job: str) -> str:
    return lab.testbed.run("squeue", "--noheader", f"--jobs={job}", "--format=%T").stdout


def _clock(lab: Lab) -> float:
    return time.time() - lab.began


def _done(lab: Lab, begin: float, **details: Any) -> dict[str, Any]:
    return {"begin": round(begin, 2), "end": round(_clock(lab), 2), **details}
