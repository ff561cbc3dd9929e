"""``protoseg samples``: makes the samples of finished runs, which pictures are drawn from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoseg.cli.arguments import add_operands
from protoseg.cli.exit_status import OK
from protoseg.cli.outputs import display_path
from protoseg.errors import ProtosegError, UsageError
from protoseg.runs.folder import RunFolder

if TYPE_CHECKING:
    from protoseg.cli.context import Context

EXAMPLE = "protoseg samples quickstart --publish"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_operands(
        parser,
        "MATRIX | RUN | OVERRIDE",
        "matrices (all their runs), run ids, or unique parts of run ids",
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="also write the published form, at most 100 kB a run, to RESULTS/samples",
    )


def run(context: Context) -> int:
    """Make the samples that are missing; valid ones are kept."""
    from protoseg.cli.run_lookup import load_matrices_and_runs
    from protoseg.runs.record import read_record
    from protoseg.runs.results.samples import SAMPLES, check_origin, read_samples
    from protoseg.runs.results.samples_reduction import publish_samples

    if not context.arguments.operands:
        raise UsageError("samples: no matrix or run is named. Name one.")
    matrices = load_matrices_and_runs(context)
    run_ids = list(dict.fromkeys(run.run_id for matrix in matrices for run in matrix.runs))
    folders = [RunFolder(context.paths.runs / run_id) for run_id in run_ids]
    finished = [folder for folder in folders if folder.record.is_file()]
    if not finished:
        raise ProtosegError(
            f"{context.paths.runs}: has no record of {run_ids[0]}"
            f"{' or the other runs' if len(run_ids) > 1 else ''}. Samples need the folder of a "
            "finished run; train it first."
        )
    results: list[dict[str, Any]] = []
    problems: list[str] = []
    for folder in finished:
        result: dict[str, Any] = {"run_id": folder.run_id, "new": False, "published": ""}
        try:
            result["new"] = not folder.samples.is_file()
            if result["new"]:
                _make_samples(context, folder)
            check_origin(read_samples(folder.samples), read_record(folder.record), folder.samples)
            if context.arguments.publish:
                target = context.paths.results / SAMPLES
                publish_samples(folder.samples, target)
                result["published"] = display_path(target / f"{folder.run_id}.npz")
        except ProtosegError as error:
            problems.append(str(error))
            continue
        results.append(result)
        if not context.json:
            _print_result(context, folder, result)
    unfinished = len(folders) - len(finished)
    if context.json:
        context.print_json({"samples": results, "unfinished": unfinished, "problems": problems})
    elif unfinished:
        context.console.print(f"Not finished: {unfinished} of {len(folders)} runs.")
    return context.print_errors(problems) if problems else OK


def _make_samples(context: Context, folder: RunFolder) -> None:
    """Compute the samples of a run from its checkpoint."""
    from protoseg.training.evaluation.finished_samples import sample_finished_run

    with context.progress_bar(f"samples of {folder.run_id}") as bar:
        sample_finished_run(folder, context.paths.data, bar.update)


def _print_result(context: Context, folder: RunFolder, result: dict[str, Any]) -> None:
    """Print what was made of a run, with the sizes of its files."""
    state = "made" if result["new"] else "exist"
    parts = [f"{folder.run_id}  {state}: {_format_size(folder.samples)}"]
    if result["published"]:
        published = result["published"]
        parts.append(f"published: {published}, {_format_size(Path(published))}")
    context.console.print("; ".join(parts), markup=False)


def _format_size(path: Path) -> str:
    return f"{path.stat().st_size / 1000:.0f} kB"
