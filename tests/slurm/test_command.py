"""Commands end, whatever they do, and nothing of the user's own settings reaches them."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from waiting import DEADLINE, wait_until

from protoseg.slurm.command import call, installed
from slurm.commands import NO_DATABASE, Commands


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def clock_starts_with_the_child(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command's time limit begins when its child runs."""
    communicate = subprocess.Popen.communicate

    def communicate_later(process: Any, *arguments: Any, **options: Any) -> Any:
        wait_until(lambda: commands.child.exists() and commands.child.read_text(), "the child")
        return communicate(process, *arguments, **options)

    monkeypatch.setattr(subprocess.Popen, "communicate", communicate_later)


def assert_child_dies(commands: Commands) -> None:
    child = int(commands.child.read_text())
    wait_until(lambda: not is_alive(child), "the end of the command's child")


@pytest.mark.usefixtures("clock_starts_with_the_child")
def test_a_command_that_hangs_is_killed_with_its_children(commands: Commands) -> None:
    commands.hangs("squeue")
    reply = call(["squeue"], seconds=0.1)
    assert (reply.status, reply.problem) == (None, "squeue: no answer in 0.1 s")
    assert_child_dies(commands)


@pytest.mark.usefixtures("clock_starts_with_the_child")
def test_a_child_that_keeps_the_pipe_open_does_not_hold_the_answer_for_ever(
    commands: Commands,
) -> None:
    commands.script("squeue", commands.start_child)
    assert call(["squeue"], seconds=0.1).status is None
    assert_child_dies(commands)


def test_a_command_that_slurm_stops_with_the_job_is_called_again(commands: Commands) -> None:
    once = commands.folder / "once"
    commands.script(
        "squeue", f'if test -e "{once}"; then echo fine; else echo > "{once}"; kill $$; fi'
    )
    assert call(["squeue"], seconds=DEADLINE).out == "fine\n"
    commands.script("squeue", "kill $$")
    assert call(["squeue"], seconds=DEADLINE).status == -signal.SIGTERM


def test_missing_and_broken_commands_are_sentences(commands: Commands) -> None:
    assert call(["squeue"]).problem == "squeue: not on this machine"
    assert not installed("squeue")
    path = commands.folder / "bin" / "sacct"
    path.write_bytes(b"\x7fELF not really")
    path.chmod(0o755)
    assert call(["sacct"]).problem.startswith("sacct: ")
    assert call(["sacct"]).status is None


@pytest.mark.parametrize(
    ("errors", "sentence"),
    [
        (NO_DATABASE, "sacct: Problem talking to the database: Connection refused"),
        ("slurm_load_jobs error: Invalid job id specified", "sacct: Invalid job id specified"),
        ("sacct: fatal: Could not establish", "sacct: Could not establish"),
        ("some words\nlast words", "sacct: last words"),
        ("", "sacct: ended with status 3"),
    ],
)
def test_what_went_wrong_is_one_line(commands: Commands, errors: str, sentence: str) -> None:
    commands.prints("sacct", errors=errors, status=3)
    assert call(["sacct"]).problem == sentence


def test_the_users_settings_are_left_out(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    monkeypatch.setenv("SACCT_FORMAT", "jobid")
    monkeypatch.setenv("SCANCEL_INTERACTIVE", "1")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    commands.script("squeue", "/usr/bin/env")
    seen = dict(line.split("=", 1) for line in call(["squeue"]).out.splitlines() if "=" in line)
    assert not {"SQUEUE_STATES", "SACCT_FORMAT", "SCANCEL_INTERACTIVE"} & set(seen)
    assert (seen["TZ"], seen["SLURM_TIME_FORMAT"], seen["SLURM_BITSTR_LEN"]) == (
        "UTC", "standard", "0")  # fmt: skip
    assert seen["SLURM_CONF"] == "/etc/slurm/slurm.conf"
    assert os.environ["TZ"] == "Asia/Tokyo"


def test_output_that_is_no_text_is_survived(commands: Commands) -> None:
    commands.script("squeue", "printf '\\377\\376 1\\n'")
    assert call(["squeue"]).fine


def test_arguments_are_not_a_shells(commands: Commands, tmp_path: Path) -> None:
    commands.script("squeue", 'printf "%s" "$1"')
    text = f"$(touch {tmp_path}/x); `id` 'a \"b\n"
    assert call(["squeue", text]).out == text
    assert not (tmp_path / "x").exists()
