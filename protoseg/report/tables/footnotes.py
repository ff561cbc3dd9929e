"""Writes the footnotes of a table: units, n, Δ, bold, verdict, evaluation, published source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from protoseg.config.hierarchy.table_trees import (
    LEVELS,
    MISTAKE_DISTANCE,
    get_level,
    name_level_metric,
)
from protoseg.config.matrix import Matrix
from protoseg.report import wording
from protoseg.report.metrics import COUNTS, METRICS, MIOU, QUALITIES
from protoseg.report.statistics.power import SIGNIFICANCE
from protoseg.report.statistics.significance import BOLD_RULE, MIN_SEEDS, VERDICT_RULE
from protoseg.report.tables.baseline import Baselines
from protoseg.report.tables.cells import describe_data
from protoseg.report.tables.model import Family, Footnote, TableComparison
from protoseg.report.tables.pairing import average_different_classes
from protoseg.report.tables.parameter_cells import COUNT_FOOTNOTES
from protoseg.report.tables.published import PublishedNumbers
from protoseg.report.tables.samples import Samples, describe_protocol
from protoseg.report.tuning.notes import describe_inequality, describe_search

DIFFERENT_SETS = (
    "The rows average different classes in mIoU: a class without ground truth counts, with an IoU "
    "of 0, where a run predicts it (mmseg's rule). Such rows are compared over the classes with "
    "ground truth."
)

DIFFERENT_GROUPS = (
    "The rows average different groups in the mIoU of a level, by the same rule. Such rows are "
    "compared over the groups with ground truth."
)
MISTAKE_RULE = (
    "Mistake distance: number of edges between the true and the predicted class in the tree, mean "
    "over the wrongly classified pixels; 2 within one group of level 2; lower is better."
)


def make_footnotes(
    matrix: Matrix,
    samples: Sequence[Samples],
    common_n: int,
    baselines: Baselines | None,
    published: PublishedNumbers | None,
    any_bold: bool,
    without_spread: Sequence[str],
    family: Family | None,
) -> Iterator[Footnote]:
    """Yield the footnotes without a letter, in order.

    Args:
        samples: all settings of the table.
        common_n: number of seeds of most cells; 0 if no cell has a value.
        baselines: the baselines of Δ; None without a Δ column.
        published: the published numbers; None without a column for them.
        any_bold: whether a cell is bold.
        without_spread: titles of the metrics with a best value that is not bold because its
            differences have no spread over seeds.
        family: the tested comparisons; None if there are none.
    """
    spec = matrix.table
    inequality = describe_inequality(matrix)
    if inequality:
        yield Footnote(wording.clean_text(inequality))
    if matrix.changes:
        yield Footnote(
            f"Made with overrides: {wording.clean_text(', '.join(matrix.changes))}. "
            "Title and caption are those of the matrix without them."
        )
    main = spec.metrics[0]
    metrics = [metric for metric in spec.metrics if metric not in COUNTS]
    percent = [METRICS[m].title for m in metrics if METRICS[m].unit == "%"]
    units = f"{_join_titles(percent)} in percent" if percent else ""
    if common_n:
        spread = "mean ± sample standard deviation over n = " if common_n > 1 else "n = "
        sentence = f"{spread}{wording.format_seeds(common_n)} unless a cell gives another n"
        sentence = f"{units}; {sentence}" if units else sentence[0].upper() + sentence[1:]
        yield Footnote(f"{sentence}.")
    elif units:
        yield Footnote(f"{units}.")
    if baselines is not None:
        yield Footnote(
            f"Δ: difference in {METRICS[main].title} to {baselines.description}, on shared "
            "seeds only; ± is the sample standard deviation of the paired differences."
        )
    yield from map(Footnote, _describe_levels(matrix))
    yield from (Footnote(COUNT_FOOTNOTES[metric]) for metric in COUNTS if metric in spec.metrics)
    measured = sum(bool(s.values.get(main)) for s in samples)
    protocols = {describe_protocol(s.spec): None for s in samples}
    if any_bold or (measured > 1 and any(metric in QUALITIES for metric in metrics)):
        apart = " Values of different data or evaluation are not compared."
        none = "" if any_bold else " No value is bold here."
        titles = _join_titles(METRICS[m].title for m in spec.metrics if m in QUALITIES)
        rule = BOLD_RULE.format(columns=titles)
        equal = ""
        if without_spread:
            equal = (
                f" In {_join_titles(without_spread)} a difference is the same for every seed, "
                "so it has no interval."
            )
        yield Footnote(rule + apart * (len(protocols) > 1) + equal + none)
    if family is not None:
        yield Footnote(summarise_family(family))
    if average_different_classes(samples) and MIOU in spec.metrics:
        yield Footnote(DIFFERENT_SETS)
    levels = (each for each in LEVELS if name_level_metric(MIOU, each) in spec.metrics)
    if any(average_different_classes(samples, level) for level in levels):
        yield Footnote(DIFFERENT_GROUPS)
    if published is not None and measured:
        yield Footnote(VERDICT_RULE.format(margin=wording.format_value(published.spec.margin)))
    yield Footnote(f"Evaluation: {'; '.join(protocols)}.")
    yield from (Footnote(wording.clean_text(text)) for text in describe_search(matrix))
    if spec.note:
        yield Footnote(wording.clean_text(spec.note))


def _describe_levels(matrix: Matrix) -> Iterator[str]:
    """Describe the levels and the mistake distance of a table that has them."""
    levels = sorted({get_level(metric) for metric in matrix.table.metrics} - {1})
    for level in levels:
        names = {
            f"{name} has {tree.level_sizes[level - 1]} groups": None
            for (name, _), tree in matrix.trees.items()
        }
        yield wording.clean_text(
            f"Level {level}: ground truth and prediction of each pixel are replaced by the groups "
            f"of their classes on this level of the tree ({', '.join(names)})."
        )
    if MISTAKE_DISTANCE in matrix.table.metrics:
        yield MISTAKE_RULE


def _join_titles(titles: Iterable[str]) -> str:
    titles = list(titles)
    return ("; " if any("," in title for title in titles) else ", ").join(titles)


def summarise_family(family: Family) -> str:
    """Summarise the verdicts of a family; the table of its comparisons has each."""
    tested = [c for c in family.comparisons if c.adjusted_p is not None]
    start = f"Tested in {family.metric.title}: {family.description}."
    if not tested:
        return f"{start} None has {MIN_SEEDS} shared seeds and a spread, so none is tested."
    clear = [c for c in tested if c.adjusted_p is not None and c.adjusted_p < SIGNIFICANCE]
    listed = f": {'; '.join(_describe_verdict(family, c) for c in clear)}" if clear else ""
    number = f"{len(tested)} comparison{'s' * (len(tested) > 1)}"
    verb = "has" if len(clear) == 1 else "have"
    return (
        f"{start} Of {number} {len(clear) or 'none'} {verb} an adjusted p < {SIGNIFICANCE:.2g} "
        f"(Holm){listed}."
    )


def _describe_verdict(family: Family, comparison: TableComparison) -> str:
    names = [comparison.ours, comparison.theirs]
    if family.rows:
        names = [f"{family.rows} = {name}" for name in names]
    text = f"{names[0]} is {comparison.result}"
    if len({c.theirs for c in family.comparisons}) > 1:
        text += f" than {names[1]}"
    if len({c.group for c in family.comparisons}) > 1:
        text += f" ({comparison.group})"
    return text


def describe_published(published: PublishedNumbers, samples: Sequence[Samples]) -> str:
    """Describe the source and the data of published numbers, for a footnote."""
    data = f" for {published.data}" if published.data else ""
    ours = {describe_data(s.spec): None for s in samples}
    # Data sets can only be compared by name. If the names differ, the footnote has both.
    unnamed = "" if any(published.measured_as) else "; its data are not named"
    difference = f" (measured here: {', '.join(ours)}{unnamed})"
    if {*ours} <= published.measured_as:
        difference = ""
    return f"Published{data}{difference}, not measured by this project: {published.source}."
