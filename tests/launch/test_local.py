"""Sweeps on this machine: real workers, real training, really injected faults."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from waiting import DEADLINE

from launch.lab import Lab, as_json, no_litter, trained_to
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
    """A sweep of two runs that nothing disturbed; tests work on a copy."""
    lab = Lab(tmp_path_factory.mktemp("finished"), data)
    result = lab.run("sweep", matrix_of_two(lab), "--jobs", "2")
    return Finished(lab, result)


@dataclass
class Finished:
    """What a sweep left, and what it printed."""

    lab: Lab
    result: subprocess.CompletedProcess[str]


def matrix_of_two(lab: Lab) -> str:
    """The matrix of `finished`."""
    return lab.matrix([PROTOSEG], seeds=[0, 1])


def test_a_sweep_trains_every_run_once_and_a_second_one_finds_nothing_to_do(
    lab: Lab, finished: Finished
) -> None:
    assert finished.result.returncode == 0, finished.result.stdout + finished.result.stderr
    lab.copy(finished.lab)
    matrix = matrix_of_two(lab)
    records = lab.records()
    assert len(records) == 2
    assert all(record["attempts"] == 1 for record in records)
    assert all(no_litter(folder) for folder in lab.folders())

    second = lab.run("sweep", matrix)
    assert second.returncode == 0
    assert "Nothing to do" in second.stdout
    assert lab.records() == records

    tables = lab.run("tables", matrix)
    assert tables.returncode == 0, tables.stderr
    assert "n = 2" in tables.stdout
    assert (lab.folder / "results" / "tables" / "matrix.tex").exists()


@pytest.mark.slow
def test_only_what_is_missing_is_trained_again(lab: Lab, finished: Finished) -> None:
    lab.copy(finished.lab)
    lost, kept = lab.folders()
    shutil.rmtree(lost.path)
    again = lab.run("sweep", matrix_of_two(lab), "--json")
    assert as_json(again)["trained"] == [lost.run_id]
    assert (len(lab.records()), len(kept.attempts())) == (2, 1)


def test_the_cores_are_shared_out_between_the_runs(finished: Finished) -> None:
    expected = max(1, (os.cpu_count() or 1) // 2)
    records = finished.lab.records()
    assert {record["provenance"]["threads"] for record in records} == {expected}


def test_run_folders_are_not_writable_by_others(finished: Finished) -> None:
    paths = [finished.lab.runs, *finished.lab.runs.rglob("*")]
    assert len(paths) > 10
    loose = [path for path in paths if Path(path).stat().st_mode & 0o002]
    assert loose == []


@pytest.mark.slow
def test_a_failed_run_leaves_its_siblings_alone_and_is_not_retried_by_itself(lab: Lab) -> None:
    matrix = lab.matrix([PARAMETRIC, NO_WEIGHTS], seeds=[0], iterations=2)
    first = lab.run("sweep", matrix)
    assert first.returncode == 1
    assert "absent.pth" in first.stdout
    assert len(lab.records()) == 1
    (failed,) = [f for f in lab.folders() if f.status().state is State.FAILED]
    assert failed.status().reason is Reason.BAD_DATA

    second = lab.run("sweep", matrix)
    assert second.returncode == 1
    assert "--retry-failed" in second.stderr
    assert len(failed.attempts()) == 1

    tables = lab.run("tables", matrix)
    assert "failed: bad_data" in tables.stdout

    again = lab.run("sweep", matrix, "--retry-failed")
    assert again.returncode == 1
    assert len(failed.attempts()) == 2
    assert len(lab.records()) == 1


def test_a_killed_worker_is_found_lost_and_its_run_goes_on_from_its_checkpoint(lab: Lab) -> None:
    matrix = lab.matrix([PROTOSEG], seeds=[0], iterations=6, pause_after=3)
    process = lab.start("sweep", matrix, "--checkpoint-seconds", "0")
    (folder,) = lab.wait_for_folders()
    os.kill(lab.wait_for_pause(folder), signal.SIGKILL)
    done = lab.finish(process)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = folder.attempts()
    assert first.reason is Reason.LOST
    assert second.reason is None
    assert "going on from iteration 3" in (folder.attempts_folder / "0002" / "log.txt").read_text()
    (record,) = lab.records()
    assert record["attempts"] == 2
    assert record["losses"][-1][0] == 6


def test_control_c_saves_and_a_later_sweep_goes_on(lab: Lab) -> None:
    matrix = lab.matrix([PARAMETRIC, PROTOSEG], seeds=[0], iterations=6, pause_after=2)
    process = lab.start("sweep", matrix, "--jobs", "2")
    for folder in lab.wait_for_folders(2):
        lab.wait_for_pause(folder)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    done = lab.finish(process)
    assert done.returncode == 1
    assert "nothing is lost" in done.stdout, done.stdout + done.stderr
    assert "run the same command again" in done.stdout
    for folder in lab.folders():
        (attempt,) = folder.attempts()
        assert attempt.reason is Reason.CANCELLED
        assert trained_to(folder, 1)
        assert no_litter(folder)
        assert folder.status().state is State.INTERRUPTED

    assert lab.run("sweep", matrix, "--jobs", "2").returncode == 0
    assert len(lab.records()) == 2
    for folder in lab.folders():
        assert folder.attempts()[1].start["iteration"] == 3


@pytest.mark.slow
def test_a_worker_outlives_its_sweep_and_the_next_sweep_does_not_train_twice(lab: Lab) -> None:
    matrix = lab.matrix([PROTOSEG], seeds=[0], pause_after=2)
    process = lab.start("sweep", matrix)
    (folder,) = lab.wait_for_folders()
    lab.wait_for_pause(folder)
    process.kill()
    process.wait(DEADLINE)  # its output is not read to the end: the worker goes on

    second = lab.run("sweep", matrix)
    assert second.returncode == 1
    assert "running on" in second.stderr
    lab.resume()
    lab.wait_until(lambda: folder.record.exists() and not folder.claim.exists(), "the record")
    (record,) = lab.records()
    assert record["attempts"] == 1


@pytest.mark.slow
def test_a_torn_folder_stops_only_its_own_run(lab: Lab, finished: Finished) -> None:
    lab.copy(finished.lab)
    matrix = matrix_of_two(lab)
    torn = lab.folders()[0]
    for path in (torn.record, torn.confusion):
        path.unlink()
    torn.spec.write_text('{"run_id": ')
    shutil.rmtree(lab.folders()[1].path)
    result = lab.run("sweep", matrix)
    assert result.returncode == 1
    assert "torn" in result.stdout
    assert "Traceback" not in result.stderr
    assert len(lab.records()) == 1


@pytest.mark.slow
def test_a_worker_killed_before_its_first_checkpoint_is_not_retried_for_ever(lab: Lab) -> None:
    matrix = lab.matrix([PARAMETRIC], seeds=[0], pause_after=2)
    (run,) = as_json(lab.run("plan", matrix, "--json"))["runs"]
    folder = RunFolder(lab.runs / run["run_id"])
    limit = RULES[Reason.LOST].limit
    assert limit is not None
    for _ in range(limit - 1):  # as workers leave them that were killed in earlier sweeps
        files.make_folder(folder.path)
        folder.start_attempt({"iteration": 0, "job": ""})
    process = lab.start("sweep", matrix, "--checkpoint-seconds", "1000000")
    for _ in range(2):
        os.kill(lab.wait_for_pause(folder), signal.SIGKILL)
    assert lab.finish(process).returncode == 1
    assert folder.status().state is State.FAILED
    assert len(folder.attempts()) == limit + 1


@pytest.mark.slow
def test_two_sweeps_at_once_train_each_run_once(lab: Lab) -> None:
    matrix = lab.matrix([PARAMETRIC, PROTOSEG], seeds=[0], iterations=4)
    both = [lab.start("sweep", matrix, "--jobs", "2") for _ in range(2)]
    for process in both:
        lab.finish(process)
    assert lab.run("sweep", matrix).returncode == 0
    assert len(lab.records()) == 2
    assert all(len(folder.attempts()) == 1 for folder in lab.folders())


@pytest.mark.slow
def test_a_full_disk_is_said_and_nothing_is_lost(lab: Lab) -> None:
    small = lab.folder / "small disk"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        matrix = lab.matrix([PARAMETRIC], seeds=[0], iterations=4)
        # A checkpoint of this model takes 3 MB.
        full = lab.run("sweep", matrix, "--runs", str(small))
        assert full.returncode == 1
        assert "no space left" in full.stdout + full.stderr
        assert not list(small.rglob("*.tmp"))
        grow = ["mount", "-o", "remount,size=64m", str(small)]
        subprocess.run(grow, check=True, capture_output=True)
        again = lab.run("sweep", matrix, "--runs", str(small))
        assert again.returncode == 0, again.stdout + again.stderr
        assert len(list(small.glob("*/record.json"))) == 1
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)


def test_runs_folder_without_permission_is_one_clear_sentence(lab: Lab) -> None:
    matrix = lab.matrix([PARAMETRIC], seeds=[0])
    result = lab.run("sweep", matrix, "--runs", "/proc/nowhere")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "/proc/nowhere" in result.stderr
    assert "--runs" in result.stderr


def test_a_damaged_record_is_left_alone_and_named(lab: Lab, finished: Finished) -> None:
    lab.copy(finished.lab)
    matrix = matrix_of_two(lab)
    folder = lab.folders()[0]
    text = folder.record.read_text()
    folder.record.write_text(text.replace('"miou": ', '"miou": 9'))
    damaged = folder.record.read_bytes()
    result = lab.run("sweep", matrix, "--retry-failed")
    assert result.returncode == 1
    assert "does not match its digest" in result.stderr
    assert folder.record.read_bytes() == damaged
    assert len(folder.attempts()) == 1


@pytest.mark.slow
def test_train_runs_one_spec_from_overrides_alone(lab: Lab) -> None:
    words = [
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
    result = lab.run("train", *words)
    assert result.returncode == 0, result.stdout + result.stderr
    (record,) = lab.records()
    assert record["spec"]["seed"] == 7


def test_the_plan_tells_the_price_from_the_records_of_like_runs(
    lab: Lab, finished: Finished
) -> None:
    matrix = matrix_of_two(lab)
    before = as_json(lab.run("plan", matrix, "--json"))
    assert before["left_seconds"] is None
    lab.copy(finished.lab)
    shutil.rmtree(lab.folders()[1].path)
    after = as_json(lab.run("plan", matrix, "--json"))
    (record,) = lab.records()
    rate = record["cost"]["iterations_per_second"]
    assert after["left_seconds"] == pytest.approx(6 / rate)
    assert after["counts"]["done"] == 1
