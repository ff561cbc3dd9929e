"""``protoseg masks``: exports the pseudo-masks of a weakly supervised run as a data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from protoseg.cli.arguments import add_run_operand
from protoseg.cli.exit_status import OK
from protoseg.errors import UsageError
from protoseg.runs.folder import RunFolder

if TYPE_CHECKING:
    from protoseg.cli.context import Context

EXAMPLE = "protoseg masks 3f2a --into ccp_masks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_run_operand(parser)
    parser.add_argument("--into", metavar="NAME", help="name of the new data set (required)")


def run(context: Context) -> int:
    """Export the masks of a finished run."""
    from protoseg.cli.run_lookup import find_run, finished_runs
    from protoseg.training.evaluation.export_masks import OPTION, write_masks

    name = context.arguments.into
    if not name:
        raise UsageError("masks: no data set is named. Add --into NAME, e.g. --into ccp_masks.")
    if Path(name).name != name or name.startswith("."):
        raise UsageError(
            f"masks: --into: '{name}' is not the name of a folder in {context.paths.data}. "
            "Use a name without slashes that does not start with a dot."
        )
    runs = context.paths.runs
    run_id = find_run(context.arguments.operands[0], finished_runs(context), f"finished in {runs}")
    folder = RunFolder(runs / run_id)
    target = context.paths.data / name
    with context.progress_bar(f"masks of {run_id}") as progress:
        manifest = write_masks(folder, context.paths.data, target, progress.update)
    if context.json:
        context.print_json(manifest)
        return OK
    context.console.print(
        f"{manifest['images']} masks in {target}: mIoU {manifest['miou']:.2f}% at the background "
        f"threshold {manifest['threshold']}, which was selected on the same images",
        style="green",
        markup=False,
    )
    context.console.print(f"digest {manifest['digest']}")
    context.console.print(
        f"To train on them, copy {target / OPTION} to experiments/dataset/{name}.yaml and use "
        f"dataset={name}.",
        markup=False,
    )
    return OK
