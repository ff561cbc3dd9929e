"""Recomputes the numbers of tables with numpy, scipy.stats and statsmodels alone.

It reads the records and the confusion counts itself, and shares no code with protoseg: an error
there is not repeated here. The caller only lists the planned runs of a matrix.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import yaml
from statsmodels.stats.multitest import multipletests

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "results" / "records"
MATRICES = ROOT / "experiments" / "matrices"


@dataclass(frozen=True)
class Planned:
    """A planned run of a matrix."""

    axes: Mapping[str, Any]
    """Axis -> value, without the seed."""
    seed: int
    run_id: str


@dataclass(frozen=True)
class Numbers:
    """The numbers of one cell."""

    value: float
    std: float | None
    n: int


@dataclass
class Setting:
    """The planned and the finished runs of one setting."""

    axes: Mapping[str, Any]
    runs: dict[int, str] = field(default_factory=dict)
    """Seed -> run id."""
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    """Metric -> seed -> value."""
    per_class: dict[str, list[float]] = field(default_factory=dict)
    """Class -> IoU of the seeds where it is defined."""
    evaluation: str = ""
    """Data and evaluation, as text to compare."""

    @property
    def label(self) -> str:
        """The values of its axes."""
        return ", ".join(
            str(value) if axis == "label" else f"{axis}={value}"
            for axis, value in self.axes.items()
        )

    @property
    def run_ids(self) -> tuple[str, ...]:
        """Its run ids, sorted by seed; they identify the setting in a table."""
        return tuple(run_id for _, run_id in sorted(self.runs.items()))


@dataclass(frozen=True)
class ExpectedComparison:
    """The comparison of a setting with its baseline, in the main metric of the table."""

    label_a: str
    label_b: str
    n: int
    """Number of shared seeds."""
    difference: float
    """Mean of a - b."""
    interval: tuple[float, float]
    """95% interval of the paired t test; nan for n < 2 or without variance."""
    p: float
    adjusted_p: float
    """Adjusted by Holm's method over all comparisons of the table."""
    run_ids_a: tuple[str, ...] = ()
    run_ids_b: tuple[str, ...] = ()


@functools.cache
def recount(path: Path) -> tuple[dict[str, float], list[float]]:
    """Compute mIoU, mAcc and aAcc, and the IoU of each class, from a file of confusion counts.

    Returns:
        Metric -> percent, and the IoU of each class in percent; nan where the union is empty.
    """
    with np.load(path) as archive:
        classes = int(archive["num_classes"])
        pixels = np.bincount(archive["cell"], weights=archive["count"], minlength=classes**2)
    matrix = pixels.reshape(classes, classes)
    hit, truth, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    with np.errstate(invalid="ignore"):
        iou, accuracy = 100 * hit / (truth + predicted - hit), 100 * hit / truth
    metrics = {
        "miou": float(np.nanmean(iou)),
        "macc": float(np.nanmean(accuracy)),
        "aacc": float(100 * hit.sum() / truth.sum()),
    }
    return metrics, iou.tolist()


@functools.cache
def read_record(run_id: str) -> dict[str, Any] | None:
    """Read a committed record; None if there is none."""
    path = RECORDS / f"{run_id}.json"
    return json.loads(path.read_text()) if path.exists() else None


def read_settings(plan: Iterable[Planned]) -> list[Setting]:
    """Group the runs of a matrix by their axes, in the order of the plan, and read their values."""
    settings: dict[str, Setting] = {}
    for run in plan:
        key = json.dumps(dict(run.axes), sort_keys=True, default=str)
        setting = settings.setdefault(key, Setting(run.axes))
        setting.runs[run.seed] = run.run_id
        record = read_record(run.run_id)
        if record is None:
            continue
        metrics, ious = recount(RECORDS / f"{run.run_id}.npz")
        parameters = record["parameters"]
        millions = parameters["learnable"] / 1e6
        for metric, value in {**metrics, "parameters": millions, "learnable": millions}.items():
            setting.values.setdefault(metric, {})[run.seed] = value
        spec = record["spec"]
        weak = {key: spec["method"].get(key) for key in ("scales", "flip")}
        setting.evaluation = json.dumps([spec["dataset"], spec["evaluation"], weak], sort_keys=True)
        for name, iou in zip(spec["dataset"]["classes"], ious, strict=True):
            defined = setting.per_class.setdefault(name, [])
            defined.extend([] if math.isnan(iou) else [iou])
    return list(settings.values())


def read_table(name: str) -> dict[str, Any]:
    """Read the ``table`` of a matrix from its file."""
    content = yaml.safe_load((MATRICES / f"{name}.yaml").read_text())
    return content.get("table") or {}


def summarise(values: Iterable[float]) -> Numbers:
    """Compute the mean and, for two or more values, the sample standard deviation."""
    array = np.array(list(values))
    std = float(np.std(array, ddof=1)) if len(array) > 1 else None
    return Numbers(float(np.mean(array)), std, len(array))


def find_baseline(
    setting: Setting, settings: Sequence[Setting], table: Mapping[str, Any]
) -> Setting | None:
    """Find the setting that is subtracted; None without one, and for a baseline."""
    others = [other for other in settings if other is not setting]
    if "pairs" in table:
        label = table["pairs"].get(setting.axes.get("label"))
        wanted = {**setting.axes, "label": label}
        return next((other for other in others if other.axes == wanted), None)
    named = table.get("baseline") or {}
    if not named:
        return None

    def follows(axis: str) -> bool:
        """Whether the axes of the baseline determine the value of another axis."""
        pairs = {
            (*(str(each.axes.get(name)) for name in named), str(each.axes.get(axis)))
            for each in settings
        }
        return len(pairs) == len({pair[:-1] for pair in pairs})

    kept = [axis for axis in setting.axes if axis not in named and not follows(axis)]
    matching = [
        other
        for other in settings
        if all(other.axes.get(axis) == value for axis, value in named.items())
        and all(other.axes.get(axis) == setting.axes[axis] for axis in kept)
    ]
    return matching[0] if matching and matching[0] is not setting else None


def pair_seeds(a: Setting, b: Setting, metric: str) -> tuple[list[float], list[float]]:
    """Return the values of two settings over their shared seeds; none if the data differ."""
    ours, theirs = (setting.values.get(metric, {}) for setting in (a, b))
    seeds = sorted(set(ours) & set(theirs)) if a.evaluation == b.evaluation else []
    return [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]


def expected_cells(
    settings: Sequence[Setting], table: Mapping[str, Any]
) -> dict[tuple[tuple[str, ...], str], Numbers]:
    """Compute the numbers of all cells with a mean, a difference or a number of parameters.

    Returns:
        (run ids of the setting, metric or "delta") -> numbers.
    """
    metrics = table.get("metrics", ["miou"])
    cells = {}
    for setting in settings:
        for metric in metrics:
            values = setting.values.get(metric, {})
            if values:
                numbers = summarise(values.values())
                is_count = metric in ("parameters", "learnable")
                cells[setting.run_ids, metric] = (
                    Numbers(numbers.value, None, numbers.n) if is_count else numbers
                )
        baseline = find_baseline(setting, settings, table)
        if baseline is not None:
            ours, theirs = pair_seeds(setting, baseline, metrics[0])
            if ours:
                differences = np.subtract(ours, theirs)
                cells[setting.run_ids, "delta"] = summarise(differences)
    return cells


def expected_comparisons(
    settings: Sequence[Setting], table: Mapping[str, Any]
) -> list[ExpectedComparison]:
    """Compare every setting with its baseline in the main metric, by paired t tests.

    The family of the adjusted p values are all these comparisons of the table for which a test
    exists.

    Returns:
        One comparison per setting that shares a seed with its baseline, in the order of the plan.
    """
    metric = table.get("metrics", ["miou"])[0]
    results: list[ExpectedComparison] = []
    for setting in settings:
        baseline = find_baseline(setting, settings, table)
        ours, theirs = pair_seeds(setting, baseline, metric) if baseline else ([], [])
        if baseline is None or not ours:
            continue
        interval, p = (math.nan, math.nan), math.nan
        if len(ours) > 1 and np.ptp(np.subtract(ours, theirs)) > 1e-9:
            test = scipy.stats.ttest_rel(ours, theirs)
            low, high = test.confidence_interval(0.95)
            interval, p = (float(low), float(high)), float(test.pvalue)
        results.append(
            ExpectedComparison(
                *(setting.label, baseline.label, len(ours)),
                *(float(np.mean(ours) - np.mean(theirs)), interval, p, math.nan),
                *(setting.run_ids, baseline.run_ids),
            )
        )
    return adjust(results)


def adjust(comparisons: Sequence[ExpectedComparison]) -> list[ExpectedComparison]:
    """Fill in the p values adjusted by Holm's method over the comparisons that have a p."""
    tested = [index for index, each in enumerate(comparisons) if not math.isnan(each.p)]
    adjusted = dict.fromkeys(range(len(comparisons)), math.nan)
    if tested:
        p_values = [comparisons[index].p for index in tested]
        adjusted.update(
            zip(tested, map(float, multipletests(p_values, method="holm")[1]), strict=True)
        )
    return [
        ExpectedComparison(
            *(each.label_a, each.label_b, each.n, each.difference, each.interval, each.p),
            *(adjusted[index], each.run_ids_a, each.run_ids_b),
        )
        for index, each in enumerate(comparisons)
    ]
