"""The process that trains a run again: its end, signals to it, and the folder it trains in."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from protoseg.reproduce.retrain import OUTPUT, choose_run_folder, train
from protoseg.runs.folder import RunFolder, Status
from protoseg.runs.states import State

READY = "started"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return choose_run_folder(tmp_path / "base", "run", {"seed": 0}, {"threads": 1}, {})


def make_code(tmp_path: Path, worker: str) -> Path:
    """A folder of code whose worker is this program, which reads its run folder from argv."""
    package = tmp_path / "code" / "protoseg" / "training"
    package.mkdir(parents=True)
    for path in (package.parent / "__init__.py", package / "__init__.py"):
        path.touch()
    (package / "worker.py").write_text(f"import pathlib, signal, sys, time\n{worker}\n")
    return tmp_path / "code"


def ignore_status(status: Status) -> None:
    """Called at each poll."""


@pytest.mark.parametrize(
    ("worker", "message"),
    [
        ("", "the worker ended without output"),
        ("print('first line'); print('last line  '); print()", "last line"),
        ("raise ImportError('no module')", "ImportError: no module"),
        ("sys.exit('no such folder')", "no such folder"),
    ],
    ids=["silent", "printed", "error", "exit"],
)
def test_a_worker_that_starts_no_attempt_has_failed_with_its_last_line(
    folder: RunFolder, tmp_path: Path, worker: str, message: str
) -> None:
    status = train(folder, make_code(tmp_path, worker), ignore_status)
    assert (status.state, status.message, status.record) == (State.FAILED, message, None)


def test_a_worker_that_records_its_attempt_has_the_status_of_its_folder(
    folder: RunFolder, tmp_path: Path
) -> None:
    attempt = "folder = pathlib.Path(sys.argv[1]) / 'attempts' / '0001'\nfolder.mkdir(parents=True)"
    ends = f"{attempt}\n(folder / 'start.json').write_text('{{}}')\n" + (
        """(folder / 'end.json').write_text('{"reason": "bad_data", "message": "no images"}')"""
    )
    status = train(folder, make_code(tmp_path, ends), ignore_status)
    assert (status.state, status.reason, status.message) == (State.FAILED, "bad_data", "no images")


@contextlib.contextmanager
def unchanged_handlers() -> Iterator[None]:
    """Check that the handlers of three signals are the same at the end."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


def has_started(folder: RunFolder) -> bool:
    return READY in (folder.path / OUTPUT).read_text()


WAIT = f"print('{READY}', flush=True)\nsignal.pause()"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_worker_and_the_run_is_interrupted(
    folder: RunFolder, tmp_path: Path, number: signal.Signals
) -> None:
    sent = []

    def send_once_started(status: Status) -> None:
        if not sent and has_started(folder):
            sent.append(number)
            signal.raise_signal(number)

    with unchanged_handlers():
        status = train(folder, make_code(tmp_path, WAIT), send_once_started)
    assert (status.state, status.message) == (State.INTERRUPTED, READY)


def test_a_signal_before_the_worker_has_a_handler_is_repeated(
    folder: RunFolder, tmp_path: Path
) -> None:
    """The worker ignores the first signals, as one that still imports torch."""
    worker = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + f"print('{READY}', flush=True)\n"
    worker += "while not pathlib.Path(sys.argv[1], 'imported').exists():\n    time.sleep(0.01)\n"
    worker += "signal.signal(signal.SIGTERM, signal.SIG_DFL)\nsignal.pause()"
    polls = []

    def interrupt(status: Status) -> None:
        if has_started(folder):
            if not polls:
                signal.raise_signal(signal.SIGINT)
            polls.append(status)
        if len(polls) == 3:
            (folder.path / "imported").touch()

    status = train(folder, make_code(tmp_path, worker), interrupt)
    assert status.state is State.INTERRUPTED
    assert len(polls) >= 3


def test_no_worker_is_left_running_after_an_error(folder: RunFolder, tmp_path: Path) -> None:
    worker = f"import os\nprint(os.getpid(), '{READY}', flush=True)\nsignal.pause()"

    def fail_once_started(status: Status) -> None:
        if has_started(folder):
            raise OSError("the terminal is gone")

    with unchanged_handlers(), pytest.raises(OSError, match="the terminal is gone"):
        train(folder, make_code(tmp_path, worker), fail_once_started)
    pid = int((folder.path / OUTPUT).read_text().split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_worker_imports_the_code_of_its_folder_first(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = make_code(tmp_path, "import protoseg, other\nprint(protoseg.__file__, other.__file__)")
    other = tmp_path / "other"
    other.mkdir()
    (other / "other.py").touch()
    (other / "protoseg.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(other))
    status = train(folder, code, ignore_status)
    assert status.message == f"{code / 'protoseg' / '__init__.py'} {other / 'other.py'}"
