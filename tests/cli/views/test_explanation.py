"""The explanation of a table cell on a terminal."""

from __future__ import annotations

import re

from report.lab import Lab, method, methods_matrix
from report.tables.test_builder import A, B, finish_all

from cli.views.printing import printed
from protoseg.cli.views.explanation import render_explanation
from protoseg.report.explanation import explain_cell


def test_an_explanation_shows_runs_differences_and_interval(lab: Lab) -> None:
    finish_all(lab, {A: [70.0, 71.0, 72.0]})
    lab.finish(method(B, 0), 75.0, provenance={"dirty": True}, attempts=4)
    lab.finish(method(B, 1), 77.0, in_runs=True)
    lab.fail(method(B, 2), "out_of_memory", "CUDA out of memory")
    matrix = methods_matrix([A, B], baseline={"label": A})
    text = printed(
        render_explanation(explain_cell(matrix, lab.table(matrix), B, "delta", lab.store))
    )
    for part in ("(dirty)", "CUDA out of memory", "5.0000", "Runs of the baseline"):
        assert part in text
    assert re.search(r"95% t interval of the mean: -?\d+\.\d{4} to \d+\.\d{4}", text)
