"""``cancel`` and ``logs``: what to do about single runs, and what they printed."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from protoseg.cli.context import FAILED, OK, Context, part_of_one
from protoseg.config.identity import run_id_pattern
from protoseg.config.load_matrix import matrix_names
from protoseg.errors import ProtosegError, UsageError, unknown
from protoseg.launch.submission import FOLDER, user
from protoseg.runs import claim
from protoseg.runs.folder import RunFolder
from protoseg.runs.states import State

FOLLOW_SECONDS = 0.5


def known_runs(context: Context) -> list[str]:
    """Ids of the runs that have a folder or were submitted, sorted."""
    from protoseg.launch.submission import open_submissions

    runs = context.places.runs
    pattern = run_id_pattern()
    names = {p.name for p in runs.glob("*") if pattern.fullmatch(p.name)}
    submitted = {run_id for s in open_submissions(runs) for run_id in s.run_ids}
    return sorted(names | submitted)


def find_run(context: Context, word: str) -> str:
    """The id of the one run that a word means: its id, or a part that no other has.

    Raises:
        UsageError: none, or several.
    """
    known = known_runs(context)
    if word in known:
        return word
    found = part_of_one(word, known)
    if found is not None:
        return found
    raise UsageError(unknown("run", word, str(context.places.runs), known))


def cancel(context: Context) -> int:
    """Cancel the jobs of matrices or of single runs; those under way save and end."""
    from protoseg.launch.queue import Queue

    chosen = _chosen(context)
    queue = Queue(context.places.runs)
    folders = {run_id: RunFolder(context.places.runs / run_id) for run_id in chosen}
    before = {run_id: folder.status() for run_id, folder in folders.items()}
    states = queue.apply(before, fresh=True)
    waiting, running, problems = {}, {}, []
    for run_id, status in states.items():
        tasks = queue.tasks.get(run_id, [])
        keys = {task.key for task in tasks if task.key and not queue.elsewhere(task)}
        cluster = next(filter(None, map(queue.elsewhere, tasks)), "")
        if status.state is State.QUEUED and status.job in keys:
            waiting[run_id] = status.job
        elif cluster and status.state in (State.QUEUED, State.RUNNING) and status.job not in keys:
            problems.append(f"{run_id}: is a job of the cluster {cluster}; cancel it there.")
        elif status.state is State.QUEUED:
            problems.append(f"{run_id}: {status.message}; cancel it then.")
        elif status.state is State.RUNNING and status.job in keys:
            running[run_id] = status.job
        elif status.state is State.RUNNING:
            found = claim.read(folders[run_id].claim)
            if found is None or found[0].host != claim.host_identity():
                problems.append(
                    f"{run_id}: runs on {status.host} outside of any job; stop it there."
                )
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(found[0].pid, signal.SIGTERM)
                running[run_id] = ""
    queue.scheduler.cancel([*waiting.values(), *filter(None, running.values())])
    # A task cancelled before it began leaves no trace in SLURM; nobody is to look for one. Where an
    # attempt of it vanished, with its node for instance, what became of it is still to be asked.
    unbegun = [job for run_id, job in waiting.items() if not _open(folders[run_id], job)]
    for submission, indices in queue.submissions(unbegun):
        submission.close_tasks(dict.fromkeys(indices, f"cancelled by {user()}"))
    result = {"waiting": list(waiting), "running": list(running), "problems": problems}
    if context.json:
        context.print_json(result)
    elif waiting or running:
        text = f"Cancelled: {len(waiting)} waiting, {len(running)} under way"
        context.console.print(text + (" (they save and end)." if running else "."))
        context.console.print("The next sweep goes on with them.")
    else:
        context.console.print("Nothing to cancel.")
    return context.print_errors(problems)


def _open(folder: RunFolder, job: str) -> bool:
    """Whether an attempt of a job has no known end."""
    return any(a.job == job and a.ending is None for a in folder.attempts())


def _chosen(context: Context) -> list[str]:
    """The runs that the words of the call mean: of matrices, or single ones."""
    words: list[str] = context.arguments.words
    if not words:
        raise UsageError("cancel: name matrices or runs; 'protoseg status' shows both.")
    overrides = [word for word in words if "=" in word or word.startswith("~")]
    matrices = matrix_names(context.places.experiments)
    named = [w for w in words if w in matrices or w.endswith((".yaml", ".yml"))]
    chosen = [find_run(context, w) for w in words if w not in named and w not in overrides]
    if named:
        context.arguments.words = [*named, *overrides]
        found, _ = context.matrices()
        chosen += [run.run_id for matrix in found for run in matrix.runs]
    elif overrides:
        raise UsageError(f"cancel: '{overrides[0]}' changes a matrix, and none is named.")
    return list(dict.fromkeys(chosen))


def logs(context: Context) -> int:
    """Print what an attempt at a run wrote, or list its attempts."""
    from protoseg.cli.views.status import attempt_data, attempts_view

    arguments = context.arguments
    folder = RunFolder(context.places.runs / find_run(context, arguments.words[0]))
    attempts = folder.attempts()
    wanted = arguments.attempt
    if wanted is not None and wanted not in [attempt.number for attempt in attempts]:
        numbers = ", ".join(str(a.number) for a in attempts) or "none"
        raise UsageError(f"{folder.run_id}: no attempt {wanted}; there are: {numbers}.")
    chosen = next((a for a in attempts if a.number == wanted), attempts[-1] if attempts else None)
    if arguments.list or context.json:
        data = [
            {**attempt_data(a), "log": str(_log(folder, a.number)), "batch": _batch(context, a.job)}
            for a in attempts
        ]
        if context.json:
            context.print_json(data)
        else:
            context.console.print(attempts_view(attempts))
        return OK
    if chosen is None:
        return _unbegun(context, folder)
    path = _log(folder, chosen.number)
    batch = _batch(context, chosen.job)
    if arguments.batch or not path.exists():
        if not batch:
            raise ProtosegError(f"{folder.run_id}: attempt {chosen.number} left no such log.")
        path = Path(batch)
    context.errors.print(str(path), style="dim", markup=False)
    _show(path, folder if arguments.follow else None)
    return OK


def _log(folder: RunFolder, attempt: int) -> Path:
    return folder.attempts_folder / f"{attempt:04d}" / "log.txt"


def _batch(context: Context, job: str) -> str:
    """What the batch script of a job printed; empty where there is none."""
    if not job:
        return ""
    found = sorted((context.places.runs / FOLDER).glob(f"*/logs/{job}.txt"))
    return str(found[-1]) if found else ""


def _unbegun(context: Context, folder: RunFolder) -> int:
    """A run without an attempt: its job may have said something before a worker began."""
    from protoseg.launch.queue import Queue

    tasks = Queue(context.places.runs).tasks.get(folder.run_id, [])
    for task in tasks:
        if task.key and task.log.exists():
            context.errors.print(str(task.log), style="dim", markup=False)
            _show(task.log, None)
            return OK
    context.print_errors([f"{folder.run_id}: has no log yet; no attempt was begun."])
    return FAILED


def _show(path: Path, following: RunFolder | None) -> None:
    """Print a file; with a run to follow, go on until that run is no longer under way."""
    with open(path, errors="replace") as file:
        while True:
            under_way = following is not None and following.status().state is State.RUNNING
            for line in file:
                sys.stdout.write(line)
            sys.stdout.flush()
            if not under_way:
                return
            time.sleep(FOLLOW_SECONDS)
