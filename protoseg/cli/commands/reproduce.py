"""``protoseg reproduce``: trains a recorded run again and compares the results."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoseg.cli.arguments import add_record_options, add_run_operand, positive, seconds
from protoseg.cli.exit_status import FAILED, OK
from protoseg.config.schema import METHOD_VERSION
from protoseg.errors import ProtosegError, UsageError
from protoseg.paths import find_package_folder as current_code
from protoseg.reproduce.checkout import check_out, find_diff
from protoseg.reproduce.retrain import choose_run_folder, train
from protoseg.runs.folder import RunFolder, Status
from protoseg.runs.states import State

if TYPE_CHECKING:
    from protoseg.cli.context import Context

EXAMPLE = "protoseg reproduce 3f2a"
FOLDER = ".reproductions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_run_operand(parser)
    add_record_options(parser)
    parser.add_argument(
        "--checkout", action="store_true", help="train with the code of the recorded commit"
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads (default: as recorded)"
    )
    parser.add_argument(
        "--into", metavar="DIR", help="folder of the new run folders (default: RUNS/.reproductions)"
    )
    parser.add_argument(
        "--within",
        type=seconds,
        default=0.1,
        metavar="POINTS",
        help="largest difference of a metric that counts as equal, in percentage points (default: "
        "0.1)",
    )


def run(context: Context) -> int:
    """Train a recorded run again in a new folder, and compare it with its record."""
    from protoseg.cli.views.reproduction import lines
    from protoseg.reproduce.comparison import compare_records, read_verified_counts
    from protoseg.runs.store import RecordStore

    arguments = context.arguments
    run_id = _find_recorded_run(context, arguments.operands[0])
    store = RecordStore(context.record_folders, context.paths.runs)
    original = store.find(run_id)
    if original.record is None or original.source is None:
        raise ProtosegError(
            original.status.message
            if original.damaged
            else f"{run_id}: has no record yet. Its state is {original.status.state.value}."
        )
    record, source = original.record, original.source
    counts = read_verified_counts(record, _find_confusion_file(source, record))
    threads = arguments.threads or int(record["provenance"].get("threads") or 0)
    with _choose_code(context, record, source) as code:
        launch = {
            "data": str(context.paths.data),
            "weights": str(context.paths.weights),
            "threads": threads,
            "workers": 0,
            "checkpoint_seconds": 60.0,
        }
        base = Path(arguments.into).expanduser().absolute() if arguments.into else None
        folder = choose_run_folder(
            base or context.paths.runs / FOLDER,
            run_id,
            record["spec"],
            launch,
            {"code": _code_digest(code), "threads": threads},
        )
        _print_introduction(context, record, folder, threads)
        with _show_progress(context, folder) as each_poll:
            status = train(folder, code, each_poll)
    if status.record is None:
        return _print_unfinished(context, folder, status)
    new_counts = read_verified_counts(status.record, folder.confusion)
    reproduction = compare_records(
        record, status.record, counts, new_counts, points=arguments.within
    )
    if context.json:
        places = {"folder": str(folder.path), "record": str(source)}
        context.print_json(reproduction.to_dict() | places)
    else:
        for line in lines(reproduction):
            context.console.print(line, markup=False)
    return FAILED if reproduction.verdict == "different" else OK


def _find_recorded_run(context: Context, name: str) -> str:
    """The id of a run with a record; or of a started one, if the name is its whole id."""
    from protoseg.cli.run_lookup import find_run, finished_runs, recorded_runs

    runs = context.paths.runs
    if (runs / name / "spec.json").is_file():
        return name
    where = f"records in {' and '.join(map(str, [*context.record_folders, runs]))}"
    return find_run(name, recorded_runs(context) | finished_runs(context), where)


def _find_confusion_file(source: Path, record: dict[str, Any]) -> Path:
    """The confusion counts of a record: named after the run if committed, else as recorded."""
    if source.stem == record["run_id"]:
        return source.parent / f"{record['run_id']}.npz"
    return source.parent / str(record["confusion"]["file"])


def _choose_code(
    context: Context, record: dict[str, Any], source: Path
) -> AbstractContextManager[Path]:
    """The folder of the current code; with ``--checkout``, of the recorded commit's code."""
    provenance, run_id = record["provenance"], record["run_id"]
    version = record["spec"]["method_version"]
    if len(provenance.get("attempts") or ()) > 1:
        _print_warning(
            context,
            f"{run_id}: its attempts used different code or devices; the record lists them.",
        )
    if not context.arguments.checkout:
        if version != METHOD_VERSION:
            raise UsageError(
                f"{run_id}: was recorded with method version {version}. This code has version "
                f"{METHOD_VERSION}. Add --checkout to train with the code of its commit."
            )
        return contextlib.nullcontext(current_code())
    if not provenance.get("commit"):
        raise ProtosegError(
            f"{run_id}: its record has no commit to check out. Remove --checkout to use the "
            "current code."
        )
    diff = None
    if provenance.get("dirty"):
        diff = find_diff(source, provenance.get("diff_file"), provenance.get("diff_sha256"))
        effect = "they are applied" if diff else "they were not saved, so the result may differ"
        _print_warning(context, f"{run_id}: its code had uncommitted changes; {effect}.")
    return check_out(current_code(), provenance["commit"], diff)


def _code_digest(code: Path) -> str:
    from protoseg.config.plugin_source import hash_modules

    return hash_modules(code / "protoseg")


def _print_introduction(
    context: Context, record: dict[str, Any], folder: RunFolder, threads: int
) -> None:
    from protoseg.cli.views.cost import format_duration

    if context.json:
        return
    provenance, spec = record["provenance"], record["spec"]
    device = f"{provenance['device']}, {_describe_threads(provenance.get('threads'))}"
    if provenance.get("processes", 1) > 1:
        device += f", {provenance['processes']} processes (now one: equal up to rounding at best)"
    took = format_duration(record["cost"]["seconds"])
    text = f"{record['run_id']}: {spec['schedule']['iterations']} iterations took {took} on"
    context.console.print(f"{text} {device}", markup=False)
    start = folder.checkpoint_iteration()
    action = f"resuming from iteration {start}" if start else "training"
    context.console.print(
        f"{action} with {_describe_threads(threads)} in {folder.path}", markup=False
    )


def _describe_threads(number: int | None) -> str:
    return "1 thread" if number == 1 else f"{number or 'an unknown number of'} threads"


@contextlib.contextmanager
def _show_progress(context: Context, folder: RunFolder) -> Iterator[Callable[[Status], None]]:
    """A progress bar on a terminal, nothing elsewhere."""
    from protoseg.cli.views.sweep import make_row_renderer

    if context.json or not sys.stdout.isatty():
        yield lambda status: None
        return
    from rich.live import Live

    draw = make_row_renderer(folder.run_id, folder, len(folder.attempts()))
    with Live(console=context.console, refresh_per_second=4, transient=True) as display:
        yield lambda status: display.update(draw(status))


def _print_unfinished(context: Context, folder: RunFolder, status: Status) -> int:
    """Report a worker that ended without a record."""
    reason = f"{status.reason.value}: " if status.reason else ""
    text = f"{folder.run_id}: {status.state.value}, {reason}{status.message}"
    if status.state is State.INTERRUPTED:
        text += "; run the same command again to resume it"
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


def _print_warning(context: Context, message: str) -> None:
    context.errors.print(message, style="yellow", markup=False)
