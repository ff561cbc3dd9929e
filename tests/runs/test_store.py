"""Finding records: in either place, never trusting one that does not prove itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from report.lab import Lab, make_record, make_spec

from protoseg.config.identity import run_id
from protoseg.errors import ProtosegError
from protoseg.runs import claim
from protoseg.runs.record import seal
from protoseg.runs.states import Reason, State
from protoseg.runs.store import RecordStore

SPEC = make_spec()
ID = run_id(SPEC)


def test_nothing_is_new(lab: Lab) -> None:
    assert lab.store.find(ID).status.state is State.NEW
    assert RecordStore([], None).find(ID).record is None


@pytest.mark.parametrize("in_runs", [False, True])
def test_found_in_either_place(lab: Lab, in_runs: bool) -> None:
    path = lab.finish(SPEC, 70.0, in_runs)
    found = lab.store.find(ID)
    assert (found.status.state, found.source, found.damaged) == (State.DONE, path, False)
    assert found.record is not None
    assert found.record["metrics"]["miou"] == 70.0


def test_the_same_record_twice_is_fine_a_different_one_is_not(lab: Lab) -> None:
    first = lab.finish(SPEC, 70.0)
    second = lab.finish(SPEC, 70.0, in_runs=True)
    assert lab.store.find(ID).record is not None
    lab.finish(SPEC, 71.0, in_runs=True)
    with pytest.raises(ProtosegError) as error:
        lab.store.find(ID)
    assert str(first) in str(error.value)
    assert str(second) in str(error.value)


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _edited(path: Path) -> None:
    path.write_text(path.read_text().replace("70.0", "99.0", 1))


def _newer(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))


def _nan(path: Path) -> None:
    path.write_text(path.read_text().replace("70.0", "NaN", 1))


def _other_run(path: Path) -> None:
    path.write_text(json.dumps(make_record(make_spec(1), 70.0)))


def _other_spec(path: Path) -> None:
    record = {**make_record(SPEC, 70.0), "spec": {"seed": 3}}
    path.write_text(json.dumps(seal(record)))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [_torn, _edited, _newer, _nan, _other_run, _other_spec, _folder]


@pytest.mark.parametrize("in_runs", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_records_warn_and_do_not_count(lab: Lab, damage, in_runs: bool) -> None:  # type: ignore[no-untyped-def]
    path = lab.finish(SPEC, 70.0, in_runs)
    damage(path)
    for _ in range(2):
        found = lab.store.find(ID)
        assert found.damaged
        assert found.record is None
    assert len(lab.store.warnings) == 1
    assert str(path.parent) in lab.store.warnings[0]


def test_a_good_copy_is_used_and_the_bad_one_named(lab: Lab) -> None:
    lab.finish(SPEC, 70.0)
    _torn(lab.finish(SPEC, 70.0, in_runs=True))
    assert lab.store.find(ID).record is not None
    assert len(lab.store.warnings) == 1


def test_failed_running_and_odd_folders(lab: Lab) -> None:
    lab.fail(SPEC, "out_of_memory", "CUDA out of memory")
    status = lab.store.find(ID).status
    assert (status.state, status.reason) == (State.FAILED, Reason.OUT_OF_MEMORY)
    assert status.message == "CUDA out of memory"
    held = claim.acquire(lab.runs / ID / "claim.json")
    assert held is not None
    assert lab.store.find(ID).status.state is State.RUNNING
    held.release()
    shutil.rmtree(lab.runs / ID)
    lab.fail(SPEC, "a reason of the future")
    later = lab.store.find(ID).status  # written by a newer version: known to have failed, no more
    assert (later.state, later.reason) == (State.FAILED, Reason.CODE_ERROR)
