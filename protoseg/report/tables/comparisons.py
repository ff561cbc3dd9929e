"""Tests the comparisons of a table as one family: intervals, p values, power and verdicts.

The p values are corrected for their number by the method of Holm (1979). A comparison of two rows
is a paired t test over seeds. All pairs of values of one axis are compared by an additive model
with seeds as blocks, whose residual standard deviation is that of all values together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from protoseg.config.fields import to_plain
from protoseg.config.matrix import Matrix
from protoseg.errors import ProtosegError, UsageError, describe_unknown_name
from protoseg.report import wording
from protoseg.report.metrics import METRICS, Metric
from protoseg.report.statistics.block_model import fit_block_model
from protoseg.report.statistics.multiplicity import adjust_holm
from protoseg.report.statistics.power import SIGNIFICANCE, smallest_detectable
from protoseg.report.statistics.significance import MIN_SEEDS, paired_t_p
from protoseg.report.tables.baseline import LABEL, Baselines
from protoseg.report.tables.model import Family, TableComparison
from protoseg.report.tables.pairing import choose_metric, describe_class_sets, pair_settings
from protoseg.report.tables.samples import Key, Samples, find_differing_fields, make_key

NO_DIFFERENCE = "no difference found"
NO_MODEL = (
    f"A paired t test of these two alone: all values of the axis together share fewer than "
    f"{MIN_SEEDS} seeds."
)


@dataclass(frozen=True)
class NamedSamples:
    """A setting with the names of its row and of its group of columns."""

    row: str
    group: str
    samples: Samples


def compare_settings(
    matrix: Matrix, settings: Sequence[NamedSamples], baselines: Baselines | None
) -> Family | None:
    """Test the comparisons that a table declares; by default each row with its baseline.

    Returns:
        The family; None if the table has neither a baseline nor a declared family, or if nothing
        is measured.

    Raises:
        UsageError: a declared row does not exist.
        ProtosegError: two compared rows have no common seed, or differ in data or evaluation.
    """
    spec, metric = matrix.table.comparisons, METRICS[matrix.table.metrics[0]]
    if spec is not None and spec.axis:
        name = wording.name_axis(spec.axis, matrix.table.names)
        drafts = list(_compare_levels(matrix, settings, spec.axis, metric))
        method = "t test of an additive model of value and seed (block design)"
        description = f"all pairs of values of {name}"
    else:
        drafts = [
            _compare_pair(a, b, metric)
            for a, b in _list_pairs(matrix, settings, baselines)
            if any(each.samples.values.get(metric.key) for each in (a, b))
        ]
        method = "paired t test over seeds"
        description = "the pairs of rows declared in the matrix"
        if spec is None:
            if baselines is None:
                return None
            description = f"each row against {baselines.description}"
    if not any(draft.difference is not None for draft in drafts):
        return None
    axes = tuple(matrix.table.rows) or matrix.axes
    rows = [axis for axis in axes if axis not in matrix.table.columns]
    name = wording.name_axis(rows[0], matrix.table.names) if rows not in ([], [LABEL]) else ""
    return Family(
        description,
        name if len(rows) == 1 else "",
        metric,
        method,
        tuple(_correct(drafts, metric)),
    )


@dataclass(frozen=True)
class _Draft:
    """A comparison before its correction."""

    ours: NamedSamples
    theirs: NamedSamples
    seeds: tuple[int, ...]
    difference: float | None
    interval: tuple[float, float]
    p: float
    standard_error: float
    df: int
    metric: Metric
    notes: tuple[str, ...]


def _list_pairs(
    matrix: Matrix, settings: Sequence[NamedSamples], baselines: Baselines | None
) -> Iterator[tuple[NamedSamples, NamedSamples]]:
    spec = matrix.table.comparisons
    if spec is None:
        for setting in settings:
            baseline = baselines.find(setting.samples) if baselines is not None else None
            if baseline is None or baseline is setting.samples:
                continue
            theirs = next(other for other in settings if other.samples is baseline)
            # Values of different data are shown in the table, but not compared.
            if setting.samples.protocol == baseline.protocol:
                yield setting, theirs
        return
    rows = dict.fromkeys(setting.row for setting in settings)
    for row in itertools.chain.from_iterable(spec.pairs):
        if row not in rows:
            where = f"{matrix.name}: table.comparisons.pairs"
            raise UsageError(describe_unknown_name("row", row, where, rows))
    by_name = {(setting.row, setting.group): setting for setting in settings}
    for (ours, theirs), group in itertools.product(
        spec.pairs, dict.fromkeys(setting.group for setting in settings)
    ):
        if (ours, group) in by_name and (theirs, group) in by_name:
            a, b = by_name[ours, group], by_name[theirs, group]
            _check_comparable(matrix, a, b)
            yield a, b


def _check_comparable(matrix: Matrix, a: NamedSamples, b: NamedSamples) -> None:
    """Refuse pairs that the matrix declares although no seed or no image is common to both."""
    _check_protocol(matrix, a, b)
    if not a.samples.runs.keys() & b.samples.runs.keys():
        raise ProtosegError(f"{_name_pair(matrix, a, b)} share no seed. Name others.")


def _check_protocol(matrix: Matrix, a: NamedSamples, b: NamedSamples) -> None:
    if a.samples.protocol != b.samples.protocol:
        fields = find_differing_fields(to_plain(a.samples.spec), to_plain(b.samples.spec))
        raise ProtosegError(
            f"{_name_pair(matrix, a, b)} have different evaluations (they differ in "
            f"{', '.join(fields)}). Name rows of one data set and one evaluation."
        )


def _name_pair(matrix: Matrix, a: NamedSamples, b: NamedSamples) -> str:
    return f"{matrix.name}: table.comparisons: {' and '.join(map(repr, _name_sides(a, b)))}"


def _name_sides(a: NamedSamples, b: NamedSamples) -> list[str]:
    """The names of two rows, with their columns if these differ."""
    if a.group == b.group:
        return [a.row, b.row]
    return [f"{side.row}, {side.group}" for side in (a, b)]


def _compare_pair(
    ours: NamedSamples, theirs: NamedSamples, metric: Metric, notes: tuple[str, ...] = ()
) -> _Draft:
    pair = pair_settings(ours.samples, theirs.samples, metric)
    pairs = pair.pairs
    seeds = tuple(seed for seed, _ in pairs.differences)
    return _Draft(
        ours,
        theirs,
        seeds,
        pairs.mean if pairs.n else None,
        pairs.interval() if pairs.is_testable else (math.nan, math.nan),
        paired_t_p(pairs.values) if pairs.is_testable else math.nan,
        pairs.std / math.sqrt(pairs.n) if pairs.n > 1 else math.nan,
        pairs.n - 1,
        pair.metric,
        (*notes, *pair.notes) if pairs.is_testable else pair.notes,
    )


def _compare_levels(
    matrix: Matrix, settings: Sequence[NamedSamples], axis: str, metric: Metric
) -> Iterator[_Draft]:
    """Compare all pairs of values of an axis, separately for each setting of the other axes."""
    others: Key = tuple(name for name in matrix.axes if name != axis)
    blocks: dict[Key, list[NamedSamples]] = {}
    for setting in settings:
        blocks.setdefault(make_key(setting.samples.axes, others), []).append(setting)
    for block in blocks.values():
        measured = [s for s in block if s.samples.values.get(metric.key)]
        if not measured:
            continue
        for other in measured[1:]:
            _check_protocol(matrix, other, measured[0])
        used = choose_metric([s.samples for s in measured], metric)
        notes = (describe_class_sets([s.samples for s in measured], used),) * (used is not metric)
        values = {
            wording.format_value(s.samples.axes[axis]): s.samples.values[used.key] for s in measured
        }
        shared = set.intersection(*(set(of_level) for of_level in values.values()))
        if len(values) < 2 or len(shared) < MIN_SEEDS:
            for a, b in _order_pairs(measured):
                yield _compare_pair(a, b, metric, (NO_MODEL,))
            continue
        model = fit_block_model(values)
        for (i, a), (j, b) in itertools.combinations(enumerate(measured), 2):
            level = model.compare(j, i)
            pair_notes = pair_settings(b.samples, a.samples, metric).notes
            yield _Draft(
                b, a, model.seeds, level.difference, level.interval, level.p,
                model.standard_error, model.df, used, tuple(dict.fromkeys((*notes, *pair_notes))),
            )  # fmt: skip


def _order_pairs(block: Sequence[NamedSamples]) -> Iterator[tuple[NamedSamples, NamedSamples]]:
    """Yield all pairs, the later setting first, as it is compared with the earlier one."""
    for a, b in itertools.combinations(block, 2):
        yield b, a


def _correct(drafts: Sequence[_Draft], metric: Metric) -> Iterator[TableComparison]:
    adjusted = adjust_holm([draft.p for draft in drafts])
    tested = sum(not math.isnan(draft.p) for draft in drafts)
    for draft, p in zip(drafts, adjusted, strict=True):
        is_tested = not math.isnan(draft.p)
        detectable = None
        if is_tested:
            # A single true difference is found if its p is below the first threshold of Holm.
            detectable = smallest_detectable(
                draft.standard_error * math.sqrt(len(draft.seeds)),
                len(draft.seeds),
                level=SIGNIFICANCE / tested,
                df=draft.df,
                standard_error=draft.standard_error,
            )
        ours, theirs = _name_sides(draft.ours, draft.theirs)
        yield TableComparison(
            ours,
            theirs,
            draft.ours.group if draft.ours.group == draft.theirs.group else "",
            draft.seeds,
            draft.difference,
            draft.interval if is_tested else None,
            draft.p if is_tested else None,
            p if is_tested else None,
            detectable,
            _describe_result(draft, p, detectable, metric.decimals),
            draft.metric.key,
            draft.notes,
            draft.ours.samples.run_ids,
            draft.theirs.samples.run_ids,
        )


def _describe_result(
    draft: _Draft, adjusted_p: float, detectable: float | None, decimals: int
) -> str:
    if draft.difference is None:
        return "no shared seed with a result"
    if math.isnan(draft.p):
        if len(draft.seeds) < MIN_SEEDS:
            return f"not tested: {wording.format_seeds(len(draft.seeds))}"
        return "not tested: no spread over seeds"
    if adjusted_p < SIGNIFICANCE:
        return "higher" if draft.difference > 0 else "lower"
    shown = wording.format_number(detectable or math.nan, decimals)
    return f"{NO_DIFFERENCE} (detectable: {shown})"
