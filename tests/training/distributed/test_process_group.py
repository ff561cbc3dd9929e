"""A run on several processes: real ones, with the variables that srun sets, connected by gloo."""

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
from protoseg.training.build.components import build_components
from protoseg.training.build.config import build_config
from protoseg.training.distributed import rendezvous
from protoseg.training.distributed.rank import RankInfo, rank_from_slurm
from protoseg.training.distributed.rendezvous import (
    RendezvousError,
    connect,
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
        raise DataError("images/00003.png: can not be read")
TrainingLoop._note = fail
"""
STAYS = """
import time
from protoseg.training.distributed.process_group import Processes
Processes.leave = lambda self: time.sleep(600)
"""
IMPATIENT = """
from protoseg.training import processes
processes.GRACE_SECONDS = processes.LEAVE_SECONDS = 0.1
"""
NOBODY_COMES = """
from protoseg.training import processes, rendezvous
processes.MEETING_SECONDS = 1.0
rendezvous.MEETING_SECONDS = 1.0
"""


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    """Dropout and Gumbel: what each process draws must come back, for each."""
    return small_spec(*SPEC)


@pytest.fixture(scope="module")
def finished(spec: RunSpec, data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run on two processes that nothing disturbed."""
    folder = make_folder(tmp_path_factory.mktemp("finished"), spec, data, checkpoint_seconds=0)
    assert Workers(folder).end() == [0, 0], log(folder)
    return folder


def hidden(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.path.glob(".meeting*"))


# Nothing disturbs


def test_the_record_is_one_of_two_processes(finished: RunFolder) -> None:
    record = read_record(finished.record)  # checks shape and digest
    assert record["provenance"]["processes"] == 2
    assert record["metrics"]["images"] == 4, "each counted once"
    assert record["attempts"] == 1
    assert hidden(finished) == []
    (attempt,) = finished.attempts()
    started = {k: attempt.start[k] for k in ("job", "restarts", "node", "processes")}
    assert started == {"job": JOB, "restarts": 0, "node": "node7", "processes": 2}
    text = (finished.attempts_folder / "0001" / "log.rank1.txt").read_text()
    assert "end: done" in text
    assert "iteration 12/12" in log(finished)
    assert "iteration 12/12" not in text


def test_what_they_draw_differs_by_process(finished: RunFolder) -> None:
    path = sorted(finished.checkpoints.glob("*.pth"))[-1]
    state = torch.load(path, weights_only=True)
    (other,) = state["others"]
    assert other.keys() == state["random"].keys()
    assert not torch.equal(other["torch"], state["random"]["torch"])
    assert other["python"] != state["random"]["python"]


@pytest.mark.slow
def test_two_runs_at_once_do_not_meet(
    finished: RunFolder, spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, spec, data)
    other = make_folder(tmp_path, small_spec("seed=1"), data)
    both = Workers(folder), Workers(other)
    assert [workers.end() for workers in both] == [[0, 0], [0, 0]], log(folder) + log(other)
    assert_same_result(folder, finished)
    assert read_record(other.record)["provenance"]["processes"] == 2


def test_a_finished_run_is_left_by_all(finished: RunFolder) -> None:
    before = finished.record.read_bytes()
    workers = Workers(finished, step=1)
    assert workers.end() == [0, 0]
    assert workers.output[0].strip() == f"{finished.run_id}: done already."
    assert workers.output[1] == "", "quietly"
    assert finished.record.read_bytes() == before
    assert len(finished.attempts()) == 1
    assert hidden(finished) == []


@pytest.mark.slow
def test_one_and_three_processes_give_the_same_record(data: Path, tmp_path: Path) -> None:
    """Three share six images an iteration, and four images of the validation unevenly."""
    spec = small_spec(*SGD, "schedule.batch_size=6")
    one = make_folder(tmp_path / "one", spec, data)
    three = make_folder(tmp_path / "three", spec, data, checkpoint_seconds=0)
    launch = tmp_path / "launch.json"
    shutil.move(three.launch, launch)
    assert work(one)[0] == 0
    assert Workers(three, 3, arguments=[str(launch)]).end() == [0, 0, 0], log(three)
    expected, found = record_of(one), record_of(three)
    for name, value in expected["metrics"].items():
        assert found["metrics"][name] == pytest.approx(value, abs=0.1), name
    assert found["metrics"]["images"] == 4
    assert [c["pixels"] for c in found["per_class"]] == [c["pixels"] for c in expected["per_class"]]
    assert found["parameters"] == expected["parameters"]
    for (i, before), (j, after) in zip(expected["losses"], found["losses"], strict=True):
        assert i == j
        assert after["loss"] == pytest.approx(before["loss"], rel=1e-5)


# Disturbed


@pytest.mark.slow
def test_a_signal_to_one_stops_all_and_the_same_bits_follow(
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

    by_one = RunFolder(tmp_path / "one" / folder.run_id)
    shutil.copytree(folder.path, by_one.path)

    assert Workers(folder, step=1).end() == [0, 0], log(folder)
    assert "going on from iteration 4" in log(folder)
    assert_same_result(folder, finished)
    mine, theirs = (
        torch.load(sorted(f.checkpoints.glob("*.pth"))[-1], weights_only=True)["others"][0]
        for f in (folder, finished)
    )
    assert torch.equal(mine["torch"], theirs["torch"])

    assert work(by_one)[0] == 0, "with another number of processes"
    assert "is of 2 processes, here are 1: what they draw" in log(by_one)
    assert record_of(by_one)["provenance"]["processes"] == 1


def test_a_process_that_was_not_there_before_draws_its_own(
    shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def drawn(rank: int, world: int) -> float:
        monkeypatch.setattr(checkpoint, "rank", lambda: rank)
        monkeypatch.setattr(checkpoint, "world_size", lambda: world)
        parts = build_components(build_config(small_spec(), data_root=shapes_root), None)
        if rank == 0 and world == 1:
            checkpoint.save(parts, tmp_path, 3, {})
        checkpoint.restore(parts, checkpoint.at(tmp_path, 3))
        return float(torch.rand(1))

    first = drawn(0, 1)
    assert capsys.readouterr().out == ""
    assert drawn(0, 2) == first
    assert "is of 1 processes, here are 2: what they draw" in capsys.readouterr().out
    second, third = drawn(1, 3), drawn(2, 3)
    assert len({first, second, third}) == 3
    assert drawn(1, 3) == second, "the same every time"


def test_when_one_is_killed_the_others_end_and_say_so(
    spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, spec, data, checkpoint_seconds=0)
    workers = Workers(folder, codes={0: IMPATIENT, 1: pause_after(3)})
    wait_for_checkpoint(folder, 3, *workers.processes)
    workers.processes[1].kill()
    assert workers.end() == [75, -signal.SIGKILL]
    assert ends(folder) == ["lost"]
    assert "another process of the run is gone" in folder.attempts()[0].message
    assert not folder.claim.exists()


def test_when_the_first_is_killed_the_other_ends(spec: RunSpec, data: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, spec, data, checkpoint_seconds=0)
    workers = Workers(folder, codes={0: pause_after(3)})
    wait_for_checkpoint(folder, 3, *workers.processes)
    workers.processes[0].kill()
    assert workers.end() == [-signal.SIGKILL, 1]
    assert folder.attempts()[0].end is None
    text = (folder.attempts_folder / "0001" / "log.rank1.txt").read_text()
    assert "another process of the run is gone" in text


@pytest.mark.parametrize("stays", ["", STAYS], ids=["leaves", "hangs"])
def test_the_reason_is_that_of_the_process_that_failed(
    spec: RunSpec, data: Path, tmp_path: Path, stays: str
) -> None:
    folder = make_folder(tmp_path, spec, data)
    workers = Workers(folder, codes={0: IMPATIENT, 1: SECOND_FAILS + stays})
    if stays:
        assert workers.processes[0].wait(DEADLINE) == 1
        workers.processes[1].kill()
    assert workers.end()[0] == 1
    (attempt,) = folder.attempts()
    assert ends(folder) == ["bad_data"]
    assert attempt.message == "process 1 of 2: images/00003.png: can not be read"
    text = (folder.attempts_folder / "0001" / "log.rank1.txt").read_text()
    assert "end: bad_data. images/00003.png" in text
    assert not folder.claim.exists()


def test_a_full_disk_ends_all(spec: RunSpec, data: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, spec, data, checkpoint_seconds=0)
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))"
    assert Workers(folder, codes={0: limit}).end() == [75, 1]
    assert ends(folder) == ["storage"]


def test_a_failure_before_all_are_together_is_not_waited_for(
    spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    no_log = """
from pathlib import Path
from protoseg import files
worker._redirect_output = lambda log: (_ for _ in ()).throw(
    files.storage_error(OSError(28, "No space left on device"), log))
"""
    folder = make_folder(tmp_path, spec, data)
    assert Workers(folder, codes={1: no_log}).end() == [75, 0]
    assert ends(folder) == ["storage"]
    assert folder.attempts()[0].message.startswith("process 1 of 2: ")


def test_a_batch_that_can_not_be_shared_is_one_sentence(data: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, small_spec("schedule.batch_size=5"), data)
    assert Workers(folder).end()[0] == 1
    assert ends(folder) == ["bad_config"]
    assert folder.attempts()[0].message == (
        "schedule.batch_size: 5 images can not be shared evenly by 2 processes; "
        "choose a multiple of 2."
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_who_comes_alone_does_not_wait_for_ever(
    spec: RunSpec, data: Path, tmp_path: Path, rank: int
) -> None:
    folder = make_folder(tmp_path, spec, data)
    workers = Workers(folder, code=NOBODY_COMES, ranks=[rank])
    (status,) = workers.end()
    if rank == 0:
        assert status == 75
        assert ends(folder) == ["lost"]
        assert "1 of 2 processes came together within 1 s" in folder.attempts()[0].message
    else:
        assert status == 1
        assert "waited 1 s in vain for the first one" in workers.output[0]
        assert "did not appear in the run folder" in workers.output[0]
        assert folder.attempts() == []
    assert hidden(folder) == []


# Claims


def test_a_requeued_job_waits_for_the_claim_of_its_earlier_life(
    spec: RunSpec, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fresh heartbeat on a node out of sight: it will not come back, but that must show."""
    from protoseg.training import worker
    from protoseg.training.signals import StopRequest

    folder = make_folder(tmp_path, spec, data)
    for key, value in environment(0, 1, restarts=1).items():
        monkeypatch.setenv(key, value)
    waits: list[float] = []

    def let_time_pass(seconds: float) -> None:
        """The heartbeat is still fresh after the first wait, and too old after the second."""
        waits.append(seconds)
        moment = time.time() - (len(waits) - 1) * 2 * claim.STALE_SECONDS
        os.utime(folder.claim, (moment, moment))

    monkeypatch.setattr(worker.time, "sleep", let_time_pass)
    holder = {"host": "gone/1/1", "pid": 1, "process_started": "1", "nonce": "x", "job": JOB}
    folder.claim.write_text(json.dumps(holder))
    held = worker._claim(folder, StopRequest())
    assert held is not None
    held.release()
    assert len(waits) == 2

    waits.clear()
    folder.claim.write_text(json.dumps({**holder, "job": "7"}))
    assert worker._claim(folder, StopRequest()) is None
    assert waits == [], "a claim of another job is not waited for"


# Meeting


def test_the_place_is_what_srun_says(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_outside_of_a_step_it_is_alone(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in environment(0, 4).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("SLURM_STEP_ID", step)
    assert rank_from_slurm() == RankInfo()


@pytest.mark.parametrize("nodes", [1, 2])
def test_the_others_find_the_store_of_their_own_step(
    tmp_path: Path, nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RankInfo(0, 2, 0, nodes, "7.0.0")
    stores = [create_store(tmp_path, place) for place in (first, RankInfo(0, 2, 0, nodes, "7.1.0"))]
    for number, store in enumerate(stores):
        store.set("which", str(number))
        found = join_store(tmp_path, RankInfo(1, 2, 1, nodes, f"7.{number}.0"), DEADLINE)
        assert found.get("which") == str(number).encode()
    where: dict[str, Any] = json.loads(meeting_file(tmp_path, first).read_text())
    assert connect("127.0.0.1", where["port"], "another word") is None
    meeting_file(tmp_path, first).write_text(json.dumps({**where, "port": 9}))
    moments = itertools.count()  # a second passes from one look at the clock to the next
    clock = SimpleNamespace(monotonic=lambda: next(moments), sleep=lambda seconds: None)
    monkeypatch.setattr(rendezvous, "time", clock)
    with pytest.raises(RendezvousError, match="nothing answers at port 9 of"):
        join_store(tmp_path, RankInfo(1, 2, 1, nodes, "7.0.0"), seconds=3)
