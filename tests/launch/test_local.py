"""Tests of local sweeps with real workers, real training and real faults."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from waiting import DEADLINE

from launch.harness import Harness, has_checkpoint_at, has_no_temporary_files, parse_json
from protoseg import files
from protoseg.runs.folder import RunFolder
from protoseg.runs.retry import RULES
from protoseg.runs.states import Reason, State

PARAMETRIC = {"label": "Parametric", "method": "parametric"}
PROTOSEG = {"label": "ProtoSeg", "method": "released", "method.num_prototypes": 2}
NO_WEIGHTS = {
    "label": "No weights",
    "method": "parametric",
    "backbone.weights": "absent.pth",
}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Finished:
    """A finished sweep of two runs; tests use a copy."""
    harness = Harness(tmp_path_factory.mktemp("finished"), data)
    result = harness.run("sweep", matrix_of_two(harness), "--jobs", "2")
    return Finished(harness, result)


@dataclass
class Finished:
    """The folders and the output of a sweep."""

    harness: Harness
    result: subprocess.CompletedProcess[str]


def matrix_of_two(harness: Harness) -> str:
    """Write the matrix of `finished`, and return its path."""
    return harness.matrix([PROTOSEG], seeds=[0, 1])


def test_a_second_sweep_of_finished_runs_has_nothing_to_do(
    harness: Harness, finished: Finished
) -> None:
    assert finished.result.returncode == 0, finished.result.stdout + finished.result.stderr
    harness.copy(finished.harness)
    matrix = matrix_of_two(harness)
    records = harness.records()
    assert len(records) == 2
    assert all(record["attempts"] == 1 for record in records)
    assert all(has_no_temporary_files(folder) for folder in harness.folders())

    second = harness.run("sweep", matrix)
    assert second.returncode == 0
    assert "Nothing to do" in second.stdout
    assert harness.records() == records

    tables = harness.run("tables", matrix)
    assert tables.returncode == 0, tables.stderr
    assert "n = 2" in tables.stdout
    assert (harness.folder / "results" / "tables" / "matrix.tex").exists()


@pytest.mark.slow
def test_a_sweep_trains_only_missing_runs(harness: Harness, finished: Finished) -> None:
    harness.copy(finished.harness)
    lost, kept = harness.folders()
    shutil.rmtree(lost.path)
    again = harness.run("sweep", matrix_of_two(harness), "--json")
    assert parse_json(again)["trained"] == [lost.run_id]
    assert (len(harness.records()), len(kept.attempts())) == (2, 1)


def test_runs_share_the_cpu_cores_equally(finished: Finished) -> None:
    expected = max(1, (os.cpu_count() or 1) // 2)
    records = finished.harness.records()
    assert {record["provenance"]["threads"] for record in records} == {expected}


def test_other_users_cannot_write_run_folders(finished: Finished) -> None:
    paths = [finished.harness.runs, *finished.harness.runs.rglob("*")]
    assert len(paths) > 10
    loose = [path for path in paths if Path(path).stat().st_mode & 0o002]
    assert loose == []


@pytest.mark.slow
def test_a_failed_run_does_not_stop_other_runs_and_needs_retry_failed(
    harness: Harness,
) -> None:
    matrix = harness.matrix([PARAMETRIC, NO_WEIGHTS], seeds=[0], iterations=2)
    first = harness.run("sweep", matrix)
    assert first.returncode == 1
    assert "absent.pth" in first.stdout
    assert len(harness.records()) == 1
    (failed,) = [f for f in harness.folders() if f.status().state is State.FAILED]
    assert failed.status().reason is Reason.BAD_DATA

    second = harness.run("sweep", matrix)
    assert second.returncode == 1
    assert "--retry-failed" in second.stderr
    assert len(failed.attempts()) == 1

    tables = harness.run("tables", matrix)
    assert "failed: bad_data" in tables.stdout

    again = harness.run("sweep", matrix, "--retry-failed")
    assert again.returncode == 1
    assert len(failed.attempts()) == 2
    assert len(harness.records()) == 1


def test_a_run_resumes_from_its_checkpoint_after_its_worker_is_killed(
    harness: Harness,
) -> None:
    matrix = harness.matrix([PROTOSEG], seeds=[0], iterations=6, pause_after=3)
    process = harness.start("sweep", matrix, "--checkpoint-seconds", "0")
    (folder,) = harness.wait_for_folders()
    os.kill(harness.wait_for_pause(folder), signal.SIGKILL)
    done = harness.finish(process)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = folder.attempts()
    assert first.reason is Reason.LOST
    assert first.verdict is not None, "the sweep recorded the end"
    assert second.reason is None
    assert "resuming from iteration 3" in (folder.attempts_folder / "0002" / "log.txt").read_text()
    (record,) = harness.records()
    assert record["attempts"] == 2
    assert record["losses"][-1][0] == 6


def test_runs_save_on_sigint_and_the_next_sweep_resumes_them(harness: Harness) -> None:
    matrix = harness.matrix([PARAMETRIC, PROTOSEG], seeds=[0], iterations=6, pause_after=2)
    process = harness.start("sweep", matrix, "--jobs", "2")
    for folder in harness.wait_for_folders(2):
        harness.wait_for_pause(folder)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    done = harness.finish(process)
    assert done.returncode == 1
    assert "nothing is lost" in done.stdout, done.stdout + done.stderr
    assert "run the same command again" in done.stdout
    for folder in harness.folders():
        (attempt,) = folder.attempts()
        assert attempt.reason is Reason.CANCELLED
        assert has_checkpoint_at(folder, 1)
        assert has_no_temporary_files(folder)
        assert folder.status().state is State.INTERRUPTED

    assert harness.run("sweep", matrix, "--jobs", "2").returncode == 0
    assert len(harness.records()) == 2
    for folder in harness.folders():
        assert folder.attempts()[1].start["iteration"] == 3


@pytest.mark.slow
def test_a_second_sweep_does_not_train_a_run_of_a_living_worker(
    harness: Harness,
) -> None:
    matrix = harness.matrix([PROTOSEG], seeds=[0], pause_after=2)
    process = harness.start("sweep", matrix)
    (folder,) = harness.wait_for_folders()
    harness.wait_for_pause(folder)
    process.kill()
    process.wait(DEADLINE)  # no communicate(): the worker keeps the pipe open

    second = harness.run("sweep", matrix)
    assert second.returncode == 1
    assert "running on" in second.stderr
    harness.resume()
    harness.wait_until(lambda: folder.record.exists() and not folder.claim.exists(), "the record")
    (record,) = harness.records()
    assert record["attempts"] == 1


@pytest.mark.slow
def test_a_corrupt_run_folder_stops_only_its_run(harness: Harness, finished: Finished) -> None:
    harness.copy(finished.harness)
    matrix = matrix_of_two(harness)
    torn = harness.folders()[0]
    for path in (torn.record, torn.confusion):
        path.unlink()
    torn.spec.write_text('{"run_id": ')
    shutil.rmtree(harness.folders()[1].path)
    result = harness.run("sweep", matrix)
    assert result.returncode == 1
    assert "torn" in result.stdout
    assert "Traceback" not in result.stderr
    assert len(harness.records()) == 1


@pytest.mark.slow
def test_a_worker_without_checkpoints_is_retried_a_limited_number_of_times(
    harness: Harness,
) -> None:
    matrix = harness.matrix([PARAMETRIC], seeds=[0], pause_after=2)
    (run,) = parse_json(harness.run("plan", matrix, "--json"))["runs"]
    folder = RunFolder(harness.runs / run["run_id"])
    limit = RULES[Reason.LOST].limit
    assert limit is not None
    for _ in range(limit - 1):  # as after kills in earlier sweeps
        files.make_folder(folder.path)
        folder.start_attempt({"iteration": 0, "job": ""})
    process = harness.start("sweep", matrix, "--checkpoint-seconds", "1000000")
    for _ in range(2):
        os.kill(harness.wait_for_pause(folder), signal.SIGKILL)
    assert harness.finish(process).returncode == 1
    assert folder.status().state is State.FAILED
    assert len(folder.attempts()) == limit + 1


@pytest.mark.slow
def test_concurrent_sweeps_train_each_run_once(harness: Harness) -> None:
    matrix = harness.matrix([PARAMETRIC, PROTOSEG], seeds=[0], iterations=4)
    both = [harness.start("sweep", matrix, "--jobs", "2") for _ in range(2)]
    for process in both:
        harness.finish(process)
    assert harness.run("sweep", matrix).returncode == 0
    assert len(harness.records()) == 2
    assert all(len(folder.attempts()) == 1 for folder in harness.folders())


@pytest.mark.slow
def test_a_sweep_reports_a_full_disk_and_resumes_later(harness: Harness) -> None:
    small = harness.folder / "small disk"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        matrix = harness.matrix([PARAMETRIC], seeds=[0], iterations=4)
        # A checkpoint of this model has 3 MB.
        full = harness.run("sweep", matrix, "--runs", str(small))
        assert full.returncode == 1
        assert "no space left" in full.stdout + full.stderr
        assert not list(small.rglob("*.tmp"))
        grow = ["mount", "-o", "remount,size=64m", str(small)]
        subprocess.run(grow, check=True, capture_output=True)
        again = harness.run("sweep", matrix, "--runs", str(small))
        assert again.returncode == 0, again.stdout + again.stderr
        assert len(list(small.glob("*/record.json"))) == 1
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)


def test_a_runs_folder_without_permission_gives_one_line(harness: Harness) -> None:
    matrix = harness.matrix([PARAMETRIC], seeds=[0])
    result = harness.run("sweep", matrix, "--runs", "/proc/nowhere")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "/proc/nowhere" in result.stderr
    assert "--runs" in result.stderr


def test_a_corrupt_record_is_reported_and_kept(harness: Harness, finished: Finished) -> None:
    harness.copy(finished.harness)
    matrix = matrix_of_two(harness)
    folder = harness.folders()[0]
    text = folder.record.read_text()
    folder.record.write_text(text.replace('"miou": ', '"miou": 9'))
    damaged = folder.record.read_bytes()
    result = harness.run("sweep", matrix, "--retry-failed")
    assert result.returncode == 1
    assert "does not match its digest" in result.stderr
    assert folder.record.read_bytes() == damaged
    assert len(folder.attempts()) == 1


@pytest.mark.slow
def test_train_needs_only_overrides(harness: Harness) -> None:
    overrides = [
        "dataset.generator={name: shapes, version: 1, seed: 0, size: 48, train: 12, val: 4}",
        "dataset.counts={train: 12, val: 4}",
        "dataset.digest=unpinned",
        "augmentation.scale=[48,48]",
        "augmentation.crop_size=[48,48]",
        "schedule.iterations=3",
        "schedule.batch_size=2",
        "schedule.warmup_iterations=0",
        "seed=7",
    ]
    result = harness.run("train", *overrides)
    assert result.returncode == 0, result.stdout + result.stderr
    (record,) = harness.records()
    assert record["spec"]["seed"] == 7


def test_the_plan_estimates_cost_from_records_of_equal_workloads(
    harness: Harness, finished: Finished
) -> None:
    matrix = matrix_of_two(harness)
    before = parse_json(harness.run("plan", matrix, "--json"))
    assert before["left_seconds"] is None
    harness.copy(finished.harness)
    shutil.rmtree(harness.folders()[1].path)
    after = parse_json(harness.run("plan", matrix, "--json"))
    (record,) = harness.records()
    rate = record["cost"]["iterations_per_second"]
    assert after["left_seconds"] == pytest.approx(6 / rate)
    assert after["counts"]["done"] == 1
