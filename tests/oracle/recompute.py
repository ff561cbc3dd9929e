"""Recomputes the numbers of tables with numpy, scipy.stats and statsmodels alone.

It reads the records and the confusion counts itself, and shares no code with protoseg: an error
there is not repeated here. The caller only lists the planned runs of a matrix.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize
import scipy.stats
import yaml
from numpy.typing import NDArray
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "results" / "records"
MATRICES = ROOT / "experiments" / "matrices"
MIN_SEEDS = 3
"""Fewest shared seeds of a test."""


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
    averaged: set[frozenset[int]] = field(default_factory=set)
    """The classes that the mIoU of each run averages."""

    @property
    def run_ids(self) -> tuple[str, ...]:
        """Its run ids, sorted by seed; they identify the setting in a table."""
        return tuple(run_id for _, run_id in sorted(self.runs.items()))


@dataclass(frozen=True)
class ExpectedComparison:
    """One comparison of a table, in the metric that compares both sides on the same classes."""

    run_ids_a: tuple[str, ...]
    run_ids_b: tuple[str, ...]
    metric: str
    n: int
    """Number of shared seeds."""
    difference: float
    """Mean of a - b; nan without a shared seed."""
    interval: tuple[float, float] = (math.nan, math.nan)
    """95% interval of the t test; nan without a test."""
    p: float = math.nan
    """nan for n < `MIN_SEEDS`, or without variance."""
    standard_error: float = math.nan
    df: float = math.nan
    adjusted_p: float = math.nan
    """Adjusted by Holm's method over all tests of the table."""
    detectable: float = math.nan
    """The true difference that a test at the first level of Holm finds with 80% probability."""

    @property
    def verdict(self) -> str:
        """The start of the printed result."""
        if self.n == 0:
            return "no shared seed with a result"
        if math.isnan(self.p):
            return "not tested: "
        if self.adjusted_p >= 0.05:
            decimals = 3 if self.metric == "mistake_distance" else 2
            return f"no difference found (detectable: {self.detectable:.{decimals}f})"
        return "higher" if self.difference > 0 else "lower"


@functools.cache
def recount(path: Path) -> tuple[dict[str, float], list[float]]:
    """Compute the metrics, and the IoU of each class, from a file of confusion counts.

    The metrics are mIoU over the classes with ground truth or predictions, mIoU over those with
    ground truth, mAcc and aAcc.

    Returns:
        Metric -> percent, and the IoU of each class in percent; nan where the union is empty.
    """
    return summarise_matrix(read_matrix(path))


def read_matrix(path: Path) -> NDArray[np.float64]:
    """Read the confusion matrix of all images; rows are ground truth."""
    with np.load(path) as archive:
        classes = int(archive["num_classes"])
        pixels = np.bincount(archive["cell"], weights=archive["count"], minlength=classes**2)
    return pixels.reshape(classes, classes)


def summarise_matrix(matrix: NDArray[np.float64]) -> tuple[dict[str, float], list[float]]:
    """Compute the metrics of a confusion matrix, and the IoU of each class."""
    hit, truth, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    with np.errstate(invalid="ignore"):
        iou, accuracy = 100 * hit / (truth + predicted - hit), 100 * hit / truth
    metrics = {
        "miou": float(np.nanmean(iou)),
        "miou_present": float(np.mean(iou[truth > 0])),
        "macc": float(np.nanmean(accuracy)),
        "aacc": float(100 * hit.sum() / truth.sum()),
    }
    return metrics, iou.tolist()


@functools.cache
def recount_levels(path: Path, dataset: str, classes: tuple[str, ...]) -> dict[str, float]:
    """Compute the metrics of the levels of the tree of a data set; none without a tree."""
    file = ROOT / "experiments" / "dataset" / f"{dataset}.yaml"
    tree = yaml.safe_load(file.read_text()).get("hierarchy") if file.exists() else None
    if tree is None:
        return {}
    content = yaml.safe_load((ROOT / "experiments" / "hierarchy" / f"{tree}.yaml").read_text())
    paths = dict(list_paths(content, ()))
    levels = max(map(len, paths.values()))
    # From the class up; a class on a short branch is its own group on the levels above it.
    up = [[c] * (levels - len(paths[c])) + [*reversed(paths[c])] for c in classes]
    matrix, metrics = read_matrix(path), {}
    different = np.zeros_like(matrix)
    for level in range(levels):
        names = [groups[level] for groups in up]
        member = np.array([[name == other for other in dict.fromkeys(names)] for name in names])
        different += 1.0 - member @ member.T.astype(float)
        if level:
            values, _ = summarise_matrix(member.T.astype(float) @ matrix @ member)
            metrics |= {f"{metric}@{level + 1}": value for metric, value in values.items()}
    wrong = matrix.sum() - np.trace(matrix)
    return metrics | {"mistake_distance": float(2 * (different * matrix).sum() / wrong)}


def list_paths(tree: Any, above: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each class of nested names with its path from the highest group to itself."""
    for name in tree:
        below = tree[name] if isinstance(tree, dict) else None
        if below is None:
            yield name, (*above, name)
        else:
            yield from list_paths(below, (*above, name))


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
        data = record["spec"]["dataset"]
        counts = RECORDS / f"{run.run_id}.npz"
        metrics = metrics | recount_levels(counts, data["name"], tuple(data["classes"]))
        parameters = record["parameters"]
        millions = parameters["learnable"] / 1e6
        for metric, value in {**metrics, "parameters": millions, "learnable": millions}.items():
            setting.values.setdefault(metric, {})[run.seed] = value
        setting.averaged.add(frozenset(np.flatnonzero(~np.isnan(ious)).tolist()))
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


def choose_metric(settings: Iterable[Setting], metric: str) -> str:
    """Return mIoU over the classes with ground truth if the runs average different classes."""
    sets = set().union(*(setting.averaged for setting in settings))
    return "miou_present" if metric == "miou" and len(sets) > 1 else metric


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
            metric = choose_metric([setting, baseline], metrics[0])
            ours, theirs = pair_seeds(setting, baseline, metric)
            if ours:
                differences = np.subtract(ours, theirs)
                cells[setting.run_ids, "delta"] = summarise(differences)
    return cells


def expected_comparisons(
    settings: Sequence[Setting], table: Mapping[str, Any]
) -> list[ExpectedComparison]:
    """Test the comparisons of a table as one family.

    By default they are those of every setting with its baseline, by paired t tests. With
    ``comparisons: {axis: NAME}`` they are all pairs of values of an axis, by least squares of
    values and seeds.

    Returns:
        The comparisons with a measured side, in the order of the plan.
    """
    metric = table.get("metrics", ["miou"])[0]
    axis = table.get("comparisons", {}).get("axis")
    results: list[ExpectedComparison] = []
    if axis is not None:
        results = list(compare_levels(settings, axis, metric))
    else:
        for setting in settings:
            baseline = find_baseline(setting, settings, table)
            if baseline is None:
                continue
            # Only a setting with a record has an evaluation.
            evaluations = {side.evaluation for side in (setting, baseline)} - {""}
            is_measured = any(side.values.get(metric) for side in (setting, baseline))
            if is_measured and len(evaluations) == 1:
                results.append(compare_pair(setting, baseline, metric))
    has_any = any(each.n for each in results)
    return adjust(results) if has_any else []


def compare_pair(a: Setting, b: Setting, metric: str) -> ExpectedComparison:
    """Compare two settings by a paired t test."""
    used = choose_metric([a, b], metric)
    ours, theirs = pair_seeds(a, b, used)
    if not ours:
        return ExpectedComparison(a.run_ids, b.run_ids, used, 0, math.nan)
    differences = np.subtract(ours, theirs)
    mean = float(np.mean(differences))
    if len(ours) < MIN_SEEDS or np.ptp(differences) <= 1e-9:
        return ExpectedComparison(a.run_ids, b.run_ids, used, len(ours), mean)
    test = scipy.stats.ttest_rel(ours, theirs)
    low, high = map(float, test.confidence_interval(0.95))
    error = float(scipy.stats.sem(differences))
    return ExpectedComparison(
        *(a.run_ids, b.run_ids, used, len(ours), mean, (low, high), float(test.pvalue)),
        *(error, float(test.df)),
    )


def compare_levels(
    settings: Sequence[Setting], axis: str, metric: str
) -> Iterator[ExpectedComparison]:
    """Compare all pairs of values of an axis by ordinary least squares with seeds as blocks."""
    blocks: dict[str, list[Setting]] = {}
    for setting in settings:
        others = {name: str(value) for name, value in setting.axes.items() if name != axis}
        if setting.values.get(metric):
            blocks.setdefault(json.dumps(others, sort_keys=True), []).append(setting)
    for block in blocks.values():
        used = choose_metric(block, metric)
        seeds = sorted(set.intersection(*(set(each.values[used]) for each in block)))
        pairs = list(itertools.combinations(range(len(block)), 2))
        if len(seeds) < MIN_SEEDS:
            yield from (compare_pair(block[j], block[i], metric) for i, j in pairs)
            continue
        values = np.array([[each.values[used][seed] for seed in seeds] for each in block])
        level, seed = (index.ravel() for index in np.indices(values.shape))
        design = np.column_stack([np.eye(len(block))[level], np.eye(len(seeds))[seed][:, 1:]])
        fit = OLS(values.ravel(), design).fit()
        for i, j in pairs:
            contrast = np.zeros(design.shape[1])
            contrast[[j, i]] = 1, -1
            test = fit.t_test(contrast)
            low, high = map(float, test.conf_int(0.05)[0])
            yield ExpectedComparison(
                *(block[j].run_ids, block[i].run_ids, used, len(seeds)),
                *(test.effect.item(), (low, high), float(test.pvalue)),
                *(test.sd.item(), float(fit.df_resid)),
            )


def adjust(comparisons: Sequence[ExpectedComparison]) -> list[ExpectedComparison]:
    """Fill in the p values adjusted by Holm's method, and what each test detects."""
    tested = [each for each in comparisons if not math.isnan(each.p)]
    if not tested:
        return list(comparisons)
    adjusted = iter(multipletests([each.p for each in tested], method="holm")[1])
    return [
        each
        if math.isnan(each.p)
        else dataclasses.replace(
            each, adjusted_p=float(next(adjusted)), detectable=find_detectable(each, len(tested))
        )
        for each in comparisons
    ]


def find_detectable(comparison: ExpectedComparison, tests: int) -> float:
    """Solve power = 80% at the level 0.05 / tests for the true difference."""
    df = comparison.df
    critical = scipy.stats.t.ppf(1 - 0.05 / tests / 2, df)

    def miss(noncentrality: float) -> float:
        lower = np.nan_to_num(scipy.stats.nct.cdf(-critical, df, noncentrality))
        return float(scipy.stats.nct.cdf(critical, df, noncentrality) - lower - 0.2)

    root = scipy.optimize.brentq(miss, 1e-3, 1000, xtol=1e-12, rtol=1e-12)
    return float(root) * comparison.standard_error


def expected_bold(
    settings: Sequence[Setting], table: Mapping[str, Any]
) -> set[tuple[tuple[str, ...], str]]:
    """Find the bold values: (run ids of the setting, metric).

    A value is bold if a t test at 5%, not corrected, tells it from each other one of its column,
    and if no other one is printed with a number that is as good.
    """
    columns: dict[str, list[Setting]] = {}
    for setting in settings:
        group = [str(setting.axes.get(axis)) for axis in table.get("columns", [])]
        columns.setdefault(json.dumps([group, setting.evaluation]), []).append(setting)
    bold = set()
    for metric in set(table.get("metrics", ["miou"])) & {"miou", "miou_present", "macc", "aacc"}:
        for column in columns.values():
            measured = [each for each in column if each.values.get(metric)]
            used = choose_metric(measured, metric)
            for setting in measured:
                others = [each for each in measured if each is not setting]
                if others and all(is_ahead(setting, each, used, metric) for each in others):
                    bold.add((setting.run_ids, metric))
    return bold


def is_ahead(a: Setting, b: Setting, used: str, printed: str) -> bool:
    """Whether a setting is distinguishably better than another one, and printed as better."""
    ours, theirs = pair_seeds(a, b, used)
    means = [[np.mean(list(side.values[m].values())) for side in (a, b)] for m in (used, printed)]
    if len(ours) < MIN_SEEDS or np.ptp(np.subtract(ours, theirs)) <= 1e-9:
        return False
    if any(f"{x:.2f}" == f"{y:.2f}" or x < y for x, y in means):
        return False
    test = scipy.stats.ttest_rel(ours, theirs)
    return bool(test.statistic > 0 and test.pvalue < 0.05)
