"""A run on several processes with srun's variables, connected by gloo."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from waiting import DEADLINE

from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError
from protoseg.runs import claim
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import read_record
from protoseg.training import checkpoint
from protoseg.training.builders.components import build_components
from protoseg.training.builders.config import build_config
from protoseg.training.distributed import rendezvous
from protoseg.training.distributed.rank import RankInfo, rank_from_slurm
from protoseg.training.distributed.rendezvous import (
    RendezvousError,
    connect_store,
    create_store,
    join_store,
    meeting_file,
)
from training.launch import JOB, Workers, environment
from training.shared_work import SGD
from training.small import (
    ends,
    log,
    make_folder,
    pause_after,
    record_of,
    small_spec,
    wait_for_checkpoint,
    work,
)
from training.test_worker import SPEC, assert_same_result

SECOND_FAILS = """
from protoseg.training.loop import TrainingLoop
from protoseg.errors import DataError
note = TrainingLoop._note
def fail(self, iteration, losses):
    note(self, iteration, losses)
    if iteration == 3:
        raise DataError("images/00003.png: cannot be read")
TrainingLoop._note = fail
"""
HANGS = """
import time
from protoseg.training.distributed.process_group import Processes
Processes.leave = lambda self: time.sleep(600)
"""
SHORT_WAITS = """
from protoseg.training.distributed import process_group
process_group.GRACE_SECONDS = process_group.LEAVE_SECONDS = 0.1
"""
SHORT_MEETING = """
from protoseg.training.distributed import process_group, rendezvous
process_group.MEETING_SECONDS = rendezvous.MEETING_SECONDS = 1.0
"""


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    """A run with dropout and Gumbel samples: each process has its own random state."""
    return small_spec(*SPEC)


@pytest.fixture(scope="module")
def finished(spec: RunSpec, data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """An uninterrupted run on two processes."""
    folder = make_folder(tmp_path_factory.mktemp("finished"), spec, data, checkpoint_seconds=0)
    assert Workers(folder).end() == [0, 0], log(folder)
    return folder


def list_meeting_files(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.path.glob(".meeting*"))


# Uninterrupted runs


def test_two_processes_write_one_record(finished: RunFolder) -> None:
    record = read_record(finished.record)  # checks shape and digest
    assert record["provenance"]["processes"] == 2
    assert record["metrics"]["images"] == 4, "each image is counted once"
    assert record["attempts"] == 1
    assert list_meeting_files(finished) == []
    (attempt,) = finished.attempts()
    start = {k: attempt.start[k] for k in ("job", "restarts", "node", "processes")}
    assert start == {"job": JOB, "restarts": 0, "node": "node7", "processes": 2}
    text = (finished.attempts_folder / "0001" / "log.rank1.txt").read_text()
    assert "end: done" in text
    assert "iteration 12/12" in log(finished)
    assert "iteration 12/12" not in text


def test_each_process_draws_other_random_numbers(finished: RunFolder) -> None:
    path = sorted(finished.checkpoints.glob("*.pth"))[-1]
    state = torch.load(path, weights_only=True)
    (other,) = state["others"]
    assert other.keys() == state["random"].keys()
    assert not torch.equal(other["torch"], state["random"]["torch"])
    assert other["python"] != state["random"]["python"]


@pytest.mark.slow
def test_simultaneous_runs_do_not_connect_to_each_other(
    finished: RunFolder, spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, spec, data)
    other = make_folder(tmp_path, small_spec("seed=1"), data)
    both = Workers(folder), Workers(other)
    assert [workers.end() for workers in both] == [[0, 0], [0, 0]], log(folder) + log(other)
    assert_same_result(folder, finished)
    assert read_record(other.record)["provenance"]["processes"] == 2


def test_no_process_repeats_a_finished_run(finished: RunFolder) -> None:
    before = finished.record.read_bytes()
    workers = Workers(finished, step=1)
    assert workers.end() == [0, 0]
    assert workers.output[0].strip() == f"{finished.run_id}: already done."
    assert workers.output[1] == "", "no output"
    assert finished.record.read_bytes() == before
    assert len(finished.attempts()) == 1
    assert list_meeting_files(finished) == []


@pytest.mark.slow
def test_one_and_three_processes_give_the_same_record(data: Path, tmp_path: Path) -> None:
    """Three processes share six images per iteration, and four evaluation images unevenly."""
    spec = small_spec(*SGD, "schedule.batch_size=6")
    one = make_folder(tmp_path / "one", spec, data)
    three = make_folder(tmp_path / "three", spec, data, checkpoint_seconds=0)
    launch = tmp_path / "launch.json"
    shutil.move(three.launch, launch)
    assert work(one)[0] == 0
    assert Workers(three, 3, arguments=[str(launch)]).end() == [0, 0, 0], log(three)
    expected, actual = record_of(one), record_of(three)
    for name, value in expected["metrics"].items():
        assert actual["metrics"][name] == pytest.approx(value, abs=0.1), name
    assert actual["metrics"]["images"] == 4
    pixels = [[c["pixels"] for c in record["per_class"]] for record in (expected, actual)]
    assert pixels[0] == pixels[1]
    assert actual["parameters"] == expected["parameters"]
    for (i, one_loss), (j, three_loss) in zip(expected["losses"], actual["losses"], strict=True):
        assert i == j
        assert three_loss["loss"] == pytest.approx(one_loss["loss"], rel=1e-5)


# Interrupted runs


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_and_the_resumed_run_gives_the_same_bits(
    finished: RunFolder, spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, spec, data, checkpoint_seconds=0)
    workers = Workers(folder, codes={1: pause_after(3)})
    wait_for_checkpoint(folder, 3, *workers.processes)
    workers.processes[1].send_signal(signal.SIGTERM)
    assert workers.end() == [75, 0]
    assert len(ends(folder)) == 1
    assert "saved at iteration 4" in folder.attempts()[0].message
    assert folder.checkpoint_iteration() == 4
    assert not folder.claim.exists()

    on_one_process = RunFolder(tmp_path / "one" / folder.run_id)
    shutil.copytree(folder.path, on_one_process.path)

    assert Workers(folder, step=1).end() == [0, 0], log(folder)
    assert "resuming from iteration 4" in log(folder)
    assert_same_result(folder, finished)
    other_state, expected_state = (
        torch.load(sorted(f.checkpoints.glob("*.pth"))[-1], weights_only=True)["others"][0]
        for f in (folder, finished)
    )
    assert torch.equal(other_state["torch"], expected_state["torch"])

    assert work(on_one_process)[0] == 0, "another number of processes can resume the run"
    assert "was saved by 2 processes, now there are 1: dropout" in log(on_one_process)
    assert record_of(on_one_process)["provenance"]["processes"] == 1


def test_a_process_without_a_saved_random_state_gets_a_new_seed(
    shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def restore_and_draw(rank: int, world: int) -> float:
        monkeypatch.setattr(checkpoint, "rank", lambda: rank)
        monkeypatch.setattr(checkpoint, "world_size", lambda: world)
        parts = build_components(build_config(small_spec(), data_root=shapes_root), None)
        if rank == 0 and world == 1:
            checkpoint.save(parts, tmp_path, 3, {})
        capsys.readouterr()  # discard the output of imports
        checkpoint.restore(parts, checkpoint.locate(tmp_path / "iter_00000003.pth"))
        return float(torch.rand(1))

    first = restore_and_draw(0, 1)
    assert capsys.readouterr().out == ""
    assert restore_and_draw(0, 2) == first
    assert "was saved by 1 processes, now there are 2: dropout" in capsys.readouterr().out
    second, third = restore_and_draw(1, 3), restore_and_draw(2, 3)
    assert len({first, second, third}) == 3
    assert restore_and_draw(1, 3) == second, "the seed is reproducible"


def test_rank_0_records_that_another_process_was_killed(
    spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, spec, data, checkpoint_seconds=0)
    workers = Workers(folder, codes={0: SHORT_WAITS, 1: pause_after(3)})
    wait_for_checkpoint(folder, 3, *workers.processes)
    workers.processes[1].kill()
    assert workers.end() == [75, -signal.SIGKILL]
    assert ends(folder) == ["lost"]
    assert "the connection to another process of the run broke" in folder.attempts()[0].message
    assert not folder.claim.exists()


def test_the_other_process_ends_when_rank_0_is_killed(
    spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, spec, data, checkpoint_seconds=0)
    workers = Workers(folder, codes={0: pause_after(3)})
    wait_for_checkpoint(folder, 3, *workers.processes)
    workers.processes[0].kill()
    assert workers.end() == [-signal.SIGKILL, 1]
    assert folder.attempts()[0].end is None
    text = (folder.attempts_folder / "0001" / "log.rank1.txt").read_text()
    assert "the connection to another process of the run broke" in text


@pytest.mark.parametrize("end", ["", HANGS], ids=["leaves", "hangs"])
def test_the_recorded_reason_is_that_of_the_failed_process(
    spec: RunSpec, data: Path, tmp_path: Path, end: str
) -> None:
    folder = make_folder(tmp_path, spec, data)
    workers = Workers(folder, codes={0: SHORT_WAITS, 1: SECOND_FAILS + end})
    if end:
        assert workers.processes[0].wait(DEADLINE) == 1
        workers.processes[1].kill()
    # A thread of gloo may crash while the connection breaks, after the reason was written.
    assert workers.end()[0] in (1, -signal.SIGSEGV)
    (attempt,) = folder.attempts()
    assert ends(folder) == ["bad_data"]
    assert attempt.message == "process 1 of 2: images/00003.png: cannot be read"
    text = (folder.attempts_folder / "0001" / "log.rank1.txt").read_text()
    assert "end: bad_data. images/00003.png" in text
    assert not folder.claim.exists()


def test_a_full_disk_of_rank_0_ends_all_processes(
    spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, spec, data, checkpoint_seconds=0)
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))"
    assert Workers(folder, codes={0: limit}).end() == [75, 1]
    assert ends(folder) == ["storage"]


def test_a_failure_before_the_processes_connect_ends_the_run_at_once(
    spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    no_log = """
from pathlib import Path
from protoseg import files
worker.redirect_output = lambda log: (_ for _ in ()).throw(
    files.storage_error(OSError(28, "No space left on device"), log))
"""
    folder = make_folder(tmp_path, spec, data)
    assert Workers(folder, codes={1: no_log}).end() == [75, 0]
    assert ends(folder) == ["storage"]
    assert folder.attempts()[0].message.startswith("process 1 of 2: ")


def test_an_indivisible_batch_size_is_one_error_message(data: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, small_spec("schedule.batch_size=5"), data)
    assert Workers(folder).end()[0] == 1
    assert ends(folder) == ["bad_config"]
    assert folder.attempts()[0].message == (
        "schedule.batch_size: 5 is not divisible by 2 processes. Set a multiple of 2."
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_without_the_others_ends_after_the_time_limit(
    spec: RunSpec, data: Path, tmp_path: Path, rank: int
) -> None:
    folder = make_folder(tmp_path, spec, data)
    workers = Workers(folder, code=SHORT_MEETING, ranks=[rank])
    (status,) = workers.end()
    if rank == 0:
        assert status == 75
        assert ends(folder) == ["lost"]
        assert "only 1 of 2 processes started within 1 s" in folder.attempts()[0].message
    else:
        assert status == 1
        assert "could not reach process 0 within 1 s" in workers.output[0]
        assert "did not appear in the run folder" in workers.output[0]
        assert folder.attempts() == []
    assert list_meeting_files(folder) == []


# Claims


def test_a_requeued_job_waits_for_the_claim_of_its_previous_start(
    spec: RunSpec, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim has a fresh heartbeat from another node, where the process has ended."""
    from protoseg.training import worker
    from protoseg.training.signals import StopRequest

    folder = make_folder(tmp_path, spec, data)
    for key, value in environment(0, 1, restarts=1).items():
        monkeypatch.setenv(key, value)
    waits: list[float] = []

    def let_time_pass(seconds: float) -> None:
        """Make the heartbeat fresh after the first wait, and stale after the second."""
        waits.append(seconds)
        moment = time.time() - (len(waits) - 1) * 2 * claim.STALE_SECONDS
        os.utime(folder.claim, (moment, moment))

    monkeypatch.setattr(worker.time, "sleep", let_time_pass)
    holder = {"host": "gone/1/1", "pid": 1, "process_started": "1", "nonce": "x", "job": JOB}
    folder.claim.write_text(json.dumps(holder))
    acquired = worker._acquire_claim(folder, StopRequest())
    assert acquired is not None
    acquired.release()
    assert len(waits) == 2

    waits.clear()
    folder.claim.write_text(json.dumps({**holder, "job": "7"}))
    assert worker._acquire_claim(folder, StopRequest()) is None
    assert waits == [], "the worker does not wait for another job's claim"


# Rank and rendezvous


def test_the_rank_comes_from_sruns_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in environment(3, 4, step=2, restarts=1).items():
        monkeypatch.setenv(key, value)
    assert rank_from_slurm() == RankInfo(3, 4, 3, 1, f"{JOB}.1.2")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    assert rank_from_slurm().name == "12_5.1.2"
    monkeypatch.setenv("SLURM_PROCID", "4")
    with pytest.raises(UsageError, match="SLURM_PROCID: 4 is out of range"):
        rank_from_slurm()
    monkeypatch.delenv("SLURM_PROCID")
    with pytest.raises(UsageError, match="SLURM_PROCID: missing"):
        rank_from_slurm()


@pytest.mark.parametrize("step", ["", "batch", "4294967291", "4294967290"])
def test_outside_a_step_there_is_one_process(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in environment(0, 4).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("SLURM_STEP_ID", step)
    assert rank_from_slurm() == RankInfo()


@pytest.mark.parametrize("nodes", [1, 2])
def test_processes_join_the_store_of_their_step(
    tmp_path: Path, nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RankInfo(0, 2, 0, nodes, "7.0.0")
    requeued = RankInfo(0, 2, 0, nodes, "7.1.0")
    stores = [create_store(tmp_path, rank_info) for rank_info in (first, requeued)]
    for number, store in enumerate(stores):
        store.set("number", str(number))
        joined = join_store(tmp_path, RankInfo(1, 2, 1, nodes, f"7.{number}.0"), DEADLINE)
        assert joined.get("number") == str(number).encode()
    address: dict[str, Any] = json.loads(meeting_file(tmp_path, first).read_text())
    assert connect_store("127.0.0.1", address["port"], "another token") is None
    meeting_file(tmp_path, first).write_text(json.dumps({**address, "port": 9}))
    seconds = itertools.count()  # each call of the clock is one second later
    clock = SimpleNamespace(monotonic=lambda: next(seconds), sleep=lambda seconds: None)
    monkeypatch.setattr(rendezvous, "time", clock)
    with pytest.raises(RendezvousError, match="no answer at port 9 of"):
        join_store(tmp_path, RankInfo(1, 2, 1, nodes, "7.0.0"), seconds=3)
