"""Builds the figure of confusion matrices from the counts beside the records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from protoseg.errors import ProtosegError, UsageError
from protoseg.report import wording
from protoseg.report.figures.contents import Figure, describe_missing_settings, make_figure
from protoseg.report.figures.data import FigureInput, Setting
from protoseg.report.figures.samples.plots import ConfusionPanel, ConfusionPlot, SampleOptions
from protoseg.report.figures.samples.rows import select_settings
from protoseg.report.statistics.counts import read_counts
from protoseg.runs.record import verify_confusion
from protoseg.runs.results.samples import Array
from protoseg.runs.store import RecordStore


def build_confusion_figure(
    figure_input: FigureInput, store: RecordStore, options: SampleOptions
) -> Figure:
    """Build the figure of the confusion matrix of each row, summed over seeds.

    Args:
        figure_input: the matrix with its records.
        store: of these records; their counts are beside them.
        options: may name rows.

    Raises:
        UsageError: an unknown row, or rows with different classes.
        ProtosegError: no row has finished, or counts are missing or differ from their record.
    """
    name, panels, missing = figure_input.matrix.name, [], []
    names: tuple[str, ...] = ()
    for setting in select_settings(figure_input, options.rows, "confusion"):
        reason = setting.describe_missing(setting.records)
        if reason:
            missing.append((setting.label, reason))
        if not setting.records:
            continue
        record = next(iter(setting.records.values()))
        classes = tuple(wording.clean_text(each["name"]) for each in record["per_class"])
        if names and classes != names:
            raise UsageError(
                f"{name}: confusion: its rows have different classes, which cannot share an axis. "
                "Name rows of one data set with --row."
            )
        names = classes
        matrix = sum_matrices(setting, store, len(names))
        panels.append(ConfusionPanel(setting.label, divide_rows(matrix), reason))
    if not panels:
        raise ProtosegError(f"{name}: confusion: no run of these rows has finished.")
    notes = [
        "Confusion matrices: of the pixels of a class (row), the percentage predicted as each "
        "class (column), summed over images and seeds.",
        *figure_input.describe_protocol(),
        *describe_missing_settings(missing),
    ]
    content = ConfusionPlot(options.encode(), names, tuple(panels))
    return make_figure(name, "confusion", figure_input.table.title, notes, content)


def sum_matrices(setting: Setting, store: RecordStore, num_classes: int) -> Array:
    """Sum the confusion counts of all seeds of a row, (C, C) int64; rows are ground truth.

    Raises:
        RecordError: counts are missing, or differ from the digest in their record.
    """
    matrix = np.zeros(num_classes**2, np.int64)
    for record in setting.records.values():
        path = _find_counts(record, store.find(record["run_id"]).source)
        verify_confusion(record, path)
        counts = read_counts(path)
        np.add.at(matrix, counts.cell, counts.pixels)
    return matrix.reshape(num_classes, num_classes)


def _find_counts(record: dict[str, Any], source: Path | None) -> Path:
    """The file of counts of a record: in the run folder, or in the folder of records."""
    source = source or Path(f"{record['run_id']}.json")
    in_run_folder = source.with_name(record["confusion"]["file"])
    return in_run_folder if source.name == "record.json" else source.with_suffix(".npz")


def divide_rows(matrix: Array) -> tuple[tuple[float | None, ...], ...]:
    """Divide each row of counts by its sum, in percent; None for a class without pixels."""
    sums = matrix.sum(1)
    return tuple(
        tuple(round(100 * value / total, 3) if total else None for value in row)
        for row, total in zip(matrix.tolist(), sums.tolist(), strict=True)
    )
