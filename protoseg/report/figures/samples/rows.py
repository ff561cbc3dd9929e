"""Finds the samples of the rows of a matrix, and the images that all of them have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from protoseg.errors import ProtosegError, UsageError, describe_unknown_name
from protoseg.report.figures.contents import describe_missing_settings
from protoseg.report.figures.data import FigureInput, Setting
from protoseg.report.figures.samples.plots import SampleOptions
from protoseg.runs.results.samples import (
    SAMPLES,
    Array,
    Samples,
    check_origin,
    find_samples,
    read_samples,
)
from protoseg.runs.results.samples_reduction import reduce_samples
from protoseg.runs.store import RecordStore


@dataclass(frozen=True)
class SampledRow:
    """A row of a matrix with the samples of one of its runs, in the published form."""

    label: str
    run_id: str
    seed: int
    samples: Samples
    dataset: dict[str, Any]
    """The data set in the spec of the run."""


@dataclass(frozen=True)
class SampledRows:
    """The rows of a figure."""

    rows: tuple[SampledRow, ...]
    missing: tuple[tuple[str, str], ...]
    """(label, reason) of the rows without samples."""

    @property
    def images(self) -> list[str]:
        """The images that the samples of all rows have, in the order of their choice."""
        others = [set(row.samples.images) for row in self.rows]
        return [name for name in self.rows[0].samples.images if all(name in o for o in others)]

    def describe(self) -> list[str]:
        """Sentences for the note: seeds, split, missing rows."""
        seeds = {row.seed for row in self.rows}
        listed = "seed " if len(seeds) == 1 else "seeds "
        listed += ", ".join(str(seed) for seed in dict.fromkeys(row.seed for row in self.rows))
        meta = self.rows[0].samples.meta
        return [
            f"Data: {meta['dataset']}, {meta['split']}; {listed}.",
            *describe_missing_settings(self.missing),
        ]

    def find_class(self, name: str, figure_type: str) -> int:
        """The number of a class.

        Raises:
            UsageError: the data set has no such class.
        """
        classes = list(self.rows[0].samples.meta["classes"])
        if name not in classes:
            where = f"{figure_type}: --class"
            raise UsageError(describe_unknown_name("class", name, where, classes, in_order=True))
        return classes.index(name)


def select_settings(
    figure_input: FigureInput, wanted: Sequence[str], figure_type: str
) -> list[Setting]:
    """Select the settings of a matrix by their labels, in the order of the labels.

    Raises:
        UsageError: a label is unknown.
    """
    settings = {setting.label: setting for setting in figure_input.settings}
    for label in wanted:
        if label not in settings:
            where = f"{figure_input.matrix.name}: {figure_type}: --row"
            raise UsageError(describe_unknown_name("row", label, where, settings, in_order=True))
    return [settings[label] for label in dict.fromkeys(wanted)] or list(settings.values())


def read_rows(
    figure_input: FigureInput, store: RecordStore, options: SampleOptions, figure_type: str
) -> SampledRows:
    """Read the samples of the rows of a figure: of each row the run of the lowest seed with any.

    Args:
        figure_input: the matrix with its records.
        store: of these records; samples are beside them and in the run folders.
        options: may name rows.
        figure_type: for messages.

    Raises:
        UsageError: an unknown row, or rows of different data.
        ProtosegError: a named row has no samples, or no row has; samples are damaged or of
            another model.
    """
    name = figure_input.matrix.name
    rows, missing = [], []
    for setting in select_settings(figure_input, options.rows, figure_type):
        row = _read_row(setting, store)
        if row is not None:
            rows.append(row)
        else:
            missing.append((setting.label, "no samples" if setting.records else "not run"))
    if missing and (options.rows or not rows):
        label, reason = missing[0]
        raise ProtosegError(
            f"{name}: {figure_type}: {reason} of '{label}'. Make them where the checkpoints are: "
            f"protoseg samples {name}"
        )
    data = {
        (row.samples.meta["folder"], row.samples.meta["split"], tuple(row.samples.meta["classes"]))
        for row in rows
    }
    if len(data) > 1:
        raise UsageError(
            f"{name}: {figure_type}: its rows are evaluated on different data, which cannot share "
            "a figure. Name rows of one data set and split with --row."
        )
    sampled = SampledRows(tuple(rows), tuple(missing))
    _check_images(sampled, f"{name}: {figure_type}")
    return sampled


def _check_images(sampled: SampledRows, where: str) -> None:
    """Refuse rows without a common image, or with another ground truth of one."""
    if not sampled.images:
        raise UsageError(
            f"{where}: the samples of its rows have no image in common. Name rows of one split "
            "with --row."
        )
    first, *others = sampled.rows
    for name in sampled.images:
        truth = read_labels(first, name)[0]
        for row in others:
            if not np.array_equal(truth, read_labels(row, name)[0]):
                raise UsageError(
                    f"{where}: '{first.label}' and '{row.label}' have another ground truth of "
                    f"{name}, so their data differ. Name rows of the same data with --row."
                )


def _read_row(setting: Setting, store: RecordStore) -> SampledRow | None:
    folders = [folder.parent / SAMPLES for folder in store.record_folders]
    for seed, record in setting.records.items():
        path = find_samples(folders, store.runs_folder, record["run_id"])
        if path is None:
            continue
        samples = read_samples(path)
        check_origin(samples, record, path)
        dataset = record["spec"]["dataset"]
        return SampledRow(setting.label, record["run_id"], seed, reduce_samples(samples), dataset)
    return None


def choose_images(
    sampled: SampledRows, options: SampleOptions, default: str, number: int, figure_type: str
) -> tuple[list[str], str]:
    """Choose images by the rule of the options, from those that all rows have.

    Args:
        sampled: the rows.
        options: rule, seed and number of images.
        default: the rule if the options have none.
        number: the number of images if the options have none, or fewer if there are fewer.
        figure_type: for messages.

    Returns:
        Names of the images, and the rule as a sentence for the note.

    Raises:
        UsageError: fewer images than named, or a rule that needs several rows.
    """
    names, rule = sampled.images, options.choose or default
    if options.images > len(names):
        raise UsageError(
            f"{figure_type}: --images {options.images}: the samples of these rows share "
            f"{len(names)} images. Name a number from 1 to {len(names)}."
        )
    number = options.images or min(number, len(names))
    of_all = f"of the {len(names)} sampled ones"
    if rule == "random":
        # RandomState: its numbers are the same in all versions of numpy.
        order = np.random.RandomState(options.seed).permutation(len(names))
        return [names[i] for i in order[:number]], (
            f"Images: random {of_all}, seed {options.seed}."
        )
    if rule == "disagreement":
        if len(sampled.rows) < 2:
            raise UsageError(
                f"{figure_type}: --choose disagreement: compares rows, but there is one. Name "
                "another rule, or several rows."
            )
        shares = [compute_disagreement(sampled.rows, name) for name in names]
        order = np.argsort(-np.array(shares), kind="stable")
        sentence = f"Images: the {number} {of_all} where most pixels are predicted differently."
    else:
        means = np.array([np.mean(list_mious(sampled.rows, name)) for name in names])
        order = np.argsort(means if rule == "worst" else -means, kind="stable")
        which = "lowest" if rule == "worst" else "highest"
        sentence = f"Images: the {number} {of_all} with the {which} mIoU, mean over these rows."
    return [names[i] for i in order[:number]], sentence


def list_mious(rows: Iterable[SampledRow], name: str) -> list[float]:
    """mIoU of one image at full size, for each row."""
    return [float(row.samples.arrays["image_miou"][row.samples.images.index(name)]) for row in rows]


def read_labels(row: SampledRow, name: str) -> tuple[Array, Array]:
    """Ground truth and prediction of an image."""
    position = row.samples.images.index(name)
    return row.samples.maps["truth"][position], row.samples.maps["prediction"][position]


def compute_disagreement(rows: Sequence[SampledRow], name: str) -> float:
    """The share of the pixels of an image that not all rows predict alike, without ignored ones."""
    truth = read_labels(rows[0], name)[0]
    inside = truth != rows[0].samples.meta["ignored"]
    predictions = np.stack([read_labels(row, name)[1] for row in rows])
    differ = (predictions != predictions[0]).any(0) & inside
    return float(differ.sum() / max(inside.sum(), 1))
