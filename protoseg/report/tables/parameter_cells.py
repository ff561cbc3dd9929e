"""Cells that count parameters: ours from records, the literature's as it prints them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from protoseg.config.schema import RunSpec
from protoseg.report import wording
from protoseg.report.metrics import LEARNABLE, PARAMETERS, Metric
from protoseg.report.tables.model import Cell
from protoseg.report.tables.published import PublishedNumbers, printed
from protoseg.report.tables.samples import Samples

WORDS = {
    PARAMETERS: "Parameters: learnable, in millions; in brackets the numbers held in prototypes.",
    LEARNABLE: (
        "Parameters: learnable, in millions, of the network as it is evaluated (without an "
        "auxiliary head); in brackets those of the classifier, none where prototypes take its "
        "place."
    ),
}
"""The footnote of each kind of count."""


def classifier_parameters(spec: RunSpec) -> int | None:
    """Learnable parameters of the classifier; None where the spec does not tell."""
    return spec.method.classifier_parameters(len(spec.dataset.classes), spec.decoder.channels)


def parameters_cell(samples: Samples, metric: Metric) -> Cell | None:
    """Learnable parameters in millions, with their brackets; None where no record tells them."""
    learnable = samples.values.get(metric.key, {})
    if not learnable:
        return None
    if len(set(learnable.values())) > 1 or len(set(samples.prototypes.values())) > 1:
        # They follow from the spec: a mean would hide that something is wrong.
        return Cell(
            "status",
            "differ between seeds",
            expected_n=len(samples.runs),
            run_ids=samples.run_ids,
        )
    value = next(iter(learnable.values()))
    inside: float | None = next(iter(samples.prototypes.values()), None)
    if metric.key == LEARNABLE:
        inside = classifier_parameters(samples.spec)
    brackets = "" if inside is None else f" ({wording.millions(inside)})"
    return Cell(
        "parameters",
        wording.millions(value * 1e6) + brackets,
        value=value,
        n=len(learnable),
        expected_n=len(samples.runs),
        run_ids=samples.run_ids,
        brackets=None if inside is None else inside / 1e6,
    )


def published_parameters_cell(numbers: PublishedNumbers, row: Mapping[str, Any] | None) -> Cell:
    """The number of parameters that the literature prints, in millions."""
    found = printed(row.get(numbers.spec.parameters)) if row is not None else None
    if row is None or found is None:
        return Cell("published", wording.NONE)
    inside = row.get(numbers.spec.brackets) if numbers.spec.brackets else None
    brackets = "" if inside is None else f" ({inside})"
    number = printed(inside)
    within = number[1] if number is not None else None
    return Cell("published", found[0] + brackets, value=found[1], brackets=within)
