"""Adds the metrics of the levels of a tree of classes to the records of a matrix.

They are computed from the confusion counts beside a record, so no run is trained for them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from protoseg.config.hierarchy.table_trees import DataKey, needs_tree
from protoseg.config.hierarchy.tree import Hierarchy
from protoseg.config.matrix import Matrix
from protoseg.errors import UsageError
from protoseg.report.metrics import LACK, LEVEL_PART
from protoseg.runs.record import locate_counts, verify_confusion
from protoseg.runs.sealed import RecordError
from protoseg.runs.store import ChangedRecords, LookupResult, RecordStore


def with_levels(
    matrix: Matrix, store: RecordStore, metrics: Iterable[str] | None = None
) -> RecordStore:
    """Return a store whose records have the metrics of levels.

    A run without its confusion counts has no values, and the store gets a warning.

    Args:
        matrix: has the trees.
        store: records of its runs; both have the same warnings.
        metrics: that are read; those of the table by default. If none of them is of a level, the
            store is returned as it is.
    """
    if not any(map(needs_tree, matrix.table.metrics if metrics is None else metrics)):
        return store

    def change(result: LookupResult) -> LookupResult:
        assert result.record is not None
        if LEVEL_PART in result.record or result.source is None:
            return result
        counts = locate_counts(result.record, result.source)
        record = add_levels(result.record, counts, matrix.trees, store.warnings)
        return dataclasses.replace(result, record=record)

    return ChangedRecords(store, change)


def add_levels(
    record: Mapping[str, Any],
    counts: Path,
    trees: Mapping[DataKey, Hierarchy],
    warnings: list[str],
) -> dict[str, Any]:
    """Return a record, or an evaluation, with the metrics of levels.

    Args:
        record: with ``confusion``; its data set is in ``spec``, or is its own part.
        counts: file of its confusion counts.
        trees: name and classes of a data set -> its tree; without its tree, a record is unchanged.
        warnings: gets a sentence about counts that are missing or damaged.
    """
    tree = trees.get(get_data_key(record))
    if tree is None:
        return dict(record)
    try:
        return {**record, LEVEL_PART: compute_record_levels(record, counts, tree)}
    except (RecordError, OSError) as error:
        sentence = f"{error} Without it, the metrics on the levels of a tree have no value."
        if sentence not in warnings:
            warnings.append(sentence)
        return {**record, LEVEL_PART: {LACK: "no confusion counts"}}


def compute_record_levels(
    record: Mapping[str, Any], counts: Path, tree: Hierarchy
) -> dict[str, Any]:
    """Compute the metrics of levels from the confusion counts of a record.

    Raises:
        RecordError: the counts are missing, damaged, those of another record, or of other classes.
    """
    from protoseg.report.statistics.counts import read_counts
    from protoseg.report.statistics.levels import compute_levels

    verify_confusion(record, counts, str(record.get("run_id", counts.stem)))
    read = read_counts(counts)
    if read.num_classes != tree.num_classes:
        raise RecordError(
            f"{counts}: has {read.num_classes} classes, and the tree {tree.num_classes}."
        )
    return compute_levels(read, tree)


def get_data_key(record: Mapping[str, Any]) -> DataKey:
    """Get name and classes of the data set of a record or of an evaluation."""
    dataset = record["dataset"] if "dataset" in record else record["spec"]["dataset"]
    return str(dataset["name"]), tuple(dataset["classes"])


def refuse_levels(matrix: Matrix, option: str) -> None:
    """Refuse metrics of levels where evaluations have no confusion counts.

    Args:
        matrix: the matrix of the table.
        option: named in the message.

    Raises:
        UsageError: the table has such a metric.
    """
    metric = next(filter(needs_tree, matrix.table.metrics), None)
    if metric is not None:
        raise UsageError(
            f"{matrix.name}: {option}: {metric} needs confusion counts, and evaluations on the "
            f"way keep none. Remove it from table.metrics, or leave out {option}."
        )
