"""The progress of a sweep, on a terminal and in a pipe."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from report.lab import make_spec
from rich.console import Console

from protoseg import files
from protoseg.cli.local_sweep import label_runs
from protoseg.cli.views import sweep
from protoseg.cli.views.sweep import (
    SILENCE_SECONDS,
    LineDisplay,
    RunProgress,
    read_progress,
    render_rows,
)
from protoseg.config.matrix import PlannedRun
from protoseg.planning.plan import PlanEntry
from protoseg.runs.folder import RunFolder, Status
from protoseg.runs.states import State


def draw_rows(rows: list[RunProgress], width: int, **options: Any) -> list[str]:
    """The lines of a sweep with 3 of 9 runs finished."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render_rows(rows, finished=3, total=9, width=width, **options))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [80, 120])
def test_rows_fit_the_terminal(width: int) -> None:
    lines = draw_rows(
        [
            RunProgress("Parametric, K = 1, seed 0", 57, 240, 0.4021, 8.1),
            RunProgress("ProtoSeg, K = 4, seed 0", 0, 0, phase="importing torch and mmseg"),
        ],
        width,
        seconds_left=95.0,
    )
    assert len(lines) == 3
    assert all(len(line) <= width for line in lines)
    assert lines[0].startswith("Parametric, K = 1")
    assert "57/240" in lines[0]
    assert lines[0].rstrip().endswith("loss 0.4021, 23 s left")
    assert lines[1].startswith("ProtoSeg, K = 4")
    assert "importing" in lines[1]
    assert lines[2].startswith("all runs")
    assert "3/9" in lines[2]
    assert "about 2 min left" in lines[2]


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_folds_labels_and_leaves_room_for_the_echo_of_ctrl_c(width: int) -> None:
    label = "Prototypes (paper, scores / 0.1), num_prototypes="
    rows = [RunProgress(f"{label}{k}", 57, 240, 0.4021, 8.1) for k in (1, 2)]
    lines = draw_rows(rows, width)
    text = "".join("".join(line.split()) for line in lines)
    assert "…" not in "".join(line[: width // 3] for line in lines)
    assert all(len(line.rstrip()) <= width - 4 for line in lines)
    assert "prototypes=1" in text or "=1" in text
    assert "=2" in text


def make_entries(*axes: dict[str, object]) -> list[PlanEntry]:
    """One entry per dictionary of axes; all are the same run but for their seeds."""
    entries = []
    for number, each in enumerate(axes):
        run = PlannedRun(make_spec(number), dict(each))
        entries.append(PlanEntry(run, Status(State.NEW), ("m",), None))
    return entries


def test_labels_have_what_differs_between_runs() -> None:
    entries = make_entries(
        {"label": "Paper", "method.num_prototypes": 1, "method.kappa": 0.1},
        {"label": "Paper", "method.num_prototypes": 4, "method.kappa": 0.1},
    )
    labels, shared = label_runs(entries, full=False)
    assert list(labels.values()) == ["num_prototypes=1, seed 0", "num_prototypes=4, seed 1"]
    assert shared == "Paper, method.kappa=0.1"
    labels, shared = label_runs(entries, full=True)
    assert next(iter(labels.values())) == (
        "Paper, method.num_prototypes=1, method.kappa=0.1, seed 0"
    )
    assert shared == ""
    # A single run is named by its id, which other commands take.
    ((name, label),) = label_runs(make_entries({}), full=False)[0].items()
    assert label == name


def test_equal_ends_of_keys_are_not_shortened() -> None:
    entries = make_entries(
        {"method.scale": 1, "data.scale": 1}, {"method.scale": 2, "data.scale": 2}
    )
    labels, _ = label_runs(entries, full=False)
    assert next(iter(labels.values())) == "method.scale=1, data.scale=1, seed 0"


def make_folder_with_attempt(path: Path, log: str) -> RunFolder:
    """A run folder with one attempt and its log."""
    folder = RunFolder(path / "run")
    folder.path.mkdir()
    attempt = folder.start_attempt({"iteration": 0})
    (attempt / "log.txt").write_text(log)
    return folder


def test_the_phase_is_read_from_the_log_until_the_first_iteration(tmp_path: Path) -> None:
    time = "2026-11-29T19:00:00+00:00"
    folder = make_folder_with_attempt(
        tmp_path, f"{time}  checking data\nwarning\n{time}  building\n"
    )
    assert folder.phase(attempts_before=0) == "building"
    assert read_progress("a run", folder, folder.status(), 0).text == "building"
    assert folder.phase(attempts_before=1) == "starting", "this log is of an earlier attempt"

    files.write_json(folder.progress, {"iteration": 5, "iterations": 20, "loss": 0.5,
                                        "iterations_per_second": 5.0})  # fmt: skip
    assert folder.phase(attempts_before=0) is None
    progress = read_progress("a run", folder, folder.status(), 0)
    assert (progress.iteration, progress.text) == (5, "loss 0.5000, 3 s left")

    files.write_json(folder.progress, {"iteration": 20, "iterations": 20})
    assert read_progress("a run", folder, folder.status(), 0).text == "evaluating"


def test_a_pipe_gets_a_line_at_the_first_loss_and_after_a_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(sweep.time, "monotonic", lambda: now)
    console = Console(file=io.StringIO(), width=80)
    display = LineDisplay(console, {"run": "ProtoSeg, seed 0"}, 2, 0)
    folder = make_folder_with_attempt(tmp_path, "2026-11-29T19:00:00+00:00  building\n")
    active = SimpleNamespace(folder=folder, worker=SimpleNamespace(pid=1), attempts_before=0)
    local_sweep: Any = SimpleNamespace(active=[active], is_importing=False)

    def new_lines() -> list[str]:
        text = console.file.getvalue()  # type: ignore[attr-defined]
        console.file.truncate(0)
        console.file.seek(0)
        return text.splitlines()

    display.show_progress(local_sweep)
    assert new_lines() == []
    now += SILENCE_SECONDS
    display.show_progress(local_sweep)
    assert new_lines() == ["running  run  building"]
    files.write_json(folder.progress, {"iteration": 1, "iterations": 20, "loss": 1.5})
    for expected in (["running  run  iteration 1/20, loss 1.5000, unknown left"], []):
        display.show_progress(local_sweep)
        assert new_lines() == expected


def test_the_time_left_includes_waiting_runs(tmp_path: Path) -> None:
    display = LineDisplay(Console(file=io.StringIO()), {}, 5, 0)
    starting = RunProgress("b", 0, 0, phase="building")
    assert display._seconds_left([starting], 2) is None
    display.waiting = 2
    training = RunProgress("a", 50, 100, 0.5, 10.0)
    # One run needs 5 s more and three others 10 s each; two run at the same time.
    assert display._seconds_left([training, starting], 2) == pytest.approx((5 + 3 * 10) / 2)
    display.run_seconds = [20.0]
    assert display._seconds_left([training, starting], 2) == pytest.approx((5 + 3 * 20) / 2)
