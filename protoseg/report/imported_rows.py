"""The rows of a table that no run of protoseg gives: evaluations of weights from elsewhere.

A row shows the values of one evaluation. It takes no part in bold, Δ, verdicts and comparisons, and
a footnote names the origin of its weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from protoseg.config.fields import to_plain
from protoseg.config.hierarchy.table_trees import needs_tree
from protoseg.config.identity import read_spec
from protoseg.config.matrix import Matrix
from protoseg.config.schema import RunSpec
from protoseg.errors import ProtosegError, UsageError
from protoseg.report import metrics, wording
from protoseg.report.level_metrics import add_levels
from protoseg.report.metrics import COUNTS, METRICS, QUALITIES
from protoseg.report.tables.cells import OTHER_DATA, FootnoteMarks
from protoseg.report.tables.model import Cell, Column, Row
from protoseg.report.tables.samples import describe_augmentation
from protoseg.runs.results.evaluation import EVALUATIONS, FILES, check_origin
from protoseg.runs.results.imported import FORMAT, IMPORTED
from protoseg.runs.store import RecordStore

DIGITS = 12
"""Digits of a SHA-256 that a footnote shows."""
OWN = "own_data_set"
"""Marks an evaluation on the data set that its run was trained on."""
UNPINNED = "unpinned"
SAME_FIELDS = (
    *("name", "classes", "labels", "label_count", "palette"),
    *("reduce_zero_label", "ignore", "ignore_index"),
)
"""Fields of a data set that are the same for two evaluations of the same data."""


def make_imported_rows(
    matrix: Matrix,
    store: RecordStore,
    header: Sequence[Column],
    spec: RunSpec,
    common_n: int,
    marks: FootnoteMarks,
) -> Iterator[Row]:
    """Make the rows of ``table.imported``.

    Args:
        matrix: the matrix of the table.
        store: its folders are beside those of the evaluations.
        header: the columns of the table.
        spec: of a run of the table; a row with other data has a status instead of numbers.
        common_n: number of seeds of most cells.
        marks: takes the footnotes about the weights.

    Raises:
        UsageError: the table has no column for labels.
        ProtosegError: there is no such evaluation, or it is damaged.
    """
    columns = sum(column.kind == "label" for column in header)
    for each in matrix.table.imported:
        if not columns:
            raise UsageError(
                f"{matrix.name}: table.imported: '{each.label}' has no column for its label. Give "
                "the rows of the matrix labels."
            )
        path, evaluation = find_evaluation(store, each.evaluation, matrix.name)
        if any(map(needs_tree, matrix.table.metrics)):
            counts = path.with_suffix(".npz")
            evaluation = add_levels(evaluation, counts, matrix.trees, store.warnings)
        mark = marks.mark(describe_weights(evaluation))
        is_same = has_same_data(evaluation, spec)
        label = wording.clean_text(each.label)
        labels = (label, *[""] * (columns - 1))
        cells = [Cell("label", text) for text in labels]
        for column in header[columns:]:
            is_main = column.metric == matrix.table.metrics[0] and column.kind == "measured"
            if is_same:
                cell = _make_cell(evaluation, column, common_n, mark if is_main else "")
            else:
                cell = Cell("status", OTHER_DATA if is_main else "", mark=mark if is_main else "")
            cells.append(cell)
        yield Row(label, tuple(cells), labels)


def list_evaluation_folders(store: RecordStore, name: str) -> list[Path]:
    """List the folders of a name beside the folders of a store: of the runs, and of the records."""
    runs = [] if store.runs_folder is None else [store.runs_folder / name]
    return [*runs, *(folder.parent / name for folder in store.record_folders)]


def find_evaluation(store: RecordStore, name: str, where: str) -> tuple[Path, dict[str, Any]]:
    """Find an evaluation by its name: of imported weights, or of a run.

    That of a run is on another data set, of another checkpoint, or with test-time augmentation.

    Args:
        store: its folders are beside those of the evaluations.
        name: of the evaluation.
        where: name of the matrix, for the message.

    Raises:
        ProtosegError: there is none, it is damaged, or its run has another record; or `protoseg
            tables --split` shows it.
    """
    folders = list_evaluation_folders(store, IMPORTED)
    imported = FORMAT.find_evaluation(folders, name)
    if imported is not None:
        return imported
    of_runs = list_evaluation_folders(store, EVALUATIONS)
    of_run = FILES.find_evaluation(of_runs, name)
    if of_run is not None:
        path, evaluation = of_run
        return path, _add_data_set(evaluation, store, path)
    raise ProtosegError(
        f"{where}: table.imported: there is no evaluation {name} in "
        f"{' or '.join(map(str, [*folders, *of_runs]))}. Make it with protoseg evaluate --config "
        "FILE.py --checkpoint FILE.pth, evaluate CHECKPOINT or evaluate --tta; protoseg tables "
        "--keep-records publishes it."
    )


def _add_data_set(evaluation: dict[str, Any], store: RecordStore, path: Path) -> dict[str, Any]:
    """An evaluation of a run with the spec of its data set, which the record may have alone.

    Raises:
        ProtosegError: it is of the run's own model and settings, so that it belongs into another
            table; or its run has no record, or another one.
    """
    if "dataset" in evaluation:
        return evaluation
    if not {"checkpoint", "prediction"} & evaluation.keys():
        raise ProtosegError(
            f"{path}: is of the data set that its run was trained on. Show it with protoseg tables "
            "--split, or name an evaluation of imported weights, of another checkpoint, or with "
            "--tta."
        )
    # Not the given store: that of a split table finds other evaluations.
    record = RecordStore(store.record_folders, store.runs_folder).find(evaluation["run_id"]).record
    if record is None:
        raise ProtosegError(
            f"{path}: its run {evaluation['run_id']} has no record. A table shows finished runs: "
            "train it first."
        )
    check_origin(evaluation, record, path)
    dataset = read_spec(record["spec"], record["run_id"]).dataset
    return {**evaluation, "dataset": to_plain(dataset), OWN: True}


def has_same_data(evaluation: Mapping[str, Any], spec: RunSpec) -> bool:
    """Whether an evaluation is of the images, labels and split of a run."""
    dataset, ours = evaluation["dataset"], to_plain(spec.dataset)
    digests = {evaluation["provenance"].get("data_digest"), spec.dataset.digest} - {UNPINNED}
    return (
        all(dataset.get(key) == ours[key] for key in SAME_FIELDS)
        and len(digests) <= 1
        and evaluation["split"] == spec.evaluation.split
        and not spec.evaluation.holdout.is_set
    )


def describe_weights(evaluation: Mapping[str, Any]) -> str:
    """Describe the origin of the weights and the evaluation, for a footnote."""
    data = f"{evaluation['dataset']['name']} {evaluation['split']}"
    images = evaluation["metrics"].get("images")
    if "weights" not in evaluation:
        record = evaluation["record"]
        parts = [f"record {record[:DIGITS]}"] if record else []
        if "checkpoint" in evaluation:
            checkpoint, weights = evaluation["checkpoint"], evaluation["state_sha256"][:DIGITS]
            best = "best " if checkpoint["file"].startswith("best_") else ""
            parts.append(f"{best}checkpoint of iteration {checkpoint['iteration']}")
            parts.append(f"weights {weights}")
        other = "" if OWN in evaluation else ", trained on another data set with these classes"
        passes = ""
        if "prediction" in evaluation:
            passes = f", {describe_augmentation(evaluation['prediction'])}"
        return wording.clean_text(
            f"Run {evaluation['run_id']} ({', '.join(parts)}){other}; evaluated on {data} "
            f"({images} images){passes}."
        )
    weights, config = evaluation["weights"], evaluation["config"]
    return wording.clean_text(
        f"Imported weights: {weights['file']}, SHA-256 {weights['sha256'][:DIGITS]}, not trained "
        f"here and not tested against other rows; network of {config['file']}; evaluated on {data} "
        f"({images} images), {_describe_protocol(evaluation)}."
    )


def _describe_protocol(evaluation: Mapping[str, Any]) -> str:
    test_cfg = evaluation["test_cfg"]
    text = "whole image"
    if test_cfg.get("mode") == "slide":
        window, stride = (
            "×".join(map(str, test_cfg.get(key) or ())) for key in ("crop_size", "stride")
        )
        text = f"sliding window {window}, stride {stride}"
    for step in evaluation["pipeline"]:
        arguments = ", ".join(f"{k} {_show(v)}" for k, v in step.items() if k != "type")
        text += f", {step.get('type')} ({arguments})" if arguments else f", {step.get('type')}"
    return text


def _show(value: Any) -> str:
    return "×".join(map(str, value)) if isinstance(value, list) else wording.format_value(value)


def _make_cell(evaluation: Mapping[str, Any], column: Column, common_n: int, mark: str) -> Cell:
    """The cell of one evaluation; empty for columns that compare, and for costs of training."""
    metric = METRICS[column.metric]
    if column.kind == "measured" and column.metric in QUALITIES:
        value = metrics.read_metric(dict(evaluation), metric)
        if value is not None:
            note = "n = 1" if common_n > 1 and mark else ""
            text = wording.format_number(value, metric.decimals)
            return Cell("measured", text, note=note, mark=mark, value=value, n=1, expected_n=1)
    if column.kind == "parameters" and column.metric in COUNTS and "parameters" in evaluation:
        value = metrics.read_metric(dict(evaluation), metric)
        if value is not None:
            text = wording.format_number(value, metric.decimals)
            return Cell("parameters", text, value=value)
    return Cell("status", "", mark=mark)
