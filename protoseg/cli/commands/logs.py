"""``protoseg logs``: prints the log of a run, or lists its attempts."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from protoseg.cli.arguments import add_run_operand, positive
from protoseg.cli.exit_status import FAILED, OK
from protoseg.errors import ProtosegError, UsageError
from protoseg.launch.submission import SUBMISSIONS_FOLDER
from protoseg.runs.folder import RunFolder
from protoseg.runs.states import State

if TYPE_CHECKING:
    from protoseg.cli.context import Context

EXAMPLE = "protoseg logs 3f2a --follow"
FOLLOW_SECONDS = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_run_operand(parser)
    parser.add_argument(
        "--attempt", type=positive, metavar="N", help="number of the attempt (default: the last)"
    )
    parser.add_argument(
        "--batch", action="store_true", help="print the log of the SLURM batch script instead"
    )
    parser.add_argument("--follow", action="store_true", help="print new lines until the run ends")
    parser.add_argument(
        "--list", action="store_true", help="list the attempts, and why each one ended"
    )


def run(context: Context) -> int:
    """Print a log, or the list of attempts."""
    from protoseg.cli.run_lookup import find_run, started_or_submitted_runs
    from protoseg.cli.views.status import attempts_to_dicts, render_attempts

    arguments = context.arguments
    known_runs = started_or_submitted_runs(context)
    run_id = find_run(arguments.operands[0], known_runs, str(context.paths.runs))
    folder = RunFolder(context.paths.runs / run_id)
    attempts = folder.attempts()
    number = arguments.attempt
    if number is not None and number not in [attempt.number for attempt in attempts]:
        numbers = ", ".join(str(attempt.number) for attempt in attempts) or "none"
        raise UsageError(f"{run_id}: no attempt {number}. Attempts: {numbers}.")
    if arguments.list or context.json:
        is_running = folder.status().state is State.RUNNING
        if context.json:
            rows = attempts_to_dicts(attempts, is_running)
            for row in rows:
                row["log"] = str(_log_of_attempt(folder, row["number"]))
                row["batch"] = _log_of_job(context, row["job"])
            context.print_json(rows)
        else:
            context.console.print(render_attempts(attempts, is_running))
        return OK
    if not attempts:
        return _print_log_before_attempts(context, folder)
    attempt = next((each for each in attempts if each.number == number), attempts[-1])
    path = _log_of_attempt(folder, attempt.number)
    if arguments.batch or not path.exists():
        batch_log = _log_of_job(context, attempt.job)
        if not batch_log:
            missing = "log of a batch script" if arguments.batch else "log"
            raise ProtosegError(f"{run_id}: attempt {attempt.number} has no {missing}.")
        path = Path(batch_log)
    context.errors.print(str(path), style="dim", markup=False)
    _print_file(path, folder if arguments.follow else None)
    return OK


def _log_of_attempt(folder: RunFolder, attempt: int) -> Path:
    return folder.attempts_folder / f"{attempt:04d}" / "log.txt"


def _log_of_job(context: Context, job: str) -> str:
    """The log of a job's batch script; empty if there is none."""
    if not job:
        return ""
    logs = sorted((context.paths.runs / SUBMISSIONS_FOLDER).glob(f"*/logs/{job}.txt"))
    return str(logs[-1]) if logs else ""


def _print_log_before_attempts(context: Context, folder: RunFolder) -> int:
    """Print the log of a job that has not started an attempt."""
    from protoseg.launch.queue import Queue

    for task in Queue(context.paths.runs).tasks.get(folder.run_id, []):
        if task.key and task.log.exists():
            context.errors.print(str(task.log), style="dim", markup=False)
            _print_file(task.log, None)
            return OK
    context.print_errors([f"{folder.run_id}: has no log: no attempt has started."])
    return FAILED


def _print_file(path: Path, followed: RunFolder | None) -> None:
    """Print a file; with a run to follow, until that run ends."""
    with open(path, errors="replace") as file:
        while True:
            is_running = followed is not None and followed.status().state is State.RUNNING
            for line in file:
                sys.stdout.write(line)
            sys.stdout.flush()
            if not is_running:
                return
            time.sleep(FOLLOW_SECONDS)
