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
    samples: Samples, metric: Metric, common_n: int, marks: Marks, is_main: bool, bold: bool
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
        note = f"{n} of {text.seeds(expected)}" if is_main else ""
        mark = marks.of(_without(n, expected, missing))
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


def delta_cell(
    samples: Samples, baseline: Samples | None, metric: Metric, common_n: int, marks: Marks
) -> Cell:
    """Mean ± sample standard deviation of the paired differences over the shared seeds."""
    if baseline is samples:
        return Cell("delta", text.NONE, run_ids=samples.run_ids, expected_n=len(samples.runs))
    if baseline is None:
        return _status(samples, "no baseline")
    ours = samples.values.get(metric.key, {})
    theirs = baseline.values.get(metric.key, {})
    missing, theirs_missing = _missing(samples, ours), _missing(baseline, theirs)
    if not ours:
        return status_cell(samples, missing, False)
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
        note = text.seeds(pairs.n)
    return Cell(
        "delta",
        text.signed(pairs.mean, metric.decimals),
        text.fixed(pairs.std, metric.decimals) if pairs.n > 1 else "",
        note,
        mark,
        value=pairs.mean,
        std=pairs.std if pairs.n > 1 else None,
        n=pairs.n,
        expected_n=expected,
        run_ids=samples.run_ids,
        baseline_run_ids=baseline.run_ids,
    )


def parameters_cell(samples: Samples, is_main: bool) -> Cell:
    """Learnable parameters and, in brackets, the prototypes' numbers, in millions."""
    learnable = samples.values.get(PARAMETERS, {})
    if not learnable:
        return status_cell(samples, _missing(samples, learnable), is_main)
    if len(set(learnable.values())) > 1 or len(set(samples.prototypes.values())) > 1:
        # They follow from the spec: a mean would hide that something is wrong.
        return _status(samples, "differ between seeds")
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
        return Cell("status", "unknown", mark=mark)
    return Cell("published", str(value).replace("-", text.MINUS), mark=mark, value=float(value))


def status_cell(samples: Samples, missing: Mapping[int, str], in_full: bool) -> Cell:
    """No number: why, for each seed, or in short where the column before it says more."""
    return _status(samples, text.summary_words(missing.values()) if in_full else _short(missing))


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
    return f"{n} of {text.seeds(expected)}, without {lost}."


def _missing(samples: Samples, values: Mapping[int, float]) -> dict[int, str]:
    """Seed -> why it has no value, by seed."""
    return {
        seed: samples.missing.get(seed, "not in the record")
        for seed in sorted(samples.runs)
        if seed not in values
    }
