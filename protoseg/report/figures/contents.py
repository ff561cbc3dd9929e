"""The data of each figure type, as plain values that a figure is drawn from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from protoseg.files import canonical_json
from protoseg.report import wording
from protoseg.report.figures.samples.plots import OptionPlot, convert_arrays

FORMS = ("svg", "pdf", "png")
MARK = "protoseg-data-sha256:"
"""Precedes the digest of the drawn data in a file of any format."""
NAMED_MISSING = 8
"""Settings without a value that a note names; the figure marks all of them."""


@dataclass(frozen=True)
class SettingValues:
    """The values of one setting in a figure."""

    label: str
    seeds: dict[int, float]
    """Seed -> value, of the finished runs."""
    expected: int
    """Number of planned seeds."""
    missing: str = ""
    """Reason why seeds have no value; never drawn as a number."""
    published: float | None = None


@dataclass(frozen=True)
class Point:
    """A setting at a value of a numeric axis."""

    x: float
    place: SettingValues


@dataclass(frozen=True)
class Line:
    """Settings that differ only in the numeric axis, sorted by x."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class AxisPlot:
    """A metric against a numeric axis."""

    x_name: str
    y_name: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class DotPlot:
    """A metric of named rows; each row has one setting per group (None: not planned)."""

    x_name: str
    groups: tuple[str, ...]
    rows: tuple[tuple[str, tuple[SettingValues | None, ...]], ...]
    baseline: str = ""
    """Label of the common baseline; empty if there is none or if it has no value."""


@dataclass(frozen=True)
class CurvePanel:
    """A value of one setting over the iterations: the training loss, or mIoU on the way."""

    label: str
    iterations: tuple[int, ...]
    """The iterations that every seed has."""
    seeds: dict[int, tuple[float, ...]]
    baseline: str
    """Label of the panel of the baseline; its own label if it is a baseline."""
    missing: str = ""


@dataclass(frozen=True)
class LossPlot:
    """Loss curves, one panel per setting."""

    panels: tuple[CurvePanel, ...]


@dataclass(frozen=True)
class MetricCurvePlot:
    """Learning curves: mIoU over the iterations, one panel per setting."""

    panels: tuple[CurvePanel, ...]


@dataclass(frozen=True)
class ClassPanel:
    """IoU per class of a setting and of its baseline: class -> seed -> percent."""

    label: str
    baseline: str
    ours: dict[str, dict[int, float]]
    theirs: dict[str, dict[int, float]]
    missing: str = ""


@dataclass(frozen=True)
class ClassPlot:
    """IoU per class, the classes sorted by frequency."""

    shares: dict[str, float]
    """Class -> percentage of the evaluated pixels, the most frequent class first."""
    panels: tuple[ClassPanel, ...]


@dataclass(frozen=True)
class BudgetPlot:
    """Differences to the baseline of the same budget, over the number of iterations."""

    axis: AxisPlot
    """Its values are differences, one for each shared seed, in the unit of the metric."""
    baseline: str
    """Name of the baseline, at which the difference is 0."""


@dataclass(frozen=True)
class TrialPoint:
    """A finished trial of a row."""

    number: int
    """From 1."""
    values: dict[str, Any]
    """Searched key -> the value that was tried."""
    result: float
    """The metric that selects, in its unit."""


@dataclass(frozen=True)
class TrialRow:
    """The trials of one row of a search."""

    name: str
    trials: tuple[TrialPoint, ...]
    """The finished ones, by number."""
    planned: int
    """Number of all trials of the row."""
    chosen: int | None
    """Number of the chosen trial; None before the choice."""
    missing: str
    """State of the trials without a result; empty if all have one."""


@dataclass(frozen=True)
class KeyPanel:
    """The axis of one searched key."""

    key: str
    name: str
    scale: str
    """``linear`` or ``log`` for ranges; ``even`` for lists, whose values are evenly spaced."""
    limits: tuple[float, float] | None
    """Lowest and highest value of the ranges of all rows; None for lists."""
    values: tuple[str, ...]
    """The values of the lists of all rows, as text; empty for ranges."""


@dataclass(frozen=True)
class TrialPlot:
    """Results of trials against the searched values, one panel for each key."""

    y_name: str
    panels: tuple[KeyPanel, ...]
    rows: tuple[TrialRow, ...]


@dataclass(frozen=True)
class TuningCurve:
    """The best result of n trials of one row, for n = 1, 2, ..., the number of its trials."""

    name: str
    results: tuple[float, ...]
    """The results of the finished trials, by number."""
    mean: tuple[float, ...]
    """Expected best result of 1, 2, ... trials."""
    low: tuple[float, ...]
    """2.5% quantile of the best result."""
    high: tuple[float, ...]
    """97.5% quantile of the best result."""
    missing: str


@dataclass(frozen=True)
class TuningCurvePlot:
    """The best result of n trials, one line for each row."""

    y_name: str
    curves: tuple[TuningCurve, ...]


Content = (
    AxisPlot
    | DotPlot
    | LossPlot
    | MetricCurvePlot
    | ClassPlot
    | BudgetPlot
    | TrialPlot
    | TuningCurvePlot
    | OptionPlot
)


@dataclass(frozen=True)
class Figure:
    """A figure with all its data."""

    name: str
    """File name without suffix."""
    kind: str
    title: str
    notes: tuple[str, ...]
    """Sentences below the figure: what is drawn, the evaluation, what is missing."""
    content: Content

    def to_dict(self) -> dict[str, Any]:
        """Return the figure as plain data for JSON; of an array, its digest."""
        plain: dict[str, Any] = convert_arrays(asdict(self))
        return plain

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all data of the figure."""
        return hashlib.sha256(canonical_json(self.to_dict())).hexdigest()


def read_digest(content: bytes) -> str | None:
    """Read the digest of the drawn data from a file of any format; None without one."""
    match = re.search(MARK.encode() + rb"([0-9a-f]{64})", content)
    return None if match is None else match[1].decode()


def make_figure(
    matrix: str, figure_type: str, title: str, notes: Iterable[str], content: Content
) -> Figure:
    """Make a figure of a matrix; the notes become single lines."""
    cleaned = tuple(wording.clean_text(note) for note in notes)
    return Figure(figure_file_name(matrix, figure_type), figure_type, title, cleaned, content)


def figure_file_name(matrix: str, figure_type: str) -> str:
    """Name the files of a figure, without suffix: ``MATRIX`` or ``MATRIX_KIND``."""
    return matrix if figure_type == "metric" else f"{matrix}_{figure_type}"


def describe_missing_settings(settings: Iterable[tuple[str, str]]) -> list[str]:
    """Describe missing values from (label, reason) pairs, for a note; empty without a reason."""
    lost = [f"{label} ({reason})" for label, reason in settings if reason]
    if not lost:
        return []
    more = f"; and {len(lost) - NAMED_MISSING} more" if len(lost) > NAMED_MISSING else ""
    return [f"Missing: {'; '.join(lost[:NAMED_MISSING])}{more}."]
