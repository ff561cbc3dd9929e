"""The curves of a run from its progress file or its record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protoseg.runs.folder import RunFolder, Status
from protoseg.runs.loss_history import LossHistory, read_loss_history
from protoseg.runs.states import State

RUNNING = Status(State.RUNNING)


def test_a_running_run_has_its_curves_in_the_progress_file(tmp_path: Path) -> None:
    progress = {"iteration": 30, "losses": [[10, 2.5], [20, 1]], "evaluations": [[15, 40.5]]}
    (tmp_path / "progress.json").write_text(json.dumps(progress))
    history = read_loss_history(RunFolder(tmp_path), RUNNING)
    assert history == LossHistory(((10, 2.5), (20, 1.0)), ((15, 40.5),))


@pytest.mark.parametrize("text", ["", "[1]", '{"losses": 3}', '{"losses": {"a": 1}}', None])
def test_a_missing_or_damaged_progress_file_has_no_curve(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "progress.json").write_text(text)
    assert read_loss_history(RunFolder(tmp_path), RUNNING) == LossHistory()


def test_damaged_points_are_left_out(tmp_path: Path) -> None:
    text = '{"losses": [[1, "x"], [2], 3, null, [4, NaN], [5, 0.5], ["6", 1.0]]}'
    (tmp_path / "progress.json").write_text(text)
    assert read_loss_history(RunFolder(tmp_path), RUNNING).losses == ((5, 0.5),)


def test_a_finished_run_has_its_curves_in_the_record(tmp_path: Path) -> None:
    record: dict[str, Any] = {
        "spec": {"schedule": {"iterations": 20, "stop_after": 10}},
        "metrics": {"miou": 60.5},
        "losses": [[5, {"loss": 2.0, "loss_ce": 1.5}], [10, {"loss": 1.0}]],
    }
    status = Status(State.DONE, record=record)
    history = read_loss_history(RunFolder(tmp_path), status)
    assert history == LossHistory(((5, 2.0), (10, 1.0)), ((10, 60.5),))
    record["curve"] = [{"iteration": 5, "miou": 30.0}, {"iteration": 10, "miou": 60.5}]
    assert read_loss_history(RunFolder(tmp_path), status).metrics == ((5, 30.0), (10, 60.5))
