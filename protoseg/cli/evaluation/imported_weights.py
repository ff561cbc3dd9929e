"""Evaluates weights that protoseg did not train, for ``protoseg evaluate --config``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoseg.cli.exit_status import OK
from protoseg.config.fields import to_plain
from protoseg.config.schema import DatasetSpec
from protoseg.errors import ProtosegError, UsageError
from protoseg.runs.results.imported import FORMAT, IMPORTED

if TYPE_CHECKING:
    from protoseg.cli.context import Context


def evaluate_imported_weights(context: Context) -> int:
    """Evaluate the network of ``--config`` and ``--checkpoint``; nothing is overwritten.

    Raises:
        UsageError: an option is missing, or an operand is no override of the data set.
        ProtosegError: see `protoseg.inference.imported.evaluation.ImportedWeights`.
    """
    arguments = context.arguments
    if arguments.tta:
        raise UsageError(
            "evaluate: --tta is for runs. Remove it, or leave out --config and --checkpoint."
        )
    for option in ("config", "checkpoint", "dataset"):
        if not getattr(arguments, option):
            raise UsageError(
                f"evaluate: --{option} is missing. Weights that protoseg did not train need "
                "--config, --checkpoint, --dataset and --split."
            )
    others = [operand for operand in arguments.operands if "=" not in operand]
    if others:
        raise UsageError(
            f"evaluate: '{others[0]}' is named besides --config. Evaluate runs and imported "
            "weights in two calls."
        )
    from protoseg.cli.commands.data import compose_data_set
    from protoseg.inference.imported.evaluation import ImportedWeights

    dataset = compose_data_set(context, arguments.dataset, arguments.operands)
    config, checkpoint = (
        Path(path).expanduser() for path in (arguments.config, arguments.checkpoint)
    )
    weights = ImportedWeights(config, checkpoint, dataset, arguments.split)
    existing = FORMAT.find_evaluation(context.imported_folders, weights.name)
    if existing is not None:
        path, evaluation = existing
        require_same_data_set(evaluation, dataset, path)
    else:
        with context.progress_bar(checkpoint.name) as bar:
            evaluation, counts = weights.evaluate(
                context.paths.data, arguments.same_classes, bar.update
            )
        path = FORMAT.write_evaluation(evaluation, counts, context.paths.runs / IMPORTED)
    metrics = evaluation["metrics"]
    if context.json:
        content = {"name": weights.name, "file": str(path), "new": existing is None, **metrics}
        context.print_json(content)
        return OK
    if existing is not None:
        context.console.print(f"Already evaluated: {path}", markup=False)
    context.console.print(
        f"{checkpoint.name}  {dataset.name} {arguments.split}: {metrics['images']} images, "
        f"mIoU {metrics['miou']:.2f}",
        markup=False,
    )
    print_row(context, weights.name)
    return OK


def print_row(context: Context, name: str) -> None:
    """Print the lines of a matrix that show an evaluation as a row of its table."""
    context.console.print(
        "To show it in a table, add to the block table of its matrix:\n"
        f"  imported: [{{label: NAME, evaluation: {name}}}]",
        markup=False,
    )


def require_same_data_set(evaluation: dict[str, Any], dataset: DatasetSpec, path: Path) -> None:
    """Refuse an earlier evaluation that was made with other settings of its data set.

    Raises:
        ProtosegError: names the settings that differ.
    """
    now = to_plain(dataset)
    # An evaluation of an earlier version lacks the fields that were added since.
    defaults = to_plain(DatasetSpec(dataset.name, dataset.digest, dataset.classes))
    before = {**defaults, **evaluation["dataset"]}
    different = sorted(key for key in {*now, *before} if now.get(key) != before.get(key))
    if different:
        raise ProtosegError(
            f"{path}: was made with other settings of {dataset.name}: {', '.join(different)}. Move "
            "it away to evaluate with the present ones."
        )
