"""Marked numbers of Markdown pages: what is a mark, and what changes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from protoseg.errors import ProtosegError, UsageError
from protoseg.report.prose.pages import (
    Change,
    MarkedNumber,
    fill_page,
    list_marked_numbers,
    list_pages,
    read_page,
)
from protoseg.report.prose.result_reader import ResultReader
from report.lab import Lab, methods_matrix
from report.prose.readers import ROOT, make_reader
from report.tables.test_builder import A, B, finish_all

PAGE = """# A page

Text: <!-- mean test 1 -->1.00<!-- -->, <!--delta test 1 2-->+4.00<!---->.

```md
<!-- mean nothing 1 -->1.00
```

Code `<!-- mean nothing 1 -->` and ``a ` <!-- b --> `` are shown.
| a | <!-- mean:1
test 2 -->?<!-- --> |
<!-- table test -->
<!-- -->
"""


@pytest.fixture
def reader(lab: Lab) -> ResultReader:
    """A reader of two methods with the values 70 and 74."""
    finish_all(lab, {A: [69.0, 70.0, 71.0], B: [73.0, 74.0, 75.0]})
    return make_reader(lab, methods_matrix([A, B], metrics=("miou",)))


def marks(text: str) -> list[tuple[int, str, str]]:
    """Line, source and text of each mark; a broken mark is (line, sentence, "")."""
    return [
        (each.line, each.source, each.text) if isinstance(each, MarkedNumber) else (*each, "")
        for each in list_marked_numbers(text)
    ]


def test_marks_outside_code_are_listed_with_their_lines() -> None:
    assert marks(PAGE) == [
        (3, "mean test 1", "1.00"),
        (3, "delta test 1 2", "+4.00"),
        (10, "mean:1\ntest 2", "?"),
        (12, "table test", "\n"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "~~~\n<!-- a -->\n~~~~\n<!-- b -->1<!-- -->",
        "````\n```\n<!-- a -->\n```\n````\n<!-- b -->1<!-- -->",
        "- item\n\n  ```sh\n  <!-- a -->\n  ```\n\n<!-- b -->1<!-- -->",
        "`code over\nlines <!-- a -->` <!-- b -->1<!-- -->",
        "one ` only\n\n<!-- b -->1<!-- --> and ` again",
        "<!-- b -->1<!-- -->\n```\n<!-- a -->",
    ],
)
def test_comments_in_code_are_no_marks(text: str) -> None:
    assert [mark[1:] for mark in marks(text)] == [("b", "1")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\n<!-- x -->1", (2, "'x' is not closed. Add <!-- -->.")),
        ("<!-- x -->1\n<!-- y -->2<!-- -->", (1, "'x' is not closed. Add <!-- -->.")),
        ("a\n\n1<!-- -->", (3, "<!-- --> closes no source. Name one before the number.")),
        ("a <!-- x\n", (1, "the comment has no end. Add -->.")),
    ],
)
def test_a_broken_mark_is_reported(text: str, expected: tuple[int, str]) -> None:
    assert marks(text)[0] == (*expected, "")


def test_only_the_text_between_the_comments_changes(reader: ResultReader) -> None:
    page = fill_page(PAGE, reader)
    assert (page.count, page.problems) == (4, ())
    assert page.changes[:2] == (
        Change(3, "mean test 1", "1.00", "70.00"),
        Change(10, "mean:1\ntest 2", "?", "74.0"),
    )
    expected = PAGE.replace("1.00<!-- -->", "70.00<!-- -->").replace("?<", "74.0<")
    head, _, table = page.text.partition("<!-- table test -->\n")
    assert head == expected.partition("<!-- table test -->\n")[0]
    assert "| parametric 1  | 70.00 ± 1.00 |" in table
    assert table.endswith("|\n<!-- -->\n")
    again = fill_page(page.text, reader)
    assert (again.text, again.changes) == (page.text, ())


def test_a_wrong_line_of_a_table_is_named(reader: ResultReader) -> None:
    right = fill_page("<!-- table test -->\n<!-- -->\n", reader).text
    wrong = fill_page(right.replace("74.00", "74.01"), reader)
    assert wrong.text == right
    assert [(change.line, "74.01" in change.old) for change in wrong.changes] == [(5, True)]


def test_line_ends_are_kept(reader: ResultReader) -> None:
    text = "a\r\nb <!-- mean test 1 -->?<!-- -->\r\n"
    assert fill_page(text, reader).text == text.replace("?", "70.00")


def test_numbers_with_a_problem_are_kept(reader: ResultReader) -> None:
    text = "<!-- mean test 9 -->1<!-- -->\n<!-- mean test 1 -->2<!-- --> <!-- x -->"
    page = fill_page(text, reader)
    assert page.text == text.replace("2<", "70.00<")
    (first, unknown), (second, unclosed) = page.problems
    assert (first, second) == (1, 2)
    assert "unknown row '9'" in unknown
    assert "'x' is not closed" in unclosed


def test_a_page_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no.md", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(UsageError, match=f"cannot be read .{reason}"):
            read_page(path)
    (tmp_path / "latin.md").write_bytes("μ".encode("utf-16"))
    with pytest.raises(ProtosegError, match=r"latin\.md: not UTF-8 \(byte 0\)"):
        read_page(tmp_path / "latin.md")
    with pytest.raises(UsageError, match=r"no README\.md and no docs"):
        list_pages(tmp_path)


def test_no_line_of_prose_begins_with_a_mark() -> None:
    # Markdown shows such a line as HTML, without links and emphasis.
    for path in list_pages(ROOT):
        lines = path.read_text(encoding="utf-8").splitlines()
        first = [line for line in lines if re.match(r" {0,3}<!-- (?!table )(?!-->)", line)]
        assert not first, path.name
