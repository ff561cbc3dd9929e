"""``protoseg train``: trains one run, described by overrides."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from protoseg.cli.arguments import add_operands, add_record_options, add_training_options
from protoseg.config.matrix import Matrix, PlannedRun, TableSpec

if TYPE_CHECKING:
    from protoseg.cli.context import Context

EXAMPLE = "protoseg train dataset=shapes method.num_prototypes=4 seed=1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_operands(
        parser, "OVERRIDE", "values that differ from experiments/run.yaml, e.g. dataset=camvid"
    )
    add_record_options(parser)
    add_training_options(parser)
    parser.set_defaults(jobs=1)


def run(context: Context) -> int:
    """Train the run."""
    from protoseg.cli.commands.sweep import train_matrices

    spec = context.one_run()
    planned = PlannedRun(spec, {})
    matrix = Matrix("train", "one run", (planned,), TableSpec(), ())
    return train_matrices(context, [matrix])
