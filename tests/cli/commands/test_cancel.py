"""``protoseg cancel`` without a SLURM cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm.commands import Commands, squeue_lines
from waiting import finish, wait_until

from cli.commands.attempts import run_with_two_attempts
from cli.conftest import CommandLine
from protoseg import files
from protoseg.launch.submission import write_intent
from protoseg.runs import claim
from protoseg.runs.folder import RunFolder
from protoseg.runs.states import Reason

CLAIMING_WORKER = (
    "import sys, time; from pathlib import Path; from protoseg.runs import claim;"
    "held = claim.acquire(Path(sys.argv[1])); time.sleep(3600)"
)


def test_cancel_needs_a_known_matrix_or_run(protoseg: CommandLine) -> None:
    assert protoseg("cancel", "quickstrat").status == 2
    result = protoseg("cancel", "seed=3")
    assert result.status == 2
    assert "changes a matrix, but no matrix is named" in result.err
    assert protoseg("cancel", "quickstart").out == "Nothing to cancel.\n"


def test_cancel_sends_sigterm_to_a_worker_on_this_machine(protoseg: CommandLine) -> None:
    folder = run_with_two_attempts(protoseg)
    command = [sys.executable, "-c", CLAIMING_WORKER, str(folder.claim)]
    process = subprocess.Popen(command, text=True)
    try:
        wait_until(
            lambda: folder.claim.exists() or process.poll() is not None, "the claim of the worker"
        )
        result = protoseg("cancel", folder.run_id)
        assert "0 waiting, 1 running (they save a checkpoint and end)" in result.out
        finish(process)
        assert process.returncode == -signal.SIGTERM
    finally:
        process.kill()


def test_jobs_of_another_cluster_are_not_cancelled(
    protoseg: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One job of cluster b waits and one runs; on cluster a their ids belong to other jobs."""
    commands = Commands(tmp_path / "commands", monkeypatch)
    commands.prints("squeue", squeue_lines(("5_0", "RUNNING"), ("5_1", "RUNNING")))
    commands.prints("scontrol", "ClusterName = a\n")
    commands.prints("sacct", errors="slurmdbd is down", status=1)
    commands.prints("scancel")
    waiting, running = (
        RunFolder(protoseg.lab.runs / run.run_id) for run in protoseg.quickstart()[:2]
    )
    tasks = [(folder.run_id, {}) for folder in (waiting, running)]
    submission = write_intent(protoseg.lab.runs, "m", tasks, launch={}, cluster="b")
    intent = {**submission.intent, "clock": submission.intent["clock"] - 600}
    files.write_json(submission.folder / "intent.json", intent)
    submission.note_job("5")
    for index, folder in enumerate((waiting, running)):
        files.make_folder(folder.path)
        folder.start_attempt({"time": "2026-01-01T10:00:00+00:00", "job": f"5_{index}"})
    waiting.record_verdict(1, Reason.PREEMPTED, "saved", "worker")
    claim_of_b = {"host": "b1/1/2", "pid": 1, "process_started": "1", "nonce": "n", "job": "5_1"}
    files.write_json(running.claim, claim_of_b)
    result = protoseg("cancel", waiting.run_id, running.run_id)
    assert result.status == 1
    for folder in (waiting, running):
        assert f"{folder.run_id}: is a job of the cluster b. Cancel it there." in result.err
    assert commands.calls("scancel") == []
    assert not submission.closed_tasks()


def test_a_worker_on_another_machine_is_not_cancelled(protoseg: CommandLine) -> None:
    folder = run_with_two_attempts(protoseg)
    held = claim.acquire(folder.claim)
    assert held is not None
    claim_text = folder.claim.read_text().replace(claim.host_identity(), "elsewhere/1/2")
    held.release()
    folder.claim.write_text(claim_text)
    os.utime(folder.claim)
    result = protoseg("cancel", folder.run_id)
    assert result.status == 1
    assert "without a SLURM job. Stop it there" in result.err
    assert Path(folder.claim).exists()
