"""A report table on a terminal."""

from __future__ import annotations

import re

from report.formats.test_files import mixed_matrix
from report.lab import Lab, methods_matrix, with_table
from report.tables.test_builder import A, B

from cli.views.printing import printed
from protoseg.cli.views.table import render_table


def test_a_table_fits_the_terminal_and_its_labels_are_no_markup(lab: Lab) -> None:
    mixed = lab.table(mixed_matrix(lab))
    names = [A, B, "prototype 1", "prototype 5"]
    matrix = methods_matrix(names, range(4), metrics=("miou", "macc", "aacc", "parameters"))
    for table in (mixed, lab.table(with_table(matrix, baseline={"label": A}))):
        text = printed(render_table(table))
        assert max(map(len, text.splitlines())) <= 100
        assert "81.00 ± 0.78" in text
        assert "\x1b" not in text
    assert "[red]" in re.sub(r"\s", "", str(render_table(mixed).columns[0]._cells[0]))
