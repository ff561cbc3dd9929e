"""``protoseg evaluate``: evaluates finished runs, or weights from elsewhere, on a split."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from protoseg.cli.arguments import add_augmentation_options, add_operands, choose_scales
from protoseg.cli.exit_status import OK
from protoseg.errors import UsageError
from protoseg.runs.results.evaluation import (
    EVALUATIONS,
    check_origin,
    find_evaluation,
    name_evaluation,
    write_evaluation,
)

if TYPE_CHECKING:
    from protoseg.cli.context import Context
    from protoseg.cli.evaluation.targets import EvaluationTarget

EXAMPLE = "protoseg evaluate camvid_methods --split test"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_operands(
        parser,
        "MATRIX | RUN | CHECKPOINT | OVERRIDE",
        "matrices (all their runs), run ids, unique parts of run ids, or checkpoints "
        "(RUN/checkpoints/best_*.pth); with --config, changes of the data set",
    )
    parser.add_argument("--split", metavar="SPLIT", help="a split of the data set (required)")
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="another data set with the same classes (default: that of the run)",
    )
    add_augmentation_options(parser)
    group = parser.add_argument_group("weights that protoseg did not train")
    group.add_argument("--config", metavar="FILE.py", help="mmseg config of the network")
    group.add_argument("--checkpoint", metavar="FILE.pth", help="its weights")
    group.add_argument(
        "--same-classes",
        action="store_true",
        help="the checkpoint names the classes of the data set, in its order, otherwise",
    )


def run(context: Context) -> int:
    """Evaluate runs that are not evaluated on this split yet; nothing is overwritten."""
    arguments = context.arguments
    split = arguments.split
    if not split:
        raise UsageError("evaluate: no split is named. Add --split NAME, e.g. --split test.")
    scales = choose_scales(arguments)
    from protoseg.cli.evaluation.imported_weights import evaluate_imported_weights, print_row

    if arguments.config or arguments.checkpoint:
        return evaluate_imported_weights(context)
    if arguments.same_classes:
        raise UsageError("evaluate: --same-classes needs --config and --checkpoint. Remove it.")
    if not arguments.operands:
        raise UsageError("evaluate: no matrix, run or checkpoint is named. Name one.")
    from protoseg.cli.evaluation.targets import list_targets

    targets, matrices = list_targets(context)
    is_elsewhere = any(target.dataset for target in targets)
    where = f"{arguments.dataset} {split}" if is_elsewhere else split
    if scales:
        where += f", {2 * len(scales)} passes"
    results: list[dict[str, Any]] = []
    for target in targets:
        result, evaluation = _evaluate_target(context, target, scales)
        results.append(result)
        if result["new"] and not context.json:
            miou, images = evaluation["metrics"]["miou"], evaluation["metrics"]["images"]
            text = f"{target.label}  {where}: {images} images, mIoU {miou:.2f}"
            context.console.print(text, markup=False)
    if context.json:
        data = {"dataset": arguments.dataset} if arguments.dataset else {}
        context.print_json({"split": split, **data, "evaluations": results})
        return OK
    old = sum(not result["new"] for result in results)
    if old:
        context.console.print(f"Already evaluated on {where}: {old} of {len(results)} runs.")
    names = " ".join(matrix.name for matrix in matrices if len(matrix.runs) > 1)
    if names and not is_elsewhere:
        options = f" --tta --scales {','.join(f'{s:g}' for s in scales)}" if scales else ""
        context.console.print(f"To see the table: protoseg tables {names} --split {split}{options}")
    for target, result in zip(targets, results, strict=True):
        is_variant = "checkpoint" in result or ("prediction" in result and not names)
        if is_variant and target.read_record() is not None:
            print_row(context, result["name"])
    return OK


def _evaluate_target(
    context: Context, target: EvaluationTarget, scales: tuple[float, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Find the evaluation of a target, or make it.

    Returns:
        The entry of the JSON output, and the evaluation.
    """
    from protoseg.cli.evaluation.imported_weights import require_same_data_set
    from protoseg.inference.run_evaluation import (
        describe_variant,
        evaluate_saved_run,
        name_described,
        require_same_weights,
    )
    from protoseg.training.evaluation.finished_run import keep_class_weights

    arguments, dataset = context.arguments, target.dataset
    variant = describe_variant(target.spec, target.checkpoint, scales)
    data_name = dataset.name if dataset is not None else ""
    key = (target.run_id, arguments.split, target.choice, data_name, name_described(variant))
    existing = find_evaluation(context.evaluation_folders, *key)
    entry = {"run_id": target.run_id, "name": name_evaluation(*key), **variant}
    if existing is not None:
        path, evaluation = existing
        check_origin(evaluation, target.read_record(), path)
        if target.checkpoint is not None:
            require_same_weights(evaluation, target.checkpoint, path)
        if dataset is not None:
            require_same_data_set(evaluation, keep_class_weights(dataset, target.spec), path)
        return {**entry, "new": False, **evaluation["metrics"]}, evaluation
    with context.progress_bar(target.label) as bar:
        evaluation, counts = evaluate_saved_run(
            target.find_checkpoint(),
            arguments.split,
            context.paths.data,
            choice=target.choice,
            dataset=dataset,
            scales=scales,
            progress=bar.update,
        )
    write_evaluation(evaluation, counts, context.paths.runs / EVALUATIONS)
    return {**entry, "new": True, **evaluation["metrics"]}, evaluation
