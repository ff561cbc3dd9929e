"""Finds the bold values of a column by `BOLD_RULE`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from protoseg.report.metrics import Metric
from protoseg.report.statistics.significance import (
    MIN_SEEDS,
    find_best,
    has_variance,
    mean,
    pair_by_seed,
)
from protoseg.report.tables.pairing import choose_metric
from protoseg.report.tables.samples import Key, Samples

Values = Mapping[int, Mapping[int, float]]
"""Index of a setting -> seed -> value."""


@dataclass(frozen=True)
class BoldValues:
    """The bold values of one metric."""

    cells: frozenset[tuple[Key, Key]]
    """Row key and column key of each."""
    lacks_spread: bool
    """Whether a best value is not bold because a difference to it has no spread over seeds."""


def find_bold_cells(grid: Mapping[Key, Mapping[Key, Samples]], metric: Metric) -> BoldValues:
    """Find the bold values of a metric, for each column group on its own.

    Settings of different data or evaluation are not compared. If the runs average different
    classes, their mIoU over the classes with ground truth is compared; the printed value must be
    the best one too.

    Args:
        grid: row key -> column key -> samples.
        metric: the printed metric.
    """
    bold, lacks_spread = set(), False
    for column in dict.fromkeys(column for cells in grid.values() for column in cells):
        rows = [row for row, cells in grid.items() if column in cells]
        for compared in _group_by_protocol([(row, grid[row][column]) for row in rows]):
            settings = [samples for _, samples in compared]
            used = choose_metric(settings, metric)
            values, printed = (
                {i: s.values.get(m.key, {}) for i, s in enumerate(settings)} for m in (used, metric)
            )
            leader = find_best(values, used.higher_is_better, used.decimals)
            if leader is None:
                lacks_spread = lacks_spread or _has_equal_lead(values, used)
            elif _is_best_in_print(printed, leader, metric):
                bold.add((compared[leader][0], column))
    return BoldValues(frozenset(bold), lacks_spread)


def _group_by_protocol(
    settings: Sequence[tuple[Key, Samples]],
) -> Iterator[list[tuple[Key, Samples]]]:
    left = list(settings)
    while left:  # protocols cannot be hashed
        protocol = left[0][1].protocol
        yield [(row, samples) for row, samples in left if samples.protocol == protocol]
        left = [(row, samples) for row, samples in left if samples.protocol != protocol]


def _is_best_in_print(values: Values, leader: int, metric: Metric) -> bool:
    sign = 1 if metric.higher_is_better else -1
    printed = {
        index: sign * round(mean(of_seeds.values()), metric.decimals)
        for index, of_seeds in values.items()
        if of_seeds
    }
    return all(printed[leader] > value for index, value in printed.items() if index != leader)


def _has_equal_lead(values: Values, metric: Metric) -> bool:
    """Whether the best row leads another by one number for each of enough shared seeds."""
    measured = {index: of_seeds for index, of_seeds in values.items() if of_seeds}
    if not measured:
        return False
    sign = 1 if metric.higher_is_better else -1
    best = max(measured.values(), key=lambda of_seeds: sign * mean(of_seeds.values()))
    for of_seeds in measured.values():
        differences = [difference for _, difference in pair_by_seed(best, of_seeds).differences]
        if len(differences) >= MIN_SEEDS and any(differences) and not has_variance(differences):
            return True
    return False
