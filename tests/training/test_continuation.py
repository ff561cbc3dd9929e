"""Runs that end early (``schedule.stop_after``), and runs that continue them bit by bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from waiting import finish

from protoseg.errors import UsageError
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import seal
from protoseg.training import checkpoint
from protoseg.training.continuation import find_continued
from training.small import (
    log,
    make_folder,
    pause_after,
    record_of,
    result,
    small_spec,
    start_worker,
    wait_for_checkpoint,
    work,
)
from training.test_worker import assert_same_result

SPEC = (
    *("method=released", "method.num_prototypes=3", "method.momentum=0.9"),
    *("schedule.learning_rate=0.003", "evaluation.every=2"),
)


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run trained from the first iteration to the last, with no other run beside it."""
    folder = make_folder(tmp_path_factory.mktemp("alone"), small_spec(*SPEC), data)
    assert work(folder)[0] == 0, log(folder)
    return folder


@pytest.fixture(scope="module")
def early(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The same run, ended after 5 of 12 iterations."""
    spec = small_spec(*SPEC, "schedule.stop_after=5")
    folder = make_folder(tmp_path_factory.mktemp("early"), spec, data)
    assert work(folder)[0] == 0, log(folder)
    return folder


def copy_beside(run: RunFolder, parent: Path) -> RunFolder:
    shutil.copytree(run.path, parent / run.run_id)
    return RunFolder(parent / run.run_id)


def test_a_run_that_ends_early_is_the_beginning_of_the_whole_one(
    alone: RunFolder, early: RunFolder
) -> None:
    short, whole = record_of(early), record_of(alone)
    assert short["spec"]["schedule"]["stop_after"] == 5
    assert [point["iteration"] for point in short["curve"]] == [2, 4, 5]
    assert short["curve"][:2] == whole["curve"][:2]
    assert short["losses"] == whole["losses"][:5]
    assert "continued" not in short["provenance"]
    assert early.checkpoint_iteration() == 5


def test_a_continued_run_has_the_same_bits(
    alone: RunFolder, early: RunFolder, data: Path, tmp_path: Path
) -> None:
    copy_beside(early, tmp_path)
    folder = make_folder(tmp_path, small_spec(*SPEC), data)
    assert work(folder)[0] == 0, log(folder)
    assert f"resuming from iteration 5 of {early.run_id}" in log(folder)
    assert_same_result(folder, alone)
    record = record_of(folder)
    assert record["provenance"]["continued"] == {"run_id": early.run_id, "iteration": 5}
    assert record["attempts"] == 1


def test_the_longest_run_is_continued_through_several_rungs(
    alone: RunFolder, early: RunFolder, data: Path, tmp_path: Path
) -> None:
    copy_beside(early, tmp_path)
    middle = make_folder(tmp_path, small_spec(*SPEC, "schedule.stop_after=8"), data)
    assert work(middle)[0] == 0, log(middle)
    folder = make_folder(tmp_path, small_spec(*SPEC), data)
    assert work(folder)[0] == 0, log(folder)
    assert record_of(middle)["provenance"]["continued"]["run_id"] == early.run_id
    continued = record_of(folder)["provenance"]["continued"]
    assert continued == {"run_id": middle.run_id, "iteration": 8}
    assert_same_result(folder, alone)


def test_a_continued_run_resumes_from_its_own_checkpoint(
    alone: RunFolder, early: RunFolder, data: Path, tmp_path: Path
) -> None:
    other = copy_beside(early, tmp_path)
    folder = make_folder(tmp_path, small_spec(*SPEC), data, checkpoint_seconds=0)
    process = start_worker(folder, pause_after(7))
    wait_for_checkpoint(folder, 7, process)
    process.kill()
    finish(process)
    shutil.rmtree(other.path)
    assert work(folder)[0] == 0, log(folder)
    assert "resuming from iteration 7\n" in log(folder)
    assert record_of(folder)["provenance"]["continued"]["run_id"] == early.run_id
    assert_same_result(folder, alone)


@pytest.mark.parametrize("fault", ["damaged", "without record", "other seed"])
def test_a_run_that_cannot_be_continued_is_left_alone(
    fault: str, alone: RunFolder, early: RunFolder, data: Path, tmp_path: Path
) -> None:
    other = copy_beside(early, tmp_path)
    if fault == "damaged":
        path = other.checkpoints / "iter_00000005.pth"
        path.write_bytes(path.read_bytes()[:-1])
    elif fault == "without record":
        other.record.unlink()
    else:
        content = json.loads(other.spec.read_text())
        content["spec"]["schedule"]["learning_rate"] = 0.004
        other.spec.write_text(json.dumps(content))
    before = sorted(path.name for path in other.checkpoints.iterdir())
    folder = make_folder(tmp_path, small_spec(*SPEC), data)
    assert work(folder)[0] == 0, log(folder)
    assert "resuming" not in log(folder)
    assert "continued" not in record_of(folder)["provenance"]
    assert result(folder) == result(alone)
    assert sorted(path.name for path in other.checkpoints.iterdir()) == before


def test_an_end_after_the_schedule_is_refused() -> None:
    from protoseg.config.validation import check_values

    with pytest.raises(UsageError, match=r"stop_after: 12 is not less than the 12 iterations"):
        check_values(small_spec(*SPEC, "schedule.stop_after=12"), "test")
    with pytest.raises(UsageError, match=r"evaluation.every: 2 is more than the 1 iterations"):
        check_values(small_spec(*SPEC, "schedule.stop_after=1"), "test")


def test_damaged_folders_beside_a_run_do_not_stop_it(
    early: RunFolder, data: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, small_spec(*SPEC, "schedule.stop_after=2"), data)
    for number, content in enumerate(('{"spec": {}}', '{"spec": []}', "{", '{"spec": null}')):
        other = tmp_path / f"{folder.run_id[:-10]}000000000{number}"
        other.mkdir()
        (other / "spec.json").write_text(content)
    copy_beside(early, tmp_path).record.write_text("[]")
    assert work(folder)[0] == 0, log(folder)


def test_a_run_on_other_data_is_not_continued(early: RunFolder, data: Path, tmp_path: Path) -> None:
    record = record_of(early)
    del record["digest"]
    record["provenance"]["data_digest"] = "0" * 64
    copy_beside(early, tmp_path).record.write_text(json.dumps(seal(record)))
    folder = make_folder(tmp_path, small_spec(*SPEC), data)
    assert find_continued(small_spec(*SPEC), folder, "0" * 64) is not None
    assert find_continued(small_spec(*SPEC), folder, "1" * 64) is None


def test_the_best_model_of_the_continued_run_is_kept(
    early: RunFolder, data: Path, tmp_path: Path
) -> None:
    """If the best evaluation was before the continued run ended, its model is copied."""
    other = copy_beside(early, tmp_path)
    best = checkpoint.find_best(other.checkpoints)
    assert best is not None
    folder = make_folder(tmp_path, small_spec(*SPEC), data)
    checkpoint.copy_best(other.checkpoints, folder.checkpoints, best.iteration)
    copied = checkpoint.find_best(folder.checkpoints)
    assert copied is not None
    assert copied.path.read_bytes() == best.path.read_bytes()
    checkpoint.copy_best(other.checkpoints, tmp_path / "none", best.iteration + 1)
    assert not (tmp_path / "none").exists()
