"""Estimates, before a sweep, which differences the planned number of seeds can detect."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from protoseg.config.fields import to_plain
from protoseg.config.matrix import Matrix
from protoseg.report.metrics import METRICS, QUALITIES, Metric, read_metric
from protoseg.report.statistics.block_model import fit_block_model
from protoseg.report.statistics.power import SIGNIFICANCE, smallest_detectable
from protoseg.report.statistics.significance import MIN_SEEDS
from protoseg.report.tables.baseline import make_baselines
from protoseg.report.tables.samples import Samples, make_key

MORE_SEEDS = (5, 10)
"""Numbers of seeds for which a plan gives the detectable difference too."""
SETTING = ("dataset", "evaluation", "backbone")
"""Parts of a spec that are equal in like runs; the number of iterations is the other one."""


@dataclass(frozen=True)
class SeedPower:
    """The smallest differences that the comparisons of a table can detect."""

    metric: Metric
    seeds: int
    """Planned seeds of each setting; the smallest number, if they differ."""
    comparisons: int
    """Number of planned comparisons, which are corrected together."""
    spread: float
    """Standard deviation of paired differences, in the unit of the metric."""
    source: str
    """Where the spread is from."""
    detectable: dict[int, float]
    """Number of seeds -> smallest true difference that is found with 80% probability at the first
    threshold of Holm."""

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as plain data for JSON."""
        return asdict(self) | {"metric": self.metric.key}


def estimate_power(
    matrix: Matrix,
    records: Iterable[Mapping[str, Any]],
    add_levels: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> SeedPower | None:
    """Estimate what the planned seeds of a matrix can detect.

    Args:
        matrix: the matrix; its table may state the expected spread.
        records: finished runs, from which the spread is estimated otherwise.
        add_levels: adds the metrics of levels to the record of a like run, if the table needs them.

    Returns:
        The estimate; None if the table compares nothing, or if the spread is unknown.
    """
    metric = METRICS[matrix.table.metrics[0]]
    comparisons = count_comparisons(matrix)
    if not comparisons or metric.key not in QUALITIES:
        return None
    spread, source = matrix.table.expected_spread, "table.expected_spread"
    if not spread:
        spread, number = estimate_spread(matrix, records, metric, add_levels)
        source = f"{number} finished runs of this data set, backbone and number of iterations"
    if not spread:
        return None
    seeds = min(len(members.runs) for members in _list_settings(matrix))
    sizes = [n for n in (seeds, *MORE_SEEDS) if n >= max(seeds, MIN_SEEDS)]
    level, compared = SIGNIFICANCE / comparisons, _count_compared_together(matrix)
    # With one level, as with two, the block model is the paired t test.
    detectable = {
        n: smallest_detectable(spread, n, level=level, df=max(compared - 1, 1) * (n - 1))
        for n in sizes
    }
    return SeedPower(metric, seeds, comparisons, spread, source, detectable)


def count_comparisons(matrix: Matrix) -> int:
    """Count the comparisons that the table of a matrix plans."""
    settings, spec = _list_settings(matrix), matrix.table.comparisons
    if spec is None:
        baselines = make_baselines(matrix, settings)
        if baselines is None:
            return 0
        pairs = ((s, baselines.find(s)) for s in settings)
        return sum(b is not None and b is not s and b.protocol == s.protocol for s, b in pairs)
    if spec.pairs:
        columns = {make_key(s.axes, tuple(matrix.table.columns)) for s in settings}
        return len(spec.pairs) * len(columns)
    return sum(math.comb(size, 2) for size in _count_levels(matrix, spec.axis))


def _count_levels(matrix: Matrix, axis: str) -> list[int]:
    """Count the values of an axis, for each setting of the other axes."""
    others = tuple(name for name in matrix.axes if name != axis)
    return list(Counter(make_key(s.axes, others) for s in _list_settings(matrix)).values())


def _count_compared_together(matrix: Matrix) -> int:
    """Count the settings of one test: the values of an axis in a block model, else two."""
    spec = matrix.table.comparisons
    return min(_count_levels(matrix, spec.axis)) if spec is not None and spec.axis else 2


def _list_settings(matrix: Matrix) -> list[Samples]:
    settings: dict[tuple[str, ...], Samples] = {}
    for planned in matrix.runs:
        key = make_key(planned.axes, matrix.axes)
        samples = settings.setdefault(key, Samples(planned.axes, planned.spec))
        samples.runs[planned.spec.seed] = planned.run_id
    return list(settings.values())


def estimate_spread(
    matrix: Matrix,
    records: Iterable[Mapping[str, Any]],
    metric: Metric,
    add_levels: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> tuple[float, int]:
    """Estimate the standard deviation of paired differences from runs like those of a matrix.

    It is √2 times the residual standard deviation of settings and seeds, over all settings with the
    same data, evaluation, backbone and number of iterations, and at least three seeds.

    Returns:
        The estimate, 0 without such runs; and the number of runs that it is from.
    """
    wanted = {_make_setting_key(to_plain(run.spec, identity=True)) for run in matrix.runs}
    groups: dict[str, dict[str, dict[int, float]]] = {}
    for record in records:
        spec = record["spec"]
        key = _make_setting_key(spec)
        value = read_metric(dict(add_levels(record)), metric) if key in wanted else None
        if value is not None:
            name = repr(sorted((k, v) for k, v in spec.items() if k != "seed"))
            groups.setdefault(key, {}).setdefault(name, {})[int(spec["seed"])] = value
    total, df, runs = 0.0, 0, 0
    for settings in groups.values():
        complete = {name: seeds for name, seeds in settings.items() if len(seeds) >= MIN_SEEDS}
        for seeds, members in itertools.groupby(
            sorted(complete, key=lambda name: sorted(complete[name])),
            key=lambda name: tuple(sorted(complete[name])),
        ):
            values = {name: complete[name] for name in members}
            if len(values) > 1:
                model = fit_block_model(values)
                total += model.df * model.residual_std**2
                df += model.df
                runs += len(values) * len(seeds)
    return (math.sqrt(2 * total / df), runs) if df else (0.0, 0)


def _make_setting_key(spec: Mapping[str, Any]) -> str:
    return repr(
        [
            *(spec.get(part) for part in SETTING),
            *map(spec["schedule"].get, ("iterations", "stop_after")),
        ]
    )
