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
    # Two shared seeds have no interval.
    assert "95% t interval" not in text


def test_an_explanation_of_three_seeds_has_an_interval_p_and_what_was_detectable(lab: Lab) -> None:
    finish_all(lab, {A: [70.0, 71.0, 72.0], B: [75.0, 77.0, 76.5]})
    matrix = methods_matrix([A, B], baseline={"label": A})
    text = printed(
        render_explanation(explain_cell(matrix, lab.table(matrix), B, "delta", lab.store))
    )
    # Differences 5, 6, 4.5: mean 5.1667, standard error 0.4410, t(0.975, 2) = 4.3027.
    assert "95% t interval of the mean over seeds: 3.2694 to 7.0640" in text
    assert "p of the paired t test: 0.007, not corrected for other comparisons" in text
    assert re.search(r"detectable with 80% probability: a true difference of \d\.\d\d", text)
