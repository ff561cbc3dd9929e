"""The verification of marked numbers in Markdown pages."""

from __future__ import annotations

from pathlib import Path

from protoseg.report.verify.pages import check_pages
from report.lab import Lab, methods_matrix
from report.prose.readers import make_reader
from report.tables.test_builder import A, finish_all


def test_wrong_numbers_and_broken_marks_are_problems(lab: Lab, tmp_path: Path) -> None:
    finish_all(lab, {A: [70.0, 71.0, 72.0]})
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(
        "a <!-- mean test 1 -->71.00<!-- -->\n"
        "b <!-- mean test 1 -->70.99<!-- -->\n"
        "c <!-- mean test 2 -->70.99<!-- --> <!-- runs test -->\n"
    )
    pages = [page, tmp_path / "missing.md"]
    check = check_pages(tmp_path, pages, make_reader(lab, methods_matrix([A])))
    assert check.count == 3
    wrong = next(problem for problem in check.problems if problem.committed)
    assert (wrong.committed, wrong.rebuilt) == ("70.99", "71.00")
    sentences = [problem.words for problem in check.problems]
    for start in (
        "docs/page.md: line 2: '70.99' is '71.00' in the records (mean test 1). Correct it: ",
        "docs/page.md: line 3: test: unknown row '2'.",
        "docs/page.md: line 3: 'runs test' is not closed.",
        "missing.md: cannot be read (No such file or directory).",
    ):
        assert any(sentence.startswith(start) for sentence in sentences), sentences
    assert len(sentences) == 4
