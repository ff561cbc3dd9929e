"""``logs`` and ``cancel`` without a scheduler: what is found, what is refused, what is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm.commands import Commands, squeue_lines
from waiting import finish, wait_until

from cli.conftest import CommandLine
from protoseg import files
from protoseg.config.fields import plain
from protoseg.launch.submission import write_intent
from protoseg.runs import claim
from protoseg.runs.folder import RunFolder
from protoseg.runs.states import Reason


def tried(protoseg: CommandLine, number: int = 0) -> RunFolder:
    """A run with two attempts: one preempted, one that vanished and was judged."""
    run = protoseg.quickstart()[number]
    folder = protoseg.lab.fail(run.spec, "preempted", "SIGTERM; saved")
    folder = RunFolder(protoseg.lab.runs / run.run_id)
    (folder.attempts_folder / "0001" / "log.txt").write_text("first line\nend of the first\n")
    second = folder.start_attempt({"time": "2026-01-01T10:00:00+00:00", "node": "gpu7",
                                   "job": "12_3", "iteration": 40})  # fmt: skip
    (second / "log.txt").write_text("second\n")
    folder.record_verdict(2, Reason.NODE_FAILURE, "the node failed on gpu7", "sacct")
    return folder


def test_the_last_log_is_shown_and_earlier_ones_on_request(protoseg: CommandLine) -> None:
    folder = tried(protoseg)
    assert protoseg("logs", folder.run_id).out == "second\n"
    answer = protoseg("logs", folder.run_id, "--attempt", "1")
    assert answer.out == "first line\nend of the first\n"
    assert answer.err.strip().endswith("attempts/0001/log.txt")
    answer = protoseg("logs", folder.run_id, "--attempt", "3")
    assert answer.status == 2
    assert "no attempt 3; there are: 1, 2" in answer.err


def test_attempts_are_listed_with_their_reasons(protoseg: CommandLine) -> None:
    folder = tried(protoseg)
    first, second = protoseg("logs", folder.run_id, "--json").json
    assert (first["reason"], first["message"]) == ("preempted", "SIGTERM; saved")
    assert (second["reason"], second["node"], second["job"]) == ("node_failure", "gpu7", "12_3")
    assert second["iteration"] == 40
    text = protoseg("logs", folder.run_id, "--list").out
    assert "node_failure: the node failed on gpu7" in text
    assert protoseg("status", "quickstart", "--json").json["runs"][0]["job"] == "12_3"


def test_a_part_of_an_id_is_enough_where_no_other_run_has_it(protoseg: CommandLine) -> None:
    first, second = tried(protoseg, 0), tried(protoseg, 1)
    assert protoseg("logs", first.run_id[-10:]).out == "second\n"
    answer = protoseg("logs", "shapes")
    assert answer.status == 2
    assert "a part of 2 runs" in answer.err
    assert second.run_id in answer.err
    answer = protoseg("logs", first.run_id[:-2] + "zz")
    assert answer.status == 2
    assert "unknown run" in answer.err
    assert first.run_id in answer.err


@pytest.mark.parametrize("word", ["../../etc/passwd", "/etc/passwd", "..", "$(id)", "\n"])
def test_a_run_is_one_of_the_folder_and_no_path(protoseg: CommandLine, word: str) -> None:
    tried(protoseg)
    answer = protoseg("logs", word)
    assert (answer.status, answer.out) == (2, "")


def test_the_batch_log_stands_in_where_no_worker_began(protoseg: CommandLine) -> None:
    run = protoseg.quickstart()[0]
    written = write_intent(protoseg.lab.runs, "m", [(run.run_id, plain(run.spec))], launch={})
    assert protoseg("logs", run.run_id).status == 1
    written.note_job("7")
    written.log("7_0").write_text("module: command not found\n")
    assert protoseg("logs", run.run_id).out == "module: command not found\n"


def test_cancel_asks_for_what_is_meant(protoseg: CommandLine) -> None:
    answer = protoseg("cancel", "quickstrat")
    assert answer.status == 2
    answer = protoseg("cancel", "seed=3")
    assert answer.status == 2
    assert "changes a matrix, and none is named" in answer.err
    assert protoseg("cancel", "quickstart").out == "Nothing to cancel.\n"


def test_cancel_stops_a_worker_of_this_machine(protoseg: CommandLine) -> None:
    folder = tried(protoseg)
    code = (
        "import sys, time; from pathlib import Path; from protoseg.runs import claim;"
        "held = claim.acquire(Path(sys.argv[1])); time.sleep(3600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder.claim)], text=True)
    try:
        wait_until(
            lambda: folder.claim.exists() or process.poll() is not None, "the claim of the worker"
        )
        answer = protoseg("cancel", folder.run_id)
        assert "0 waiting, 1 under way (they save and end)" in answer.out
        finish(process)
        assert process.returncode == -signal.SIGTERM
    finally:
        process.kill()


def test_cancel_leaves_jobs_of_another_cluster_to_it(
    protoseg: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their numbers are those of other jobs here: one waits, one runs."""
    commands = Commands(tmp_path / "commands", monkeypatch)
    commands.prints("squeue", squeue_lines(("5_0", "RUNNING"), ("5_1", "RUNNING")))
    commands.prints("scontrol", "ClusterName = a\n")
    commands.prints("sacct", errors="slurmdbd is down", status=1)
    commands.prints("scancel")
    waits, runs = (RunFolder(protoseg.lab.runs / run.run_id) for run in protoseg.quickstart()[:2])
    names = [(folder.run_id, {}) for folder in (waits, runs)]
    written = write_intent(protoseg.lab.runs, "m", names, launch={}, cluster="b")
    intent = {**written.intent, "clock": written.intent["clock"] - 600}
    files.write_json(written.folder / "intent.json", intent)
    written.note_job("5")
    for index, folder in enumerate((waits, runs)):
        files.make_folder(folder.path)
        folder.start_attempt({"time": "2026-01-01T10:00:00+00:00", "job": f"5_{index}"})
    waits.record_verdict(1, Reason.PREEMPTED, "saved", "worker")
    claim_of_b = {"host": "b1/1/2", "pid": 1, "process_started": "1", "nonce": "n", "job": "5_1"}
    files.write_json(runs.claim, claim_of_b)
    answer = protoseg("cancel", waits.run_id, runs.run_id)
    assert answer.status == 1
    for folder in (waits, runs):
        assert f"{folder.run_id}: is a job of the cluster b; cancel it there." in answer.err
    assert commands.calls("scancel") == []
    assert not written.closed_tasks()


def test_cancel_leaves_a_worker_of_another_machine_to_it(protoseg: CommandLine) -> None:
    folder = tried(protoseg)
    held = claim.acquire(folder.claim)
    assert held is not None
    text = folder.claim.read_text().replace(claim.host_identity(), "elsewhere/1/2")
    held.release()
    folder.claim.write_text(text)
    os.utime(folder.claim)
    answer = protoseg("cancel", folder.run_id)
    assert answer.status == 1
    assert "outside of any job; stop it there" in answer.err
    assert Path(folder.claim).exists()
