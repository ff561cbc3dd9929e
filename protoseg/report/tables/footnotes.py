"""The sentences below a table: units, what n is, what Δ, bold and a verdict mean, where from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from protoseg.config.matrix import Matrix
from protoseg.report import wording
from protoseg.report.metrics import COUNTS, METRICS
from protoseg.report.statistics.significance import BOLD_RULE, VERDICT_RULE
from protoseg.report.tables.baseline import Baselines
from protoseg.report.tables.cells import data_words
from protoseg.report.tables.model import Footnote
from protoseg.report.tables.parameter_cells import WORDS
from protoseg.report.tables.published import PublishedNumbers
from protoseg.report.tables.samples import Samples, protocol_words


def sentences(
    matrix: Matrix,
    samples: Sequence[Samples],
    common_n: int,
    baselines: Baselines | None,
    published: PublishedNumbers | None,
    any_bold: bool,
) -> Iterator[Footnote]:
    """The footnotes that no letter refers to, in order.

    Args:
        common_n: how many seeds most cells have; 0 where nothing is measured.
        any_bold: whether a cell is bold.
    """
    spec = matrix.table
    if matrix.changes:
        yield Footnote(
            f"Made with overrides: {wording.clean(', '.join(matrix.changes))}. "
            "Title and caption are those of the matrix without them."
        )
    main = spec.metrics[0]
    metrics = [metric for metric in spec.metrics if metric not in COUNTS]
    percent = [METRICS[m].title for m in metrics if METRICS[m].unit == "%"]
    units = f"{', '.join(percent)} in percent" if percent else ""
    if common_n:
        spread = "mean ± sample standard deviation over n = " if common_n > 1 else "n = "
        sentence = f"{spread}{wording.seeds(common_n)} unless a cell says otherwise"
        sentence = f"{units}; {sentence}" if units else sentence[0].upper() + sentence[1:]
        yield Footnote(f"{sentence}.")
    elif units:
        yield Footnote(f"{units}.")
    if baselines is not None:
        yield Footnote(
            f"Δ: difference in {METRICS[main].title} to {baselines.words}, on shared "
            "seeds only; ± is the sample standard deviation of the paired differences."
        )
    yield from (Footnote(WORDS[metric]) for metric in COUNTS if metric in spec.metrics)
    measured = sum(bool(s.values.get(main)) for s in samples)
    protocols = {protocol_words(s.spec): None for s in samples}
    if any_bold or (measured > 1 and metrics):
        apart = " Values of different data or evaluation are not compared."
        none = "" if any_bold else " Here none is."
        yield Footnote(BOLD_RULE + apart * (len(protocols) > 1) + none)
    if published is not None and measured:
        yield Footnote(VERDICT_RULE.format(margin=wording.plain_value(published.spec.margin)))
    yield Footnote(f"Evaluation: {'; '.join(protocols)}.")
    if spec.note:
        yield Footnote(wording.clean(spec.note))


def published_words(published: PublishedNumbers, samples: Sequence[Samples]) -> str:
    """Where published numbers are from, and what they are for."""
    data = f" for {published.data}" if published.data else ""
    ours = {data_words(s.spec): None for s in samples}
    # Names are all there is to compare; where they differ the reader is told both.
    unnamed = "" if any(published.measured_as) else "; its data are not named"
    here = f" (measured here: {', '.join(ours)}{unnamed})"
    other = "" if {*ours} <= published.measured_as else here
    return f"Published{data}{other}, not measured by this project: {published.source}."
