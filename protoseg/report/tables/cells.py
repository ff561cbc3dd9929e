"""One cell each: measured, Δ, published, verdict; or, in words, why there is none."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from typing import Any

from protoseg.config.schema import RunSpec
from protoseg.report import wording
from protoseg.report.metrics import Metric
from protoseg.report.statistics.significance import MIN_SEEDS, mean, paired, sample_std, verdict
from protoseg.report.tables.model import Cell, Footnote
from protoseg.report.tables.published import PublishedNumbers, decimals, printed
from protoseg.report.tables.samples import Samples

OTHER_DATA = "other data"
"""Measured on other images, or in another way, than what it would be set against."""


class FootnoteMarks:
    """Letters for footnotes; the same sentence gets the same letter."""

    def __init__(self) -> None:
        self._by_text: dict[str, str] = {}

    def of(self, sentence: str) -> str:
        """The mark of a footnote: a, b, ..., z, aa, ab, ..."""
        number = len(self._by_text)
        letters = string.ascii_lowercase
        new = letters[number % 26] if number < 26 else _long(number)
        return self._by_text.setdefault(sentence, new)

    def footnotes(self) -> Iterator[Footnote]:
        """The footnotes, in the order in which they were needed."""
        for sentence, mark in self._by_text.items():
            yield Footnote(sentence, mark)


def _long(number: int) -> str:
    letters = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = string.ascii_lowercase[rest] + letters
    return letters


def measured_cell(
    samples: Samples, metric: Metric, common_n: int, marks: FootnoteMarks, is_main: bool, bold: bool
) -> Cell:
    """Mean ± sample standard deviation over the seeds that are there; the rest in words.

    The words are in full in the column of the main metric, and short in those beside it.
    """
    values = samples.values.get(metric.key, {})
    expected, missing = len(samples.runs), _missing(samples, values)
    if not values:
        return status_cell(samples, missing, is_main)
    n = len(values)
    note = mark = ""
    if n < expected:
        note = f"{n} of {wording.seeds(expected)}" if is_main else ""
        mark = marks.of(_without(n, expected, missing))
    elif n != common_n:
        note = wording.seeds(n)
    centre, spread = mean(values.values()), sample_std(values.values())
    return Cell(
        "measured",
        wording.fixed(centre, metric.decimals),
        wording.fixed(spread, metric.decimals) if n > 1 else "",
        note,
        mark,
        bold,
        centre,
        spread if n > 1 else None,
        n,
        expected,
        samples.run_ids,
    )


def delta_cell(
    samples: Samples,
    baseline: Samples | None,
    metric: Metric,
    common_n: int,
    marks: FootnoteMarks,
    arrows: bool = False,
) -> Cell:
    """Mean ± sample standard deviation of the paired differences over the shared seeds."""
    if baseline is samples:
        return Cell("delta", wording.NONE, run_ids=samples.run_ids, expected_n=len(samples.runs))
    if baseline is None:
        return _status(samples, "no baseline")
    ours = samples.values.get(metric.key, {})
    theirs = baseline.values.get(metric.key, {})
    missing, theirs_missing = _missing(samples, ours), _missing(baseline, theirs)
    if not ours:
        return status_cell(samples, missing, False)
    if baseline.protocol != samples.protocol:
        return _status(samples, OTHER_DATA, baseline.run_ids)
    if not theirs:
        return _status(samples, f"baseline {_short(theirs_missing)}", baseline.run_ids)
    pairs = paired(ours, theirs)
    if not pairs.n:
        return _status(samples, "no shared seed", baseline.run_ids)
    shared = samples.runs.keys() & baseline.runs.keys()
    expected = len(shared)
    note = mark = ""
    if pairs.n < expected:
        of_baseline = {s: f"baseline {words}" for s, words in theirs_missing.items()}
        lost = {s: w for s, w in sorted({**of_baseline, **missing}.items()) if s in shared}
        mark = marks.of(_without(pairs.n, expected, lost))
    elif pairs.n != common_n:
        note = wording.seeds(pairs.n)
    return Cell(
        "delta",
        (wording.arrow if arrows else wording.signed)(pairs.mean, metric.decimals),
        wording.fixed(pairs.std, metric.decimals) if pairs.n > 1 else "",
        note,
        mark,
        value=pairs.mean,
        std=pairs.std if pairs.n > 1 else None,
        n=pairs.n,
        expected_n=expected,
        run_ids=samples.run_ids,
        baseline_run_ids=baseline.run_ids,
    )


def published_cell(
    numbers: PublishedNumbers,
    row: Mapping[str, Any] | None,
    baseline: Mapping[str, Any] | None,
    marks: FootnoteMarks,
) -> Cell:
    """A value as the literature prints it, never a mean of ours.

    Args:
        row: of the published table; None where it has none.
        baseline: the row that its difference is printed against, with an arrow; or None.
    """
    if row is None:
        return Cell("published", wording.NONE)
    note = f"Published: {wording.clean(row['note'])}." if row.get("note") else ""
    mark = marks.of(note) if note else ""
    field = numbers.spec.value
    found = printed(row.get(field))
    if found is None:
        return Cell("status", "unknown", mark=mark)
    shown, value = found
    other = printed(baseline.get(field)) if baseline is not None else None
    difference = None
    if other is not None and baseline is not None:
        digits = max(decimals(row[field]), decimals(baseline[field]))
        difference = round(value - other[1], digits)
        shown = f"{shown} {wording.arrow(difference, digits)}"
    return Cell("published", shown, mark=mark, value=value, difference=difference)


def verdict_cell(
    samples: Samples,
    numbers: PublishedNumbers,
    published: Cell,
    metric: Metric,
    changed: bool = False,
) -> Cell:
    """What the seeds that are there say of a published value; empty where nothing is measured.

    Args:
        changed: overrides make it another setting than the one set beside the published value.
    """
    values = samples.values.get(metric.key, {})
    if not values or published.value is None:
        return Cell("status", "", expected_n=len(samples.runs), run_ids=samples.run_ids)
    if numbers.spec.value != metric.key:
        return _status(samples, "other metric")
    if not any(numbers.measured_as):
        return _status(samples, "data not named")
    if data_words(samples.spec) not in numbers.measured_as:
        return _status(samples, OTHER_DATA)
    if changed:
        return _status(samples, "other setting")
    unit = 10.0 ** -decimals(published.text.split()[0])
    words = verdict(values.values(), published.value, numbers.spec.margin, unit)
    few = len(values) < MIN_SEEDS
    return Cell(
        "verdict",
        words,
        note=wording.seeds(len(values)) if few else "",
        n=len(values),
        expected_n=len(samples.runs),
        run_ids=samples.run_ids,
    )


def data_words(spec: RunSpec) -> str:
    """Data set and split that a run is measured on."""
    return f"{spec.dataset.name} {spec.evaluation.split}"


def no_value(samples: Samples, key: str, in_full: bool) -> Cell:
    """Why a setting has no value of a metric."""
    return status_cell(samples, _missing(samples, samples.values.get(key, {})), in_full)


def status_cell(samples: Samples, missing: Mapping[int, str], in_full: bool) -> Cell:
    """No number: why, for each seed, or in short where the column before it says more.

    A setting that nobody has started is named once; its other cells are empty until it is measured.
    """
    if not in_full and set(missing.values()) == {wording.NOT_RUN}:
        return _status(samples, "")
    return _status(samples, wording.summary_words(missing.values()) if in_full else _short(missing))


def _status(samples: Samples, words: str, baseline_run_ids: tuple[str, ...] = ()) -> Cell:
    return Cell(
        "status",
        words,
        expected_n=len(samples.runs),
        run_ids=samples.run_ids,
        baseline_run_ids=baseline_run_ids,
    )


def _short(missing: Mapping[int, str]) -> str:
    words = {word.partition(":")[0] for word in missing.values()}
    return words.pop() if len(words) == 1 else "no result"


def _without(n: int, expected: int, missing: Mapping[int, str]) -> str:
    lost = ", ".join(f"seed {seed} ({words})" for seed, words in missing.items())
    return f"{n} of {wording.seeds(expected)}, without {lost}."


def _missing(samples: Samples, values: Mapping[int, float]) -> dict[int, str]:
    """Seed -> why it has no value, by seed."""
    return {
        seed: samples.missing.get(seed, "not in the record")
        for seed in sorted(samples.runs)
        if seed not in values
    }
