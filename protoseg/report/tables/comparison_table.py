"""Makes the table of the comparisons of a table, and its CSV file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from protoseg.report import wording
from protoseg.report.statistics.power import POWER, SIGNIFICANCE
from protoseg.report.statistics.significance import smallest_p
from protoseg.report.tables.cells import FootnoteMarks
from protoseg.report.tables.model import (
    Cell,
    Column,
    Family,
    Footnote,
    Provenance,
    Row,
    Table,
    TableComparison,
)

SUFFIX = "_comparisons"
"""Ending of the name of this table and of its files, after the name of the table."""
CSV_HEADER = (
    *("row", "baseline", "column", "metric", "n", "seeds", "delta", "low", "high", "p"),
    *("adjusted_p", "detectable", "result", "run_ids", "baseline_run_ids", "note"),
)


def make_comparison_table(table: Table, family: Family) -> Table:
    """Make the table of a family: one row per comparison."""
    marks = FootnoteMarks()
    has_groups = any(comparison.group for comparison in family.comparisons)
    baselines = {comparison.theirs for comparison in family.comparisons}
    title = f"Comparison of {family.rows}" if family.rows else "Comparison"
    if len(baselines) == 1:
        (baseline,) = baselines
        title = f"Difference to {f'{family.rows} = ' if family.rows else ''}{baseline}"
    header = [Column("row", title, "label")]
    header += [Column("group", "Column", "label")] * has_groups
    header += [
        Column("n", "n", "comparison"),
        Column("delta", "Δ", "comparison"),
        Column("interval", "95% interval", "comparison"),
        Column("p", "p", "comparison"),
        Column("adjusted_p", "adjusted p", "comparison"),
        Column("result", "Result", "verdict"),
    ]
    rows = []
    for comparison in family.comparisons:
        mark = marks.mark(" ".join(comparison.notes)) if comparison.notes else ""
        label = f"{comparison.ours} {wording.MINUS} {comparison.theirs}"
        shown = comparison.ours if len(baselines) == 1 else label
        cells = [Cell("label", shown), *[Cell("label", comparison.group)] * has_groups]
        cells += _make_cells(comparison, family.metric.decimals, mark)
        rows.append(Row(label, tuple(cells)))
    return Table(
        f"{table.name}{SUFFIX}",
        f"{table.title}: comparisons",
        "",
        tuple(header),
        tuple(rows),
        (*map(Footnote, _make_notes(family)), *marks.footnotes()),
        Provenance(),
        overrides=table.overrides,
        matrix=table.name,
    )


def _make_cells(comparison: TableComparison, decimals: int, mark: str) -> Iterator[Cell]:
    def number(text: str, letter: str = "") -> Cell:
        return Cell("comparison", text, mark=letter)

    difference, interval = comparison.difference, comparison.interval
    shown = "" if difference is None else wording.format_difference(difference, decimals)
    yield number(str(len(comparison.seeds)))
    yield number(shown or wording.NONE, mark)
    ends = [wording.format_difference(end, decimals) for end in interval or ()]
    yield number(" to ".join(ends) or wording.NONE)
    yield number(wording.format_p(comparison.p))
    yield number(wording.format_p(comparison.adjusted_p))
    yield Cell("verdict", comparison.result)


def _make_notes(family: Family) -> Iterator[str]:
    unit = "percentage points of " if family.metric.unit == "%" else ""
    yield (
        f"Δ in {unit}{family.metric.title}, over shared seeds (n). Interval and p: {family.method},"
        " two-sided, not corrected. The unit is the seed: the evaluated images are fixed."
    )
    yield (
        f"Family: {family.description}, {family.tested} tested. Adjusted p: corrected for their "
        f"number by Holm's method; higher and lower: adjusted p < {SIGNIFICANCE:.2g}."
    )
    if not family.tested:
        return
    threshold = f"{SIGNIFICANCE:.2g} / {family.tested}"
    yield (
        "Detectable: the smallest true difference that a test of this spread and n finds with "
        f"{100 * POWER:.0f}% probability at Holm's first threshold, {threshold}."
    )
    sizes = sorted({len(c.seeds) for c in family.comparisons if c.p is not None})
    if sizes and sizes[0] <= 5:
        yield (
            f"The t test assumes normally distributed differences. Without this assumption "
            f"{wording.format_seeds(sizes[0])} cannot give a p below {smallest_p(sizes[0]):.3g} "
            "(sign-flip test)."
        )


def list_csv_rows(family: Family) -> Iterator[list[Any]]:
    """Yield the header and one row per comparison; numbers unrounded, missing ones empty."""
    yield list(CSV_HEADER)
    for c in family.comparisons:
        low, high = c.interval or (None, None)
        yield [
            *(c.ours, c.theirs, c.group, c.metric, len(c.seeds), " ".join(map(str, c.seeds))),
            *(c.difference, low, high, c.p, c.adjusted_p, c.detectable, c.result),
            *(" ".join(c.our_runs), " ".join(c.their_runs), " ".join(c.notes)),
        ]
