"""Makes the cells with numbers of parameters: measured ones and published ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from protoseg.config.hierarchy.tree import make_hierarchy
from protoseg.config.schema import RunSpec
from protoseg.report import wording
from protoseg.report.metrics import LEARNABLE, PARAMETERS, Metric
from protoseg.report.tables.model import Cell
from protoseg.report.tables.published import PublishedNumbers, parse_printed
from protoseg.report.tables.samples import Samples

COUNT_FOOTNOTES = {
    PARAMETERS: "Parameters: learnable, in millions; in brackets the numbers stored in prototypes.",
    LEARNABLE: (
        "Parameters: learnable, in millions, of the evaluated network (without an auxiliary "
        "head); in brackets those of the classifier, 0 if prototypes replace it."
    ),
}
"""Metric -> footnote."""


def count_classifier_parameters(spec: RunSpec) -> int | None:
    """Count the learnable parameters of the classifier; None if the spec does not determine it."""
    paths = spec.dataset.hierarchy
    outputs = make_hierarchy(paths).num_nodes if paths else len(spec.dataset.classes)
    return spec.method.classifier_parameters(outputs, spec.decoder.channels)


def make_parameters_cell(samples: Samples, metric: Metric) -> Cell | None:
    """Make the cell of learnable parameters in millions; None if no record has the number.

    The number in brackets is that of `COUNT_FOOTNOTES`.
    """
    learnable = samples.values.get(metric.key, {})
    if not learnable:
        return None
    if len(set(learnable.values())) > 1 or len(set(samples.prototypes.values())) > 1:
        # The spec determines the number, so different numbers are an error; no mean hides it.
        return Cell(
            "status",
            "differ between seeds",
            expected_n=len(samples.runs),
            run_ids=samples.run_ids,
        )
    value = next(iter(learnable.values()))
    in_brackets: float | None = next(iter(samples.prototypes.values()), None)
    if metric.key == LEARNABLE:
        in_brackets = count_classifier_parameters(samples.spec)
    brackets = "" if in_brackets is None else f" ({wording.format_millions(in_brackets)})"
    return Cell(
        "parameters",
        wording.format_millions(value * 1e6) + brackets,
        value=value,
        n=len(learnable),
        expected_n=len(samples.runs),
        run_ids=samples.run_ids,
        brackets=None if in_brackets is None else in_brackets / 1e6,
    )


def make_published_parameters_cell(
    numbers: PublishedNumbers, row: Mapping[str, Any] | None
) -> Cell:
    """Make the cell of a published number of parameters, in millions."""
    parsed = parse_printed(row.get(numbers.spec.parameters)) if row is not None else None
    if row is None or parsed is None:
        return Cell("published", wording.NONE)
    in_brackets = row.get(numbers.spec.brackets) if numbers.spec.brackets else None
    brackets = "" if in_brackets is None else f" ({in_brackets})"
    number = parse_printed(in_brackets)
    value_in_brackets = number[1] if number is not None else None
    return Cell("published", parsed[0] + brackets, value=parsed[1], brackets=value_in_brackets)
