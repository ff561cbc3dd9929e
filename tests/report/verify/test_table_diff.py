"""Differences between a committed table file and the rebuilt one."""

from __future__ import annotations

import pytest

from protoseg.report.verify.check import Problem
from protoseg.report.verify.table_diff import TABLE_SUFFIXES, compare_table_files

CSV = """\
row,metric,mean,std
a,miou,1.0,0.5
a,macc,2.0,0.6
b,miou,3.0,0.7
"""
MARKDOWN = (
    "## A table\n\n| row | mIoU |\n|-----|-----:|\n| a   |  1.0 |\n| b   |  3.0 |\n\n- Note.\n"
)


def compare_csv(committed: str) -> list[Problem]:
    return compare_table_files("tables/t.csv", committed, CSV, 1)


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_equal_files_have_no_problem(suffix: str) -> None:
    assert compare_table_files(f"t{suffix}", CSV, CSV, 1) == []


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_every_changed_character_is_found_in_every_format(suffix: str) -> None:
    for position in range(len(CSV)):
        edited = CSV[:position] + "#" + CSV[position + 1 :]
        assert compare_table_files(f"t{suffix}", edited, CSV, 1), position


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_every_truncated_file_is_found_in_every_format(suffix: str) -> None:
    for length in range(len(CSV)):
        assert compare_table_files(f"t{suffix}", CSV[:length], CSV, 1), length
        assert compare_table_files(f"t{suffix}", CSV, CSV[:length], 1), length


def test_a_cell_is_named_by_row_and_column() -> None:
    (problem,) = compare_csv(CSV.replace("2.0", "9.0"))
    assert problem == Problem(
        "tables/t.csv",
        "the file has '9.0', the records give '2.0'.",
        row="a, macc",
        column="mean",
        committed="9.0",
        rebuilt="2.0",
    )
    assert problem.words == (
        "tables/t.csv: row 'a, macc', column 'mean': the file has '9.0', the records give '2.0'."
    )


def test_a_title_of_a_column_is_named_as_a_header_cell() -> None:
    (problem,) = compare_csv(CSV.replace("std", "deviation"))
    assert (problem.row, problem.column, problem.committed) == ("header", "std", "deviation")


def test_missing_and_surplus_rows_and_columns_are_named() -> None:
    (problem,) = compare_csv(CSV.replace("a,macc,2.0,0.6\n", ""))
    assert (problem.row, problem.message) == ("a, macc", "the file does not have this row.")
    (problem,) = compare_csv(CSV + "c,miou,4.0,0.1\n")
    assert (problem.row, problem.message) == ("c, miou", "the records do not give this row.")
    without_std = "\n".join(line.rpartition(",")[0] for line in CSV.splitlines()) + "\n"
    (problem,) = compare_csv(without_std)
    assert (problem.column, problem.message) == ("std", "the file does not have this column.")
    with_n = "".join(f"{line},n\n" for line in CSV.splitlines())
    problems = compare_csv(with_n)
    assert ("n", "the records do not give this column.") in {
        (p.column, p.message) for p in problems
    }


def test_short_and_long_rows_are_named() -> None:
    (problem,) = compare_csv(CSV.replace(",0.6", ""))
    assert (problem.row, problem.column) == ("a, macc", "std")
    assert problem.message == "the file does not have this cell, the records give '0.6'."
    (problem,) = compare_csv(CSV.replace("0.6", "0.6,7"))
    assert (problem.row, problem.message) == ("a, macc", "has 5 cells; the header has 4.")


def test_another_order_of_rows_or_columns_is_named() -> None:
    header, *rows = CSV.splitlines()
    (problem,) = compare_csv("\n".join([header, *reversed(rows), ""]))
    assert problem.message == "its rows are in another order."
    swapped = [line.split(",") for line in CSV.splitlines()]
    text = "\n".join(",".join([a, b, d, c]) for a, b, c, d in swapped) + "\n"
    (problem,) = compare_csv(text)
    assert problem.message == "its columns are in another order."


def test_a_file_without_csv_structure_is_compared_too() -> None:
    assert compare_csv("row\x00,metric\r\rmean")
    assert compare_csv("")


def test_a_line_of_a_text_format_is_named_with_its_number() -> None:
    edited = MARKDOWN.replace("3.0", "9.0")
    (problem,) = compare_table_files("tables/t.md", edited, MARKDOWN, 1)
    assert problem.message == (
        "line 6: the file has '| b   |  9.0 |', the records give '| b   |  3.0 |'."
    )
    (problem,) = compare_table_files("tables/t.md", MARKDOWN.replace("- Note.\n", ""), MARKDOWN, 1)
    assert problem.message == (
        "line 8: the file does not have this line, the records give '- Note.'."
    )
    (problem,) = compare_table_files("tables/t.md", MARKDOWN + "More.\n", MARKDOWN, 1)
    assert problem.message == "line 9: the file has 'More.', the records give none."


@pytest.mark.parametrize("file", ["t.md", "t.csv"])
def test_line_endings_alone_are_a_problem(file: str) -> None:
    (problem,) = compare_table_files(file, CSV.replace("\n", "\r\n"), CSV, 1)
    assert problem.message == "differs only in its layout, first in line 1."
