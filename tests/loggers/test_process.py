"""The process of a logger: it gets every call, and whatever it does, its worker continues."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import wait_until

from loggers.conftest import Client
from protoseg.loggers import client as client_module

MakeClient = Callable[[str], Client]


def test_a_logger_of_another_package_gets_every_call(
    plugin_folder: Path, make_client: MakeClient, capfd: pytest.CaptureFixture[str]
) -> None:
    client = make_client("recorder")
    client.start_run(start=40, attempt=2)
    client.process.send_call("log", iteration=41, values={"loss": 1.5})
    client.process.send_call("log_metrics", iteration=41, metrics={"miou": 30.25})
    client.close("preempted")
    assert client.calls == [
        ["start", "run-s0-0123456789", 100, 40, 2, ["seed"]],
        ["log", 41, {"loss": 1.5}],
        ["log_metrics", 41, {"miou": 30.25}],
        ["finish", "preempted"],
    ]
    assert client.warnings == []
    assert client.output.read_text() == "output of the logger\n" * 4
    assert capfd.readouterr().out == "", "the worker's log is not for the output of a logger"


@pytest.mark.parametrize("call", ["init", "start", "log", "log_metrics", "finish"])
@pytest.mark.parametrize("how", ["raise", "exit", "die"])
def test_a_logger_that_fails_is_off_after_one_line(
    plugin_folder: Path,
    make_client: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    call: str,
    how: str,
) -> None:
    monkeypatch.setenv("RECORDER_CALL", call)
    monkeypatch.setenv("RECORDER_HOW", how)
    client = make_client("recorder")
    client.start_run()
    for iteration in range(1, 4):
        client.process.send_call("log", iteration=iteration, values={"loss": 1.0})
        client.process.send_call("log_metrics", iteration=iteration, metrics={"miou": 1.0})
    client.close()
    assert not client.process.is_active
    lines = [*client.warnings, *capfd.readouterr().out.splitlines()]
    assert len(lines) == 1, lines
    expected = {
        "raise": "logger recorder: off: ValueError: the service refused it",
        "exit": "logger recorder: off: SystemExit: the logger exits",
        "die": "status 9",
    }
    assert expected[how] in lines[0]
    client.process.send_call("log", iteration=9, values={})  # nothing happens


def test_a_logger_that_hangs_is_killed_once_too_much_waits_for_it(
    plugin_folder: Path, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECORDER_CALL", "start")
    monkeypatch.setenv("RECORDER_HOW", "hang")
    client = make_client("recorder")
    client.start_run()
    values = {"loss": 1.0, "x" * 100: 2.0}
    calls = 0
    while client.process.is_active:  # never waits for the logger
        calls += 1
        client.process.send_call("log", iteration=calls, values=values)
    limit = client_module.BACKLOG_BYTES / 150
    assert limit * 0.9 < calls < limit * 1.5
    assert client.warnings == ["logger recorder: off: it does not keep up with the training."]


def test_a_logger_that_does_not_finish_is_killed_at_the_end(
    plugin_folder: Path, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECORDER_CALL", "finish")
    monkeypatch.setenv("RECORDER_HOW", "hang")
    client = make_client("recorder")
    client.start_run()
    wait_until((client.folder / "calls.txt").exists, "the start of the logger")
    client.close(seconds=0.2)
    assert client.warnings == ["logger recorder: off: it does not finish."]


def test_a_logger_of_a_killed_worker_finishes(plugin_folder: Path, make_client: MakeClient) -> None:
    client = make_client("recorder")
    client.start_run()
    assert client.process._process is not None
    assert client.process._process.stdin is not None
    client.process._process.stdin.close()
    assert client.process._process.wait() == 0
    assert client.calls[-1] == ["finish", "lost"]


def test_a_package_that_is_not_installed_is_named(
    plugin_folder: Path, make_client: MakeClient, capfd: pytest.CaptureFixture[str]
) -> None:
    (plugin_folder / "recorder_logger.py").write_text("import no_such_package.part\n")
    client = make_client("recorder")
    client.start_run()
    client.close()
    (line,) = capfd.readouterr().out.splitlines()
    assert line.endswith(
        "logger recorder: off: the package no_such_package is not installed. "
        "Run pip install no_such_package."
    )
    assert "Traceback" in client.output.read_text()


def test_a_backlog_of_a_logger_that_has_ended_does_not_reach_the_training(
    plugin_folder: Path, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECORDER_CALL", "start")
    monkeypatch.setenv("RECORDER_HOW", "raise")
    client = make_client("recorder")
    client.start_run()
    process = client.process._process
    assert process is not None
    wait_until(lambda: process.poll() is not None, "the end of the logger")
    monkeypatch.setattr(client_module, "BACKLOG_BYTES", 1)
    client.process.send_call("log", iteration=1, values={"loss": 1.0})
    assert not client.process.is_active
    client.close()
