"""Tests of Ctrl-C in each phase of a sweep; `benchmarks/interrupt.py` measures the times."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from waiting import DEADLINE, wait_until

from launch.harness import Harness
from protoseg.runs.states import Reason, State

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from terminal import TerminalSession

ROOT = Path(__file__).parents[2]
ROWS = [
    {"label": "Parametric", "method": "parametric"},
    {"label": "ProtoSeg", "method": "released", "method.num_prototypes": 2},
]
Start = Callable[..., TerminalSession]


@pytest.fixture
def start(harness: Harness) -> Iterator[Start]:
    """Start a sweep of two runs in a pseudo-terminal."""
    sessions: list[TerminalSession] = []

    def start(iterations: int, val: int = 4, pause_after: int | None = None) -> TerminalSession:
        sizes = {"dataset.generator.val": val, "dataset.counts": {"train": 12, "val": val}}
        rows = [row | sizes for row in ROWS]
        matrix = harness.matrix(rows, seeds=[0], iterations=iterations, pause_after=pause_after)
        command = [sys.executable, "-m", "protoseg.cli", "sweep", matrix, "--jobs", "2"]
        session = TerminalSession(command, harness.variables(), str(ROOT))
        sessions.append(session)
        return session

    yield start
    for session in sessions:
        session.close()


def last_lines(session: TerminalSession) -> str:
    return "\n".join(session.text.splitlines()[-15:])


def wait_for_text(session: TerminalSession, text: str) -> None:
    wait_until(lambda: text in session.text, f"{text!r} on the terminal")


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["2 runs", "importing", "building", "loss", "evaluating"])
def test_ctrl_c_ends_the_sweep_and_the_same_command_continues(
    harness: Harness, start: Start, phase: str
) -> None:
    # Each phase must last until it is displayed and interrupted.
    if phase == "evaluating":
        session = start(2, val=3000)
    else:
        session = start(5000, pause_after=0 if phase == "building" else None)
    wait_for_text(session, phase)
    session.press_ctrl_c()
    assert session.wait(DEADLINE) == 1, last_lines(session)
    assert "Traceback" not in session.text
    assert "run the same command again" in session.text
    for folder in harness.folders():
        assert folder.status().state in (State.NEW, State.INTERRUPTED, State.DONE)
        for attempt in folder.attempts():
            assert attempt.reason in (None, Reason.CANCELLED)
            assert attempt.message in ("", "record written") or "on request" in attempt.message


@pytest.mark.slow
def test_a_second_ctrl_c_kills_and_keeps_the_last_checkpoint(
    harness: Harness, start: Start
) -> None:
    session = start(5000)
    wait_for_text(session, "loss")
    # The second Ctrl-C follows at once: the workers have no time to save.
    session.press_ctrl_c()
    wait_for_text(session, "Stopping")
    session.press_ctrl_c()
    assert session.wait(DEADLINE) == 1, last_lines(session)
    for folder in harness.folders():
        (attempt,) = folder.attempts()
        assert attempt.reason is Reason.CANCELLED
        assert folder.status().state is State.INTERRUPTED


def test_a_terminal_session_gets_ctrl_c_although_its_parent_ignores_it() -> None:
    program = "import signal; print('ready', flush=True); signal.pause()"
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a background job of a script
    try:
        session = TerminalSession([sys.executable, "-c", program], os.environ, str(ROOT))
    finally:
        signal.signal(signal.SIGINT, previous)
    try:
        wait_for_text(session, "ready")
        session.press_ctrl_c()
        assert session.wait(DEADLINE) != 0
    finally:
        session.close()
