"""The table of the comparisons of a table, in all formats."""

from __future__ import annotations

import csv
import re

import pytest

from protoseg.config.matrix import FamilySpec
from protoseg.report.formats import files
from protoseg.report.tables.comparison_table import CSV_HEADER, make_comparison_table
from protoseg.report.tables.model import Table
from report.lab import Lab, method, methods_matrix
from report.tables.test_builder import AGAINST_A, A, B, finish_all, footnotes
from report.tables.test_comparisons import axis_matrix

C, D = "prototype 1", "prototype 5"


@pytest.fixture
def table(lab: Lab) -> Table:
    """Four rows: one clearly higher, one not, one with two seeds and other code."""
    finish_all(
        lab,
        {A: [70.0, 71.0, 72.0], B: [80.0, 81.01, 82.0], C: [70.2, 71.9, 71.7]},
    )
    for seed in range(2):
        lab.finish(method(D, seed), 75.0 + 2 * seed, provenance={"commit": "f" * 40})
    return lab.table(methods_matrix([A, B, C, D], **AGAINST_A))


def test_a_row_has_difference_interval_p_and_result(table: Table) -> None:
    assert table.family is not None
    comparisons = make_comparison_table(table, table.family)
    assert (comparisons.name, comparisons.title) == ("test_comparisons", "A test: comparisons")
    assert [c.title for c in comparisons.header] == [
        *(f"Difference to {A}", "n", "Δ", "95% interval", "p", "adjusted p", "Result"),
    ]
    cells = [[cell.plain for cell in row.cells] for row in comparisons.rows]
    assert cells[0] == [
        *(B, "3", "+10.00", "+9.99 to +10.02", "< 0.001", "< 0.001", "higher"),
    ]
    assert cells[1][:3] == [C, "3", "+0.27"]
    assert cells[1][6].startswith("no difference found (detectable: ")
    assert cells[2] == [D, "2", "+5.50 [a]", "–", "–", "–", "not tested: 2 seeds"]
    text = footnotes(comparisons)
    assert "Δ in percentage points of mIoU, over shared seeds (n). Interval and p: paired" in text
    assert "The unit is the seed: the evaluated images are fixed." in text
    assert "Family: each row against parametric 1, 2 tested." in text
    assert "with 80% probability at Holm's first threshold, 0.05 / 2." in text
    assert "3 seeds cannot give a p below 0.25 (sign-flip test)." in text
    assert comparisons.footnotes[-1].mark == "a"
    assert "a record has no digest of its code" in comparisons.footnotes[-1].text


def test_both_rows_are_named_where_baselines_differ(lab: Lab, table: Table) -> None:
    pairs = FamilySpec(pairs=((B, A), (C, D)))
    table = lab.table(methods_matrix([A, B, C, D], comparisons=pairs))
    assert table.family is not None
    comparisons = make_comparison_table(table, table.family)
    assert comparisons.header[0].title == "Comparison"
    assert [row.cells[0].plain for row in comparisons.rows] == [f"{B} − {A}", f"{C} − {D}"]


def test_two_values_of_an_axis_have_the_name_of_the_axis(lab: Lab) -> None:
    table = lab.table(axis_matrix(lab, {1: [53.0, 54.2, 55.1], 5: [52.4, 53.0, 54.3]}))
    assert table.family is not None
    comparisons = make_comparison_table(table, table.family)
    assert comparisons.header[0].title == "Difference to K = 1"
    assert [row.cells[0].plain for row in comparisons.rows] == ["5"]


def test_a_family_without_a_test_has_no_notes_on_power(lab: Lab) -> None:
    finish_all(lab, {A: [70.0, 71.0], B: [75.0, 76.5]})
    table = lab.table(methods_matrix([A, B], seeds=range(2), **AGAINST_A))
    assert table.family is not None
    text = footnotes(make_comparison_table(table, table.family))
    assert "0 tested" in text
    assert "Detectable" not in text
    assert "/ 0" not in text


def test_markdown_and_html_have_both_tables(table: Table) -> None:
    contents = files.render_files(table)
    markdown, page = contents["test.md"], contents["test.html"]
    assert markdown.index("## A test\n") < markdown.index("## A test: comparisons\n")
    assert re.search(rf"\| {B} +\|   3 \| +\+10\.00 \|", markdown)
    assert "&lt; 0.001" in markdown
    assert page.count("<table>") == page.count("</table>") == 2
    assert "<h1>A test</h1>" in page
    assert "<h2>A test: comparisons</h2>" in page
    assert page.count("no difference found (detectable: ") == 1


def test_latex_of_the_comparisons_is_a_file_with_a_label(table: Table) -> None:
    contents = files.render_files(table)
    source = contents["test_comparisons.tex"]
    assert source.startswith("% Made by `protoseg tables test`")
    assert r"\label{tab:test_comparisons}" in source
    assert r"$<$ 0.001" in source or r"\textless{} 0.001" in source
    assert "comparisons" not in contents["test.tex"].partition(r"\begin{tabular}")[0]


def test_the_csv_has_unrounded_numbers_and_empty_fields_for_missing_ones(table: Table) -> None:
    lines = list(csv.DictReader(files.render_files(table)["test_comparisons.csv"].splitlines()))
    assert tuple(lines[0]) == CSV_HEADER
    assert table.family is not None
    for line, comparison in zip(lines, table.family.comparisons, strict=True):
        assert (line["row"], line["baseline"]) == (comparison.ours, comparison.theirs)
        assert (line["n"], line["result"]) == (str(len(comparison.seeds)), comparison.result)
        for key in ("p", "adjusted_p", "detectable"):
            value = getattr(comparison, key)
            assert line[key] == ("" if value is None else repr(value))
    assert (float(lines[0]["low"]), float(lines[0]["high"])) == table.family.comparisons[0].interval
    assert (lines[2]["low"], lines[2]["seeds"], lines[2]["column"]) == ("", "0 1", "")
    assert len(lines[2]["run_ids"].split()) == 3


def test_a_table_without_comparisons_has_no_second_table(lab: Lab) -> None:
    finish_all(lab, {A: [70.0, 71.0, 72.0]})
    contents = files.render_files(lab.table(methods_matrix([A])))
    assert not [name for name in contents if "comparisons" in name]
    assert contents["test.md"].count("## ") == 1
