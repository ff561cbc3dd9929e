"""One cell each: measured, Δ, published, parameters; or, in words, why there is none."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping

from protoseg.report import text
from protoseg.report.metrics import PARAMETERS, Metric
from protoseg.report.model import Cell, Footnote
from protoseg.report.published import PublishedNumbers
from protoseg.report.samples import Samples
from protoseg.report.statistics import mean, paired, sample_std


class Marks:
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
    samples: Samples, metric: Metric, common_n: int, marks: Marks, bold: bool
) -> Cell:
    """Mean ± sample standard deviation over the seeds that are there; the rest in words."""
    values = samples.values.get(metric.key, {})
    expected, missing = len(samples.runs), _missing(samples, values)
    if not values:
        return status_cell(samples, text.summary_words(missing.values()))
    n = len(values)
    note = mark = ""
    if n < expected:
        note = f"{n} of {text.seeds(expected)}"
        mark = marks.of(f"Without {_listed(missing)}.")
    elif n != common_n:
        note = text.seeds(n)
    centre, spread = mean(values.values()), sample_std(values.values())
    return Cell(
        "measured",
        text.fixed(centre, metric.decimals),
        text.fixed(spread, metric.decimals) if n > 1 else "",
        note,
        mark,
        bold,
        centre,
        spread if n > 1 else None,
        n,
        expected,
        samples.run_ids,
    )


def delta_cell(samples: Samples, baseline: Samples | None, metric: Metric, common_n: int) -> Cell:
    """Mean ± sample standard deviation of the paired differences over the shared seeds."""
    if baseline is samples:
        return Cell("delta", text.NONE, run_ids=samples.run_ids, expected_n=len(samples.runs))
    if baseline is None:
        return status_cell(samples, "no baseline")
    ours = samples.values.get(metric.key, {})
    theirs = baseline.values.get(metric.key, {})
    expected = len(samples.runs.keys() & baseline.runs.keys())
    if not ours:
        return status_cell(samples, text.summary_words(_missing(samples, ours).values()))
    if not theirs:
        words = text.summary_words(_missing(baseline, theirs).values())
        return status_cell(samples, f"baseline {words}")
    pairs = paired(ours, theirs)
    if not pairs.n:
        return status_cell(samples, "no shared seed")
    note = ""
    if pairs.n < expected:
        note = f"{pairs.n} of {text.seeds(expected)}"
    elif pairs.n != common_n:
        note = text.seeds(pairs.n)
    return Cell(
        "delta",
        text.signed(pairs.mean, metric.decimals),
        text.fixed(pairs.std, metric.decimals) if pairs.n > 1 else "",
        note,
        value=pairs.mean,
        std=pairs.std if pairs.n > 1 else None,
        n=pairs.n,
        expected_n=expected,
        run_ids=samples.run_ids,
        baseline_run_ids=baseline.run_ids,
    )


def parameters_cell(samples: Samples) -> Cell:
    """Learnable parameters and, in brackets, the prototypes' numbers, in millions."""
    learnable = samples.values.get(PARAMETERS, {})
    if not learnable:
        return status_cell(samples, text.summary_words(_missing(samples, learnable).values()))
    if len(set(learnable.values())) > 1 or len(set(samples.prototypes.values())) > 1:
        # They follow from the spec: a mean would hide that something is wrong.
        return status_cell(samples, "differ between seeds")
    value = next(iter(learnable.values()))
    prototypes = next(iter(samples.prototypes.values()), None)
    brackets = "" if prototypes is None else f" ({text.millions(prototypes)})"
    return Cell(
        "parameters",
        text.millions(value * 1e6) + brackets,
        value=value,
        n=len(learnable),
        expected_n=len(samples.runs),
        run_ids=samples.run_ids,
    )


def published_cell(numbers: PublishedNumbers, samples: Samples, marks: Marks) -> Cell:
    """A value as the literature prints it, never a mean of ours."""
    row = numbers.find(samples.axes)
    if row is None:
        return Cell("published", text.NONE)
    note = f"Published: {text.clean(row['note'])}." if row.get("note") else ""
    mark = marks.of(note) if note else ""
    value = row.get(numbers.spec.value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Cell("status", "no value known", mark=mark)
    return Cell("published", str(value).replace("-", text.MINUS), mark=mark, value=float(value))


def status_cell(samples: Samples, words: str) -> Cell:
    """No number, in words."""
    return Cell("status", words, expected_n=len(samples.runs), run_ids=samples.run_ids)


def _missing(samples: Samples, values: Mapping[int, float]) -> dict[int, str]:
    """Seed -> why it has no value, by seed."""
    return {
        seed: samples.missing.get(seed, "not in the record")
        for seed in sorted(samples.runs)
        if seed not in values
    }


def _listed(missing: Mapping[int, str]) -> str:
    return ", ".join(f"seed {seed} ({words})" for seed, words in missing.items())
