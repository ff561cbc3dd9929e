"""Tests of the client with real jobs and all their ends, also with parts of SLURM down."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from testbed.testbed import Testbed
from waiting import DEADLINE

from protoseg.cli.slurm_checks import check_slurm
from protoseg.runs.states import Reason
from protoseg.slurm import environment
from protoseg.slurm import probe as probe_module
from protoseg.slurm.client import SlurmClient
from protoseg.slurm.end_states import describe_job_end
from protoseg.slurm.jobs import JobReport
from protoseg.slurm.probe import run_probe_job
from protoseg.slurm.queries import query_sacct, query_scontrol, query_squeue
from slurm.testbed.config import copy_config

UNKNOWN = "66999999_1"
WORKER = """
import json, os, signal, sys, time
from pathlib import Path
from protoseg.slurm import environment
from protoseg.slurm.environment import current_job, explain_signal

environment.SECONDS = 40  # a busy machine; SLURM kills the job after 60
job = current_job()
name = f"{job.key}.{job.restarts}"

def stop(number, frame):
    signal.signal(number, signal.SIG_IGN)
    reason, sentence = explain_signal(number)
    unfinished = Path(sys.argv[1], f"{name}.writing")
    unfinished.write_text(json.dumps([reason, sentence]))
    unfinished.rename(unfinished.with_suffix(".why"))
    os._exit(75)

for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, stop)
unfinished = Path(sys.argv[1], f"{name}.starting")
unfinished.write_text(str(os.getpid()))
unfinished.rename(unfinished.with_suffix(".ready"))
time.sleep(600)
"""


class Jobs:
    """Jobs whose worker records why it was stopped."""

    def __init__(self, folder: Path, cluster: Testbed) -> None:
        self.folder = folder
        self.cluster = cluster
        (folder / "worker.py").write_text(WORKER)

    def submit(self, *options: str, script: str = "") -> str:
        """Submit a job, and return its id."""
        worker = shlex.join([sys.executable, str(self.folder / "worker.py"), str(self.folder)])
        script = script or f"trap '' TERM\nsrun {worker}"
        command = ["sbatch", "--parsable", "--requeue", "--time=10", "--mem=200", "--chdir=/",
                   "--output=/dev/null", *options]  # fmt: skip
        text = f"#!/bin/sh\n{script}\n"
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=DEADLINE)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def wait_ready(self, *keys: str, restarts: int = 0) -> None:
        """Wait until the workers of these jobs run."""
        paths = [self.folder / f"{key}.{restarts}.ready" for key in keys]
        self.cluster.wait_until(
            f"the workers of {', '.join(keys)}", lambda: all(path.exists() for path in paths)
        )

    def wait_why(self, key: str, restarts: int = 0) -> list[str]:
        """Wait until a worker is stopped, and return its reason and sentence."""
        path = self.folder / f"{key}.{restarts}.why"
        self.cluster.wait_until(
            f"the end of the worker of {key}", lambda: path.exists() and bool(path.read_text())
        )
        reason: list[str] = json.loads(path.read_text())
        return reason


@pytest.fixture
def jobs(cluster: Testbed, tmp_path: Path) -> Jobs:
    return Jobs(tmp_path, cluster)


def test_slurm_and_the_worker_report_every_end(cluster: Testbed, jobs: Jobs) -> None:
    client = SlurmClient()
    name = f"ends.{os.getpid()}"
    array = jobs.submit("--array=0-4", "--nodelist=node1", f"--job-name={name}")
    cancelled, requeued, limited, running, signalled = (f"{array}_{n}" for n in range(5))
    preempted = jobs.submit("--array=7", "--nodelist=node2", "--cpus-per-task=4") + "_7"
    die = "[ $SLURM_ARRAY_TASK_ID = 0 ] && exit 7; kill -9 $$"
    failed = jobs.submit("--array=0-2%1", "--nodelist=node1", script=die)
    waiting = jobs.submit("--array=0-999%2", "--begin=now+1hour")
    dropped = jobs.submit("--array=0-3", "--hold")
    client.cancel([dropped])
    all_ids = [cancelled, requeued, limited, running, signalled, preempted, f"{failed}_0"]
    all_ids += [f"{failed}_1", f"{waiting}_999", f"{dropped}_2", UNKNOWN]
    jobs.wait_ready(*all_ids[:6])
    for key in all_ids[:6]:
        cluster.wait_until(f"{key} in accounting", lambda key=key: bool(client.list_starts(key)))

    answer = client.query_jobs(all_ids)
    assert (answer.reachable, answer.accounting, answer.problem) == (True, True, "")
    assert {answer.jobs[key].state for key in all_ids[:6]} == {"RUNNING"}
    assert environment.is_job_active(running) is True
    assert environment.is_job_active(f"{waiting}_999") is False
    assert environment.is_job_active(UNKNOWN) is False
    assert client.find_jobs_by_name(name) == (array,)

    cluster.query("scontrol", "update", f"JobId={limited}", "EndTime=now+3")
    client.cancel([cancelled])
    client.requeue(requeued)
    subprocess.run(["scancel", "--signal=TERM", signalled], check=True)
    urgent = jobs.submit("--partition=urgent", "--nodelist=node2", "--cpus-per-task=8",
                         script="sleep 1")  # fmt: skip
    reasons = {
        cancelled: ("cancelled", "cancelled by root"),
        requeued: ("preempted", "REQUEUED"),
        preempted: ("preempted", "PREEMPTED"),
        signalled: ("lost", "while the job runs"),
        limited: ("timeout", "TIMEOUT"),
    }
    for key in (cancelled, requeued, preempted, signalled):
        why = jobs.wait_why(key)
        assert why[0] == reasons[key][0], why
        assert reasons[key][1] in why[1]
    jobs.wait_ready(requeued, preempted, restarts=1)
    again, never = (jobs.submit("--array=0", "--nodelist=node2", *more) + "_0"
                    for more in ([], ["--no-requeue"]))  # fmt: skip
    jobs.wait_ready(again, never)
    for key, first in ((preempted, "PREEMPTED"), (requeued, "REQUEUED")):
        cluster.wait_until(
            f"{key} in accounting: {first}, RUNNING",
            lambda key=key, first=first: (
                [job.state for job in client.list_starts(key)] == [first, "RUNNING"]
            ),
        )
    cluster.kill_node("node2")
    cluster.declare_down("node2")

    assert jobs.wait_why(limited)[0] == "timeout"
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

    def all_ended() -> bool:
        known = client.query_jobs(all_ids, fresh=True).jobs
        return (
            all(key in known and known[key].has_ended for key in ends) and known[again].is_waiting
        )

    cluster.wait_until("the end of all jobs", all_ended)
    answer = client.query_jobs(all_ids, fresh=True)
    assert {key: answer.jobs[key].state for key in ends} == ends
    assert answer.jobs[requeued].restarts == answer.jobs[again].restarts == 1
    assert answer.jobs[f"{waiting}_999"].is_waiting
    assert UNKNOWN not in answer.jobs
    assert answer.jobs[f"{failed}_0"].exit_code == "7:0"
    assert answer.jobs[f"{failed}_1"].exit_code == "0:9"
    assert describe_job_end(answer.jobs[cancelled]) == (
        "the job was cancelled by root on node1 (CANCELLED)"
    )
    assert describe_job_end(answer.jobs[never]) == "the node failed on node2 (NODE_FAIL)"
    cluster.wait_until(
        f"NODE_FAIL of {again} in accounting",
        lambda: client.list_starts(again)[0].state == "NODE_FAIL",
    )

    # The three commands agree when accounting is up to date.
    arrays = {key.partition("_")[0] for key in all_ids}

    def agree() -> bool:
        answers = (
            query_squeue(all_ids).jobs,
            query_sacct(arrays, all_ids).jobs,
            query_scontrol(all_ids).jobs,
        )
        return all(
            len({known[key][-1].state for known in answers}) == 1
            and len({known[key][-1].start for known in answers}) == 1
            for key in [*ends, running, requeued]
        )

    cluster.wait_until("the same states and starts from squeue, sacct and scontrol", agree)


def test_reports_without_accounting_and_controller(
    cluster: Testbed, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = SlurmClient()
    array = jobs.submit("--array=0-2", "--nodelist=node1")
    ids = [f"{array}_0", f"{array}_1"]
    requeued = f"{array}_2"
    jobs.wait_ready(*ids, requeued)
    cluster.stop_accounting()
    client.cancel(ids[:1])
    client.requeue(requeued)
    why = jobs.wait_why(ids[0])
    assert (why[0], "or SLURM ended it" in why[1]) == (Reason.CANCELLED, True), why
    why = jobs.wait_why(requeued)
    assert (why[0], "does not know by whom" in why[1]) == (Reason.PREEMPTED, True), why

    def cancelled() -> bool:
        return client.query_jobs(ids[:1], fresh=True).jobs[ids[0]].has_ended

    cluster.wait_until("the end of the cancelled job", cancelled)
    answer = client.query_jobs([*ids, UNKNOWN], fresh=True)
    assert {id: job.state for id, job in answer.jobs.items()} == {
        ids[0]: "CANCELLED",
        ids[1]: "RUNNING",
    }
    assert (answer.reachable, answer.accounting) == (True, False)
    assert "Problem talking to the database" in answer.problem
    assert client.list_starts(ids[0]) == []
    findings = {finding.subject: finding for finding in check_slurm(Path("/nowhere"))}
    assert findings["SLURM: accounting"].state == "absent"

    cluster.stop_controller()
    # SLURM's commands try for 9 s (scontrol 18 s) by default.
    monkeypatch.setenv("SLURM_CONF", str(copy_config(cluster, tmp_path, MessageTimeout=2)))
    answer = client.query_jobs(ids, fresh=True)
    assert (answer.jobs, answer.reachable) == ({}, False)
    assert "Unable to contact slurm controller" in answer.problem
    assert environment.is_job_active(ids[1]) is None
    os.kill(int((tmp_path / f"{ids[1]}.0.ready").read_text()), signal.SIGTERM)
    why = jobs.wait_why(ids[1])
    assert (why[0], "did not answer" in why[1]) == (Reason.LOST, True), why

    cluster.start_controller()
    answer = client.query_jobs([requeued], fresh=True)
    assert answer.reachable
    assert answer.jobs[requeued].is_waiting or answer.jobs[requeued].is_active, (
        "jobs survive a restart of the controller"
    )


def test_doctor_and_probe_report_the_cluster(
    cluster: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_module, "FILE_DELAY_SECONDS", DEADLINE)
    runs = tmp_path / "my runs' $(touch x) %j ü"
    findings = {f.subject.removeprefix("SLURM: "): f for f in check_slurm(runs, "batch")}
    assert {finding.state for finding in findings.values()} == {"ok"}, findings
    assert {"SLURM", "accounting", "job arrays", "preemption", "partition urgent"} <= set(findings)
    assert str(runs) in findings["probe job"].found
    assert list(runs.iterdir()) == []
    cluster.query("scontrol", "update", "PartitionName=short", "State=DOWN")
    stop_when_seen(monkeypatch, "PartitionDown")
    try:
        assert {f.subject: f.state for f in check_slurm(runs)}["SLURM: partition short"] == "absent"
        answer = run_probe_job(runs, "short", seconds=DEADLINE)
    finally:
        cluster.query("scontrol", "update", "PartitionName=short", "State=UP")
    assert not answer.started
    assert "PartitionDown" in answer.problem
    job = SlurmClient().query_jobs([answer.job], fresh=True).jobs[answer.job]
    assert job.state == "CANCELLED", "the probe cancels its job"


def stop_when_seen(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    """End the time of a probe when SLURM reports the reason why its job waits."""
    passed = [0.0]
    query = SlurmClient.query_jobs

    def query_and_stop(client: SlurmClient, ids: list[str], fresh: bool = False) -> JobReport:
        answer = query(client, ids, fresh)
        if any(reason in job.why for job in answer.jobs.values()):
            passed[0] = 2 * DEADLINE
        return answer

    clock = SimpleNamespace(
        time=time.time, sleep=time.sleep, monotonic=lambda: time.monotonic() + passed[0]
    )
    monkeypatch.setattr(SlurmClient, "query_jobs", query_and_stop)
    monkeypatch.setattr(probe_module, "time", clock)
    monkeypatch.setattr(probe_module, "ASK_SECONDS", 0.1)
