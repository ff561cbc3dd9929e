"""What the scheduler says of real jobs, in whichever way they end, and with parts of it down."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protoseg.commands.doctor_slurm import slurm
from protoseg.runs.states import Reason
from protoseg.scheduler import here
from protoseg.scheduler.probe import probe
from protoseg.scheduler.query import Scheduler
from protoseg.scheduler.reasons import reason_of
from protoseg.scheduler.sources import sacct, scontrol, squeue

UNKNOWN = "66999999_1"
WORKER = """
import json, os, signal, sys, time
from pathlib import Path
from protoseg.scheduler.here import job_here, why_stopped

job = job_here()
name = f"{job.key}.{job.restarts}"

def stop(number, frame):
    signal.signal(number, signal.SIG_IGN)
    reason, sentence = why_stopped(number)
    Path(sys.argv[1], f"{name}.why").write_text(json.dumps([reason, sentence]))
    os._exit(75)

for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, stop)
Path(sys.argv[1], f"{name}.ready").write_text("")
time.sleep(600)
"""


class Jobs:
    """Jobs whose worker notes why it was stopped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "worker.py").write_text(WORKER)

    def submit(self, *options: str, script: str = "") -> str:
        """sbatch; the id of the job."""
        worker = shlex.join([sys.executable, str(self.folder / "worker.py"), str(self.folder)])
        script = script or f"trap '' TERM\nsrun {worker}"
        command = ["sbatch", "--parsable", "--requeue", "--time=10", "--mem=200", "--chdir=/",
                   "--output=/dev/null", *options]  # fmt: skip
        text = f"#!/bin/sh\n{script}\n"
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def ready(self, key: str, restarts: int = 0) -> bool:
        return (self.folder / f"{key}.{restarts}.ready").exists()

    def why(self, key: str, restarts: int = 0) -> list[str] | None:
        """The worker's reason and sentence; None before."""
        path = self.folder / f"{key}.{restarts}.why"
        try:
            found: list[str] = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return found


def wait(what: str, test: Callable[[], Any], seconds: float = 60) -> Any:
    until = time.monotonic() + seconds
    while not (found := test()):
        assert time.monotonic() < until, f"not within {seconds:g} s: {what}"
        time.sleep(0.3)
    return found


def control(*words: str) -> None:
    done = subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def jobs(cluster: Any, tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


@pytest.mark.slow
def test_every_end_is_told_by_the_scheduler_and_by_the_worker(cluster: Any, jobs: Jobs) -> None:
    scheduler = Scheduler()
    name = f"ends.{os.getpid()}"
    array = jobs.submit("--array=0-4", "--nodelist=node1", f"--job-name={name}")
    cancelled, requeued, limited, running, signalled = (f"{array}_{n}" for n in range(5))
    preempted = jobs.submit("--array=7", "--nodelist=node2", "--cpus-per-task=4") + "_7"
    die = "[ $SLURM_ARRAY_TASK_ID = 0 ] && exit 7; kill -9 $$"
    failed = jobs.submit("--array=0-2%1", "--nodelist=node1", script=die)
    waiting = jobs.submit("--array=0-999%2", "--begin=now+1hour")
    dropped = jobs.submit("--array=0-3", "--hold")
    scheduler.cancel([dropped])
    all_ids = [cancelled, requeued, limited, running, signalled, preempted, f"{failed}_0"]
    all_ids += [f"{failed}_1", f"{waiting}_999", f"{dropped}_2", UNKNOWN]
    for key in all_ids[:6]:
        wait(f"{key} runs", lambda key=key: jobs.ready(key))
        wait("accounting knows", lambda key=key: scheduler.incarnations(key))

    answer = scheduler.ask(all_ids)
    assert (answer.reachable, answer.accounting, answer.problem) == (True, True, "")
    assert {answer.jobs[key].state for key in all_ids[:6]} == {"RUNNING"}
    assert here.is_job_active(running) is True
    assert here.is_job_active(f"{waiting}_999") is False
    assert here.is_job_active(UNKNOWN) is False
    assert scheduler.named(name) == (array,)

    control("update", f"JobId={limited}", "EndTime=now+3")
    scheduler.cancel([cancelled])
    scheduler.requeue(requeued)
    subprocess.run(["scancel", "--signal=TERM", signalled], check=True)
    urgent = jobs.submit("--partition=urgent", "--nodelist=node2", "--cpus-per-task=8",
                         script="sleep 1")  # fmt: skip
    reasons = {
        cancelled: ("cancelled", "cancelled by root"),
        requeued: ("preempted", "REQUEUED"),
        preempted: ("preempted", "PREEMPTED"),
        signalled: ("lost", "while the job goes on"),
        limited: ("timeout", "TIMEOUT"),
    }
    for key in (cancelled, requeued, preempted, signalled):
        found = wait(f"{key} is stopped", lambda key=key: jobs.why(key))
        assert found[0] == reasons[key][0], found
        assert reasons[key][1] in found[1]
    for key in (requeued, preempted):
        wait(f"{key} runs again", lambda key=key: jobs.ready(key, restarts=1))
    again, never = (jobs.submit("--array=0", "--nodelist=node2", *more) + "_0"
                    for more in ([], ["--no-requeue"]))  # fmt: skip
    wait("both run", lambda: jobs.ready(again) and jobs.ready(never))
    for key, first in ((preempted, "PREEMPTED"), (requeued, "REQUEUED")):
        assert [job.state for job in scheduler.incarnations(key)] == [first, "RUNNING"]
    cluster.kill_node("node2")

    found = wait(f"{limited} is stopped", lambda: jobs.why(limited))
    assert found[0] == "timeout"
    ends = {
        cancelled: "CANCELLED",
        limited: "TIMEOUT",
        never: "NODE_FAIL",
        urgent: "COMPLETED",
        f"{failed}_0": "FAILED",
        f"{failed}_1": "FAILED",
        f"{dropped}_2": "CANCELLED",
    }
    all_ids += [urgent, again, never]

    def ended() -> bool:
        known = scheduler.ask(all_ids, fresh=True).jobs
        return all(key in known and known[key].ended for key in ends) and known[again].waiting

    wait("all of them have ended", ended)
    answer = scheduler.ask(all_ids, fresh=True)
    assert {key: answer.jobs[key].state for key in ends} == ends
    assert answer.jobs[requeued].restarts == answer.jobs[again].restarts == 1
    assert answer.jobs[f"{waiting}_999"].waiting
    assert UNKNOWN not in answer.jobs
    assert answer.jobs[f"{failed}_0"].exit_code == "7:0"
    assert answer.jobs[f"{failed}_1"].exit_code == "0:9"
    assert {key: reason_of(answer.jobs[key]) for key in (cancelled, never)} == {
        cancelled: (Reason.CANCELLED, "the job was cancelled by root on node1 (CANCELLED)"),
        never: (Reason.NODE_FAILURE, "the node failed on node2 (NODE_FAIL)"),
    }
    wait("accounting", lambda: scheduler.incarnations(again)[0].state == "NODE_FAIL")

    # The three commands agree, as far as each knows.
    arrays = {key.partition("_")[0] for key in all_ids}
    answers = squeue(all_ids).jobs, sacct(arrays, all_ids).jobs, scontrol(all_ids).jobs
    for key in [*ends, running, requeued]:
        states = [known[key][-1].state for known in answers]
        starts = [known[key][-1].start for known in answers]
        assert len(set(states)) == len(set(starts)) == 1, (key, states, starts)


@pytest.mark.slow
def test_with_parts_of_it_down(cluster: Any, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = Scheduler()
    array = jobs.submit("--array=0-1", "--nodelist=node1")
    ids = [f"{array}_0", f"{array}_1"]
    wait("both run", lambda: all(map(jobs.ready, ids)))
    cluster.stop_accounting()
    scheduler.cancel(ids[:1])
    found = wait("it is stopped", lambda: jobs.why(ids[0]))
    assert found[0] == Reason.CANCELLED

    def cancelled() -> bool:
        return scheduler.ask(ids[:1], fresh=True).jobs[ids[0]].ended

    wait("it has ended", cancelled)
    answer = scheduler.ask([*ids, UNKNOWN], fresh=True)
    assert {id: job.state for id, job in answer.jobs.items()} == {
        ids[0]: "CANCELLED",
        ids[1]: "RUNNING",
    }
    assert (answer.reachable, answer.accounting) == (True, False)
    assert "Problem talking to the database" in answer.problem
    assert scheduler.incarnations(ids[0]) == []
    findings = {finding.subject: finding for finding in slurm(Path("/nowhere"))}
    assert findings["SLURM: accounting"].state == "absent"

    cluster.stop_controller()
    answer = scheduler.ask(ids, fresh=True)
    assert (answer.jobs, answer.reachable) == ({}, False)
    assert "Unable to contact slurm controller" in answer.problem
    begin = time.monotonic()
    assert here.is_job_active(ids[1]) is None
    assert time.monotonic() - begin < here.SECONDS + 3

    cluster.start_controller()
    answer = scheduler.ask(ids, fresh=True)
    assert answer.reachable
    assert answer.jobs[ids[1]].state == "RUNNING", "jobs outlive their controller"


def test_doctor_and_its_probe(cluster: Any, tmp_path: Path) -> None:
    runs = tmp_path / "my runs' $(touch x) %j ü"
    findings = {f.subject.removeprefix("SLURM: "): f for f in slurm(runs, "batch")}
    assert {finding.state for finding in findings.values()} == {"ok"}, findings
    assert {"SLURM", "accounting", "job arrays", "preemption", "partition urgent"} <= set(findings)
    assert str(runs) in findings["probe job"].found
    assert list(runs.iterdir()) == []
    control("update", "PartitionName=short", "State=DOWN")
    try:
        assert {f.subject: f.state for f in slurm(runs)}["SLURM: partition short"] == "absent"
        answer = probe(runs, "short", seconds=4)
    finally:
        control("update", "PartitionName=short", "State=UP")
    assert not answer.started
    assert "PartitionDown" in answer.problem
    job = Scheduler().ask([answer.job], fresh=True).jobs[answer.job]
    assert job.state == "CANCELLED", "it cleans up"
