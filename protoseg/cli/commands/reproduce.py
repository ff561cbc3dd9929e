"""``reproduce``: train a recorded run again, and say whether it comes to the same."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from protoseg.cli.context import FAILED, OK, Context, part_of_one
from protoseg.cli.views.plan import duration
from protoseg.cli.views.sweep import status_row
from protoseg.config.identity import run_id_pattern
from protoseg.config.schema import METHOD_VERSION
from protoseg.errors import ProtosegError, UsageError, unknown
from protoseg.paths import code as code_here
from protoseg.reproduce.checkout import checked_out, find_diff
from protoseg.reproduce.retrain import fresh_folder, train
from protoseg.runs.folder import RunFolder, Status
from protoseg.runs.states import State

FOLDER = ".reproductions"


def reproduce(context: Context) -> int:
    """Train a recorded run again in a fresh folder, and compare with its record."""
    from protoseg.cli.views.reproduction import lines
    from protoseg.reproduce.comparison import compare, read_counts
    from protoseg.runs.store import RecordStore

    arguments = context.arguments
    run_id = _find(context, arguments.words[0])
    store = RecordStore(context.record_folders, context.places.runs)
    found = store.find(run_id)
    if found.record is None or found.source is None:
        raise ProtosegError(
            found.status.message
            if found.damaged
            else f"{run_id}: has no record yet, so there is nothing to reproduce; it is "
            f"{found.status.state.value}."
        )
    record, source = found.record, found.source
    published = source.parent / f"{run_id}.npz"
    counts = read_counts(record, published if source.stem == run_id else _beside(source, record))
    threads = arguments.threads or int(record["provenance"].get("threads") or 0)
    with _code(context, record, source) as code:
        launch = {
            "data": str(context.places.data),
            "weights": str(context.places.weights),
            "threads": threads,
            "workers": 0,
            "checkpoint_seconds": 60.0,
        }
        base = Path(arguments.into).expanduser().absolute() if arguments.into else None
        folder = fresh_folder(
            base or context.places.runs / FOLDER,
            run_id,
            record["spec"],
            launch,
            {"code": _digest(code), "threads": threads},
        )
        _introduce(context, record, folder, threads)
        with _progress(context, folder) as each_poll:
            status = train(folder, code, each_poll)
    if status.record is None:
        return _unfinished(context, folder, status)
    again = read_counts(status.record, folder.confusion)
    result = compare(record, status.record, counts, again, points=arguments.within)
    if context.json:
        context.print_json(result.to_dict() | {"folder": str(folder.path), "record": str(source)})
    else:
        for line in lines(result):
            context.console.print(line, markup=False)
    return FAILED if result.verdict == "different" else OK


def _find(context: Context, word: str) -> str:
    """The id of the one recorded run that a word means: its id, or a part that no other has."""
    pattern = run_id_pattern()
    runs, folders = context.places.runs, context.record_folders
    names = {path.stem for folder in folders for path in folder.glob("*.json")}
    names |= {path.parent.name for path in runs.glob("*/record.json")}
    known = sorted(name for name in names if pattern.fullmatch(name))
    if word in known or (runs / word / "spec.json").is_file():
        return word
    found = part_of_one(word, known)
    if found is not None:
        return found
    # Of thousands only the nearest.
    close = get_close_matches(word, known, n=5, cutoff=0.3) or known[:5]
    where = f"{len(known)} records in {' and '.join(map(str, [*folders, runs]))}"
    raise UsageError(unknown("run", word, where, close))


def _beside(source: Path, record: dict[str, Any]) -> Path:
    return source.parent / str(record["confusion"]["file"])


def _code(context: Context, record: dict[str, Any], source: Path) -> AbstractContextManager[Path]:
    """The folder with the code to train with: the present one, or a checkout of the recorded."""
    origin, run_id = record["provenance"], record["run_id"]
    version = record["spec"]["method_version"]
    if len(origin.get("attempts") or ()) > 1:
        _warn(
            context,
            f"{run_id}: its attempts ran with different code or devices; its record names them.",
        )
    if not context.arguments.checkout:
        if version != METHOD_VERSION:
            raise UsageError(
                f"{run_id}: recorded with method version {version}, this protoseg trains version "
                f"{METHOD_VERSION}; add --checkout to train it with the code of its commit."
            )
        return contextlib.nullcontext(code_here())
    if not origin.get("commit"):
        raise ProtosegError(
            f"{run_id}: its record names no commit, so none can be checked out; leave out "
            "--checkout to use the code that is here."
        )
    diff = None
    if origin.get("dirty"):
        diff = find_diff(source, origin.get("diff_file"), origin.get("diff_sha256"))
        what = "they are applied" if diff else "no diff of them was kept, so the result may differ"
        _warn(context, f"{run_id}: its code had changes that no commit holds; {what}.")
    return checked_out(code_here(), origin["commit"], diff)


def _digest(code: Path) -> str:
    from protoseg.training.provenance.source_code import code_digest

    return code_digest(code / "protoseg")


def _introduce(context: Context, record: dict[str, Any], folder: RunFolder, threads: int) -> None:
    if context.json:
        return
    origin, spec = record["provenance"], record["spec"]
    on = f"{origin['device']}, {_threads(origin.get('threads'))}"
    if origin.get("processes", 1) > 1:
        on += f", {origin['processes']} processes (here one: equal within rounding at best)"
    took = duration(record["cost"]["seconds"])
    text = f"{record['run_id']}: {spec['schedule']['iterations']} iterations took {took} on {on}"
    context.console.print(text, markup=False)
    begun = folder.checkpoint_iteration()
    word = f"going on from iteration {begun}" if begun else "training"
    context.console.print(f"{word} with {_threads(threads)} in {folder.path}", markup=False)


def _threads(number: int | None) -> str:
    return "1 thread" if number == 1 else f"{number or 'an unknown number of'} threads"


@contextlib.contextmanager
def _progress(context: Context, folder: RunFolder) -> Iterator[Callable[[Status], None]]:
    """A bar on a terminal, nothing elsewhere."""
    if context.json or not sys.stdout.isatty():
        yield lambda status: None
        return
    from rich.live import Live

    draw = status_row(folder.run_id, folder, len(folder.attempts()))
    with Live(console=context.console, refresh_per_second=4, transient=True) as display:
        yield lambda status: display.update(draw(status))


def _unfinished(context: Context, folder: RunFolder, status: Status) -> int:
    """What to say of a worker that ended without a record."""
    reason = f"{status.reason.value}: " if status.reason else ""
    text = f"{folder.run_id}: {status.state.value}, {reason}{status.message}"
    if status.state is State.INTERRUPTED:
        text += "; the same call again goes on with it"
    if context.json:
        context.print_json(
            {
                "run_id": folder.run_id,
                "verdict": None,
                "folder": str(folder.path),
                "state": status.state.value,
                "message": status.message,
            }
        )
    log = folder.newest_log()
    return context.print_errors([f"{text}." if log is None else f"{text}. Its log: {log}"])


def _warn(context: Context, sentence: str) -> None:
    context.errors.print(sentence, style="yellow", markup=False)
