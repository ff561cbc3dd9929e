"""Loggers of real workers: the result has the same bits, whatever the loggers do."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from loggers.plugins import RECORDER, install_logger, prepend_path
from waiting import finish

from protoseg.config.identity import run_id
from protoseg.runs.folder import RunFolder
from protoseg.training.reporting.run_log import RunLog
from training.launch import Workers
from training.small import (
    log,
    log_paths,
    make_folder,
    pause_after,
    record_of,
    result,
    small_spec,
    start_worker,
    wait_for_checkpoint,
    work,
)

EVALUATED = ("evaluation.every=5",)


@pytest.fixture(scope="module")
def unlogged(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run without a logger."""
    folder = make_folder(tmp_path_factory.mktemp("unlogged"), small_spec(*EVALUATED), data)
    assert work(folder)[0] == 0
    return folder


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The logger ``recorder``, for workers of this test."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    install_logger(folder, "recorder", RECORDER, "Recorder")
    monkeypatch.setenv("PYTHONPATH", prepend_path(folder))
    return monkeypatch


def read_lines(folder: RunFolder) -> list[dict[str, Any]]:
    text = (folder.path / "log.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_logged_run_has_the_bits_of_an_unlogged_one(
    tmp_path: Path, data: Path, unlogged: RunFolder
) -> None:
    spec = small_spec(*EVALUATED)
    folder = make_folder(tmp_path, spec, data, loggers=["jsonl"])
    assert work(folder)[0] == 0
    assert folder.run_id == unlogged.run_id == run_id(spec)
    assert result(folder) == result(unlogged)
    record, without = record_of(folder), record_of(unlogged)
    digests = [r["provenance"]["state_sha256"] for r in (record, without)]
    assert digests[0] == digests[1]
    assert "logger" not in json.dumps(record)
    lines = read_lines(folder)
    assert lines[0]["spec"] == record["spec"]
    values = [line for line in lines if line["event"] == "values"]
    assert [line["iteration"] for line in values] == [*range(1, 13)]
    for line, (iteration, means) in zip(values, record["losses"], strict=True):
        assert (line["iteration"], {name: line[name] for name in means}) == (iteration, means)
    assert all(line["iterations_per_second"] > 0 for line in values)
    # The warm-up ends at iteration 2 with the learning rate of the schedule.
    rates = [line["learning_rate"] for line in values]
    assert max(rates) == rates[2] <= spec.schedule.learning_rate
    assert rates[2] > 0.8 * spec.schedule.learning_rate
    metrics = {line["iteration"]: line["miou"] for line in lines if line["event"] == "metrics"}
    assert metrics == {point["iteration"]: point["miou"] for point in record["curve"]}
    assert lines[-1] == {"event": "end", "reason": "done"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_resumed_run_continues_its_log(
    tmp_path: Path, data: Path, unlogged: RunFolder, number: signal.Signals
) -> None:
    folder = make_folder(
        tmp_path, small_spec(*EVALUATED), data, loggers=["jsonl"], checkpoint_seconds=0.0
    )
    process = start_worker(folder, pause_after(7))
    wait_for_checkpoint(folder, 7, process)
    process.send_signal(number)
    finish(process, logs=log_paths(folder))  # type: ignore[arg-type]
    assert work(folder)[0] == 0
    assert result(folder) == result(unlogged)
    lines = read_lines(folder)
    values = [line["iteration"] for line in lines if line["event"] == "values"]
    assert values == [*range(1, 13)]
    metrics = [line["iteration"] for line in lines if line["event"] == "metrics"]
    assert metrics == [5, 10, 12]
    # After SIGTERM the worker finishes the iteration that it has begun.
    resumed_from = 8 if number == signal.SIGTERM else 7
    assert [line["iteration"] for line in lines if line["event"] == "start"] == [0, resumed_from]


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("raise", "logger recorder: off: ValueError: the service refused it"),
        ("die", "logger recorder: off: its process ended, status 9."),
    ],
)
def test_a_broken_logger_changes_nothing(
    tmp_path: Path,
    data: Path,
    unlogged: RunFolder,
    recorder: pytest.MonkeyPatch,
    how: str,
    line: str,
) -> None:
    recorder.setenv("RECORDER_CALL", "log")
    recorder.setenv("RECORDER_HOW", how)
    folder = make_folder(tmp_path, small_spec(*EVALUATED), data, loggers=["recorder", "jsonl"])
    assert work(folder)[0] == 0
    assert result(folder) == result(unlogged)
    warnings = [text for text in log(folder).splitlines() if "logger" in text]
    assert [text.partition("  ")[2] for text in warnings] == [line]
    assert read_lines(folder)[-1]["reason"] == "done", "the other logger continues"


def test_an_unknown_logger_is_a_line_in_the_log(
    tmp_path: Path, data: Path, unlogged: RunFolder
) -> None:
    folder = make_folder(tmp_path, small_spec(*EVALUATED), data, loggers=["no_such"])
    assert work(folder)[0] == 0
    assert result(folder) == result(unlogged)
    (line,) = [text for text in log(folder).splitlines() if "logger" in text]
    assert "logger no_such: off: UsageError: protoseg.loggers: unknown logger 'no_such'" in line


@pytest.mark.slow
def test_only_the_first_of_several_processes_logs(tmp_path: Path, data: Path) -> None:
    folder = make_folder(tmp_path, small_spec(*EVALUATED), data, loggers=["jsonl"])
    assert Workers(folder).end() == [0, 0]
    lines = read_lines(folder)
    assert [line["event"] for line in lines].count("start") == 1
    values = [line for line in lines if line["event"] == "values"]
    record = record_of(folder)
    assert [line["iteration"] for line in values] == [*range(1, 13)]
    # The means over both processes, as in the record.
    assert [line["loss"] for line in values] == [means["loss"] for _, means in record["losses"]]
    metrics = [line["miou"] for line in lines if line["event"] == "metrics"]
    assert metrics == [point["miou"] for point in record["curve"]]


def test_points_of_a_long_training_are_means(tmp_path: Path) -> None:
    class Recorded(RunLog):
        is_active = True

        def _send_call(self, call: str, **arguments: Any) -> None:
            calls.append((arguments["iteration"], arguments["values"]))

    calls: list[Any] = []
    run_log = Recorded()
    run_log._iterations, run_log._interval = 8, 3
    for n in range(1, 9):
        run_log.add_losses(n, {"decode.loss_ce": float(n)}, learning_rate=0.1 * n)
    assert [iteration for iteration, _ in calls] == [3, 6, 8]
    assert [values["loss_ce"] for _, values in calls] == [2.0, 5.0, 7.5]
    assert calls[0][1]["learning_rate"] == pytest.approx(0.3)
