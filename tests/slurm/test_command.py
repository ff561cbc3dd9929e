"""Tests of calls of commands: time limits, and no user settings."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from waiting import DEADLINE, wait_until

from protoseg.slurm.command import is_installed, run_command
from slurm.commands import NO_DATABASE, Commands


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def clock_starts_with_the_child(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the time limit of a command when its child runs."""
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
    reply = run_command(["squeue"], seconds=0.1)
    assert (reply.status, reply.problem) == (None, "squeue: no answer in 0.1 s")
    assert_child_dies(commands)


@pytest.mark.usefixtures("clock_starts_with_the_child")
def test_a_child_that_keeps_the_pipe_open_is_killed(
    commands: Commands,
) -> None:
    commands.script("squeue", commands.start_child)
    assert run_command(["squeue"], seconds=0.1).status is None
    assert_child_dies(commands)


def test_a_command_stopped_by_sigterm_is_called_again(commands: Commands) -> None:
    once = commands.folder / "once"
    commands.script(
        "squeue", f'if test -e "{once}"; then echo fine; else echo > "{once}"; kill $$; fi'
    )
    assert run_command(["squeue"], seconds=DEADLINE).out == "fine\n"
    commands.script("squeue", "kill $$")
    assert run_command(["squeue"], seconds=DEADLINE).status == -signal.SIGTERM


def test_missing_and_broken_commands_are_reported(commands: Commands) -> None:
    assert run_command(["squeue"]).problem == "squeue: not on this machine"
    assert not is_installed("squeue")
    path = commands.folder / "bin" / "sacct"
    path.write_bytes(b"\x7fELF not really")
    path.chmod(0o755)
    assert run_command(["sacct"]).problem.startswith("sacct: ")
    assert run_command(["sacct"]).status is None


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
def test_a_problem_is_one_line(commands: Commands, errors: str, sentence: str) -> None:
    commands.prints("sacct", errors=errors, status=3)
    assert run_command(["sacct"]).problem == sentence


def test_user_settings_do_not_reach_the_command(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    monkeypatch.setenv("SACCT_FORMAT", "jobid")
    monkeypatch.setenv("SCANCEL_INTERACTIVE", "1")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    commands.script("squeue", "/usr/bin/env")
    environment = dict(
        line.split("=", 1) for line in run_command(["squeue"]).out.splitlines() if "=" in line
    )
    assert not {"SQUEUE_STATES", "SACCT_FORMAT", "SCANCEL_INTERACTIVE"} & set(environment)
    names = ("TZ", "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN")
    assert [environment[name] for name in names] == ["UTC", "standard", "0"]
    assert environment["SLURM_CONF"] == "/etc/slurm/slurm.conf"
    assert os.environ["TZ"] == "Asia/Tokyo"


def test_invalid_bytes_in_the_output_are_accepted(commands: Commands) -> None:
    commands.script("squeue", "printf '\\377\\376 1\\n'")
    assert run_command(["squeue"]).is_ok


def test_arguments_are_not_expanded(commands: Commands, tmp_path: Path) -> None:
    commands.script("squeue", 'printf "%s" "$1"')
    text = f"$(touch {tmp_path}/x); `id` 'a \"b\n"
    assert run_command(["squeue", text]).out == text
    assert not (tmp_path / "x").exists()
