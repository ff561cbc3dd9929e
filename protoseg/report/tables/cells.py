"""Makes the cells of a table: measured value, Δ, published value, verdict, or status."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from typing import Any

from protoseg.config.schema import RunSpec
from protoseg.report import wording
from protoseg.report.metrics import Metric
from protoseg.report.statistics.significance import (
    MIN_SEEDS,
    compare_with_published,
    mean,
    sample_std,
)
from protoseg.report.tables.model import Cell, Footnote
from protoseg.report.tables.pairing import pair_settings
from protoseg.report.tables.published import PublishedNumbers, count_decimals, parse_printed
from protoseg.report.tables.samples import Samples

OTHER_DATA = "other data"
"""Status of a cell whose comparison has other images or another evaluation."""


class FootnoteMarks:
    """Assigns letters to footnotes; equal sentences get the same letter."""

    def __init__(self) -> None:
        self._by_text: dict[str, str] = {}

    def mark(self, sentence: str) -> str:
        """Return the mark of a footnote: a, b, ..., z, aa, ab, ..."""
        return self._by_text.setdefault(sentence, _letters(len(self._by_text)))

    def footnotes(self) -> Iterator[Footnote]:
        """Yield the footnotes in the order of their marks."""
        for sentence, mark in self._by_text.items():
            yield Footnote(sentence, mark)


def _letters(number: int) -> str:
    """Spell a number from 0 as a, b, ..., z, aa, ab, ..."""
    letters = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = string.ascii_lowercase[rest] + letters
    return letters


def make_measured_cell(
    samples: Samples, metric: Metric, common_n: int, marks: FootnoteMarks, is_main: bool, bold: bool
) -> Cell:
    """Make the cell mean ± sample standard deviation over the seeds with a value.

    Args:
        samples: the setting and its values.
        metric: the metric of the column.
        common_n: number of seeds of most cells; a cell with another number names it.
        marks: takes footnotes about missing seeds.
        is_main: whether the column is that of the main metric, where a status is given in full.
        bold: whether the value is bold.
    """
    values = samples.values.get(metric.key, {})
    expected, missing = len(samples.runs), samples.describe_missing(metric.key)
    if not values:
        return make_status_cell(samples, missing, is_main)
    n = len(values)
    note = mark = ""
    if n < expected:
        note = f"{n} of {wording.format_seeds(expected)}" if is_main else ""
        mark = marks.mark(_without(n, expected, missing))
    elif n != common_n:
        note = wording.format_seeds(n)
    centre, spread = mean(values.values()), sample_std(values.values())
    return Cell(
        "measured",
        wording.format_number(centre, metric.decimals),
        wording.format_number(spread, metric.decimals) if n > 1 else "",
        note,
        mark,
        bold,
        centre,
        spread if n > 1 else None,
        n,
        expected,
        samples.run_ids,
    )


def make_delta_cell(
    samples: Samples,
    baseline: Samples | None,
    metric: Metric,
    common_n: int,
    marks: FootnoteMarks,
    arrows: bool = False,
) -> Cell:
    """Make the cell mean ± sample standard deviation of the differences over shared seeds.

    Args:
        samples: the setting.
        baseline: the setting that is subtracted; None if it is not planned.
        metric: the main metric.
        common_n: number of seeds of most cells; a cell with another number names it.
        marks: takes footnotes about missing seeds.
        arrows: whether the sign is printed as an arrow.
    """
    if baseline is samples:
        return Cell("delta", wording.NONE, run_ids=samples.run_ids, expected_n=len(samples.runs))
    if baseline is None:
        return _status(samples, "no baseline")
    ours = samples.values.get(metric.key, {})
    theirs = baseline.values.get(metric.key, {})
    missing, theirs_missing = (s.describe_missing(metric.key) for s in (samples, baseline))
    if not ours:
        return make_status_cell(samples, missing, False)
    if baseline.protocol != samples.protocol:
        return _status(samples, OTHER_DATA, baseline.run_ids)
    if not theirs:
        return _status(samples, f"baseline {_shorten(theirs_missing)}", baseline.run_ids)
    pair = pair_settings(samples, baseline, metric)
    pairs = pair.pairs
    if not pairs.n:
        return _status(samples, "no shared seed", baseline.run_ids)
    shared = samples.runs.keys() & baseline.runs.keys()
    expected = len(shared)
    note, sentences = "", list(pair.notes[:1]) if pair.metric is not metric else []
    if pairs.n < expected:
        of_baseline = {s: f"baseline {state}" for s, state in theirs_missing.items()}
        reasons = {s: w for s, w in sorted({**of_baseline, **missing}.items()) if s in shared}
        sentences.append(_without(pairs.n, expected, reasons))
    elif pairs.n != common_n:
        note = wording.format_seeds(pairs.n)
    format_mean = wording.format_arrow if arrows else wording.format_difference
    return Cell(
        "delta",
        format_mean(pairs.mean, metric.decimals),
        wording.format_number(pairs.std, metric.decimals) if pairs.n > 1 else "",
        note,
        marks.mark(" ".join(sentences)) if sentences else "",
        value=pairs.mean,
        std=pairs.std if pairs.n > 1 else None,
        n=pairs.n,
        expected_n=expected,
        run_ids=samples.run_ids,
        baseline_run_ids=baseline.run_ids,
    )


def make_published_cell(
    numbers: PublishedNumbers,
    row: Mapping[str, Any] | None,
    baseline: Mapping[str, Any] | None,
    marks: FootnoteMarks,
) -> Cell:
    """Make the cell of a published value, printed as in the literature.

    Args:
        numbers: the published numbers.
        row: the published row of the setting; None without one.
        baseline: the published row that is subtracted, with an arrow; None without one.
        marks: takes the note of the row as a footnote.
    """
    if row is None:
        return Cell("published", wording.NONE)
    note = f"Published: {wording.clean_text(row['note'])}." if row.get("note") else ""
    mark = marks.mark(note) if note else ""
    field = numbers.spec.value
    parsed = parse_printed(row.get(field))
    if parsed is None:
        return Cell("status", "unknown", mark=mark)
    text, value = parsed
    other = parse_printed(baseline.get(field)) if baseline is not None else None
    difference = None
    if other is not None and baseline is not None:
        digits = max(count_decimals(row[field]), count_decimals(baseline[field]))
        difference = round(value - other[1], digits)
        text = f"{text} {wording.format_arrow(difference, digits)}"
    return Cell("published", text, mark=mark, value=value, difference=difference)


def make_verdict_cell(
    samples: Samples,
    numbers: PublishedNumbers,
    published: Cell,
    metric: Metric,
    changed: bool = False,
) -> Cell:
    """Make the cell that compares the measured values with the published one.

    The cell is empty if nothing is measured.

    Args:
        samples: the setting and its values.
        numbers: the published numbers.
        published: the cell of the published value.
        metric: the main metric.
        changed: whether overrides change the setting, so that it is not the published one.
    """
    values = samples.values.get(metric.key, {})
    if not values or published.value is None:
        return Cell("status", "", expected_n=len(samples.runs), run_ids=samples.run_ids)
    if numbers.spec.value != metric.key:
        return _status(samples, "other metric")
    if not any(numbers.measured_as):
        return _status(samples, "data not named")
    if describe_data(samples.spec) not in numbers.measured_as:
        return _status(samples, OTHER_DATA)
    if changed:
        return _status(samples, "other setting")
    unit = 10.0 ** -count_decimals(published.text.split()[0])
    verdict = compare_with_published(values.values(), published.value, numbers.spec.margin, unit)
    too_few = len(values) < MIN_SEEDS
    return Cell(
        "verdict",
        verdict,
        note=wording.format_seeds(len(values)) if too_few else "",
        n=len(values),
        expected_n=len(samples.runs),
        run_ids=samples.run_ids,
    )


def describe_data(spec: RunSpec) -> str:
    """Name the data set and the split that a run is evaluated on."""
    return f"{spec.dataset.name} {spec.evaluation.split}"


def make_missing_cell(samples: Samples, key: str, in_full: bool) -> Cell:
    """Make the cell of a metric that no run of a setting has a value of."""
    return make_status_cell(samples, samples.describe_missing(key), in_full)


def make_status_cell(samples: Samples, missing: Mapping[int, str], in_full: bool) -> Cell:
    """Make a cell without a number that gives the reason.

    If no run of the setting was started, only the cell with ``in_full`` gives the reason.

    Args:
        samples: the setting.
        missing: seed -> reason.
        in_full: give the reason of every seed, not a short one.
    """
    if not in_full and set(missing.values()) == {wording.NOT_RUN}:
        return _status(samples, "")
    text = wording.summarise_states(missing.values()) if in_full else _shorten(missing)
    return _status(samples, text)


def _status(samples: Samples, text: str, baseline_run_ids: tuple[str, ...] = ()) -> Cell:
    return Cell(
        "status",
        text,
        expected_n=len(samples.runs),
        run_ids=samples.run_ids,
        baseline_run_ids=baseline_run_ids,
    )


def _shorten(missing: Mapping[int, str]) -> str:
    states = {reason.partition(":")[0] for reason in missing.values()}
    return states.pop() if len(states) == 1 else "no result"


def _without(n: int, expected: int, missing: Mapping[int, str]) -> str:
    seeds = ", ".join(f"seed {seed} ({reason})" for seed, reason in missing.items())
    return f"{n} of {wording.format_seeds(expected)}, without {seeds}."
