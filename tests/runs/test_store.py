"""The lookup of records in folders of records and in run folders."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from report.lab import Lab, make_record, make_spec

from protoseg.config.identity import run_id
from protoseg.errors import ProtosegError
from protoseg.runs import claim, sealed
from protoseg.runs.folder import Status
from protoseg.runs.record import seal
from protoseg.runs.states import Reason, State
from protoseg.runs.store import RecordStore, all_records, read_statuses

SPEC = make_spec()
ID = run_id(SPEC)


def read_status(lab: Lab) -> tuple[Status, list[str]]:
    """The status of the run, and the problems, as a plan reads them."""
    statuses, problems = read_statuses([ID], lab.runs, [lab.records])
    return statuses[ID], problems


def test_a_run_without_files_is_new(lab: Lab) -> None:
    assert lab.store.find(ID).status.state is State.NEW
    assert RecordStore([], None).find(ID).record is None
    assert read_status(lab) == (Status(State.NEW), [])


@pytest.mark.parametrize("in_runs", [False, True])
def test_a_record_is_found_in_either_place(lab: Lab, in_runs: bool) -> None:
    path = lab.finish(SPEC, 70.0, in_runs)
    result = lab.store.find(ID)
    assert (result.status.state, result.source, result.damaged) == (State.DONE, path, False)
    assert result.record is not None
    assert result.record["metrics"]["miou"] == 70.0
    status, problems = read_status(lab)
    assert (status.state, status.record, problems) == (State.DONE, result.record, [])


def test_the_status_of_a_published_run_has_the_progress_of_its_folder(lab: Lab) -> None:
    published = lab.finish(SPEC, 70.0)
    in_runs = lab.finish(SPEC, 70.0, in_runs=True)
    (in_runs.parent / "progress.json").write_text('{"iteration": 40, "loss": 0.5}')
    result = lab.store.find(ID)
    assert result.source == published
    assert (result.status.iteration, result.status.loss) == (40, 0.5)


def test_equal_records_in_two_places_are_valid_and_different_ones_raise(lab: Lab) -> None:
    published = lab.finish(SPEC, 70.0)
    in_runs = lab.finish(SPEC, 70.0, in_runs=True)
    assert lab.store.find(ID).record is not None
    assert read_status(lab)[1] == []
    lab.finish(SPEC, 71.0, in_runs=True)
    with pytest.raises(ProtosegError) as error:
        lab.store.find(ID)
    assert str(error.value) == (
        f"{published} and {in_runs}: two different results of run {ID}. "
        "Move one of the two files away, or ignore the published ones with --ignore-records."
    )


def test_a_plan_reports_two_different_results_and_goes_on(lab: Lab) -> None:
    lab.finish(SPEC, 70.0)
    lab.finish(SPEC, 71.0, in_runs=True)
    status, problems = read_status(lab)
    assert status.state is State.DONE
    assert status.record is not None
    assert status.record["metrics"]["miou"] == 71.0, "the record of the run folder"
    assert len(problems) == 1
    assert f"two different results of run {ID}" in problems[0]


def _tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _edit(path: Path) -> None:
    path.write_text(path.read_text().replace("70.0", "99.0", 1))


def _make_newer(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))


def _write_nan(path: Path) -> None:
    path.write_text(path.read_text().replace("70.0", "NaN", 1))


def _replace_by_other_run(path: Path) -> None:
    path.write_text(json.dumps(make_record(make_spec(1), 70.0)))


def _replace_by_other_spec(path: Path) -> None:
    record = {**make_record(SPEC, 70.0), "spec": {"seed": 3}}
    path.write_text(json.dumps(seal(record)))


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = {
    _tear: "torn record",
    _edit: "does not match its digest",
    _make_newer: "record of schema 99",
    _write_nan: "NaN is not JSON",
    _replace_by_other_run: "is the record of ",
    _replace_by_other_spec: "holds another spec than run ",
    _replace_by_folder: "cannot be read: Is a directory.",
}


@pytest.mark.parametrize("in_runs", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_not_used_and_gives_one_warning(
    lab: Lab, damage: Any, in_runs: bool
) -> None:
    path = lab.finish(SPEC, 70.0, in_runs)
    damage(path)
    for _ in range(2):
        result = lab.store.find(ID)
        assert result.damaged
        assert (result.record, result.source) == (None, path)
    (warning,) = lab.store.warnings
    assert warning.startswith(f"{path}: ")
    assert DAMAGES[damage] in warning
    assert read_status(lab) == (Status(State.FAILED, message=warning), [warning])


@pytest.mark.parametrize("damaged_in_runs", [False, True])
def test_a_valid_copy_is_used_and_the_damaged_one_reported(lab: Lab, damaged_in_runs: bool) -> None:
    lab.finish(SPEC, 70.0, in_runs=not damaged_in_runs)
    path = lab.finish(SPEC, 70.0, in_runs=damaged_in_runs)
    _tear(path)
    assert lab.store.find(ID).record is not None
    assert len(lab.store.warnings) == 1
    status, problems = read_status(lab)
    assert status.state is State.DONE
    assert problems == lab.store.warnings
    assert str(path) in problems[0]


def test_a_damaged_published_record_blocks_a_run_that_never_finished(lab: Lab) -> None:
    _tear(lab.finish(SPEC, 70.0))
    lab.start(SPEC).start_attempt({"iteration": 0})
    assert lab.store.find(ID).damaged
    assert read_status(lab)[0].state is State.FAILED


def test_a_run_folder_with_unexpected_json_is_damaged(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(record: object) -> str:
        raise TypeError("no mapping")

    lab.finish(SPEC, 70.0, in_runs=True)
    monkeypatch.setattr(sealed, "digest", fail)
    assert lab.store.find(ID).damaged
    assert "damaged, no mapping. Restore it" in lab.store.warnings[0]


def test_failed_and_running_runs_and_unknown_reasons_are_found(lab: Lab) -> None:
    lab.fail(SPEC, "out_of_memory", "CUDA out of memory")
    status = lab.store.find(ID).status
    assert (status.state, status.reason) == (State.FAILED, Reason.OUT_OF_MEMORY)
    assert status.message == "CUDA out of memory"
    held = claim.acquire(lab.runs / ID / "claim.json")
    assert held is not None
    assert lab.store.find(ID).status.state is State.RUNNING
    held.release()
    shutil.rmtree(lab.runs / ID)
    lab.fail(SPEC, "a reason of a newer version")
    status = lab.store.find(ID).status
    assert (status.state, status.reason) == (State.FAILED, Reason.CODE_ERROR)


def test_a_run_that_never_started_costs_one_open_a_record_folder_and_one_stat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("open", "stat", "listdir", "scandir", "mkdir"):
        real = getattr(os, name)

        def record_call(*args: Any, name: str = name, real: Any = real, **options: Any) -> Any:
            calls.append(name)
            return real(*args, **options)

        monkeypatch.setattr(os, name, record_call)
    real_read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: calls.append("open") or real_read(path))
    RecordStore([tmp_path / "a", tmp_path / "b"], tmp_path / "runs").find(ID)
    assert sorted(calls) == ["open", "open", "stat"]


def test_all_records_leaves_out_unreadable_ones(lab: Lab, tmp_path: Path) -> None:
    lab.finish(SPEC, 70.0)
    _tear(lab.finish(make_spec(1), 70.0))
    (lab.records / "folder.json").mkdir()
    readable = list(all_records([lab.records, tmp_path / "nothing"]))
    assert [record["run_id"] for record in readable] == [ID]
