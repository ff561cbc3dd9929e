"""``protoseg fill``: what it writes, prints and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.conftest import REPOSITORY, CommandLine

TEXT = "Text <!-- mean quickstart 1 -->70.0<!-- --> and <!-- runs quickstart -->3<!-- -->.\r\n"
RIGHT = TEXT.replace("70.0<", "71.00<")


@pytest.fixture
def page(protoseg: CommandLine, tmp_path: Path) -> Path:
    """A page with a wrong and a right number of three finished runs."""
    for number, run in enumerate(protoseg.quickstart()[:3]):
        protoseg.record(run, 70.0 + number)
    path = tmp_path / "page.md"
    path.write_bytes(TEXT.encode())
    return path


def test_wrong_numbers_are_written_and_printed(protoseg: CommandLine, page: Path) -> None:
    result = protoseg("fill", str(page), "--check")
    assert (result.status, result.err) == (1, "")
    assert result.out == f"{page}:1 70.0 -> 71.00\n2 numbers in 1 page, 1 differ\n"
    assert page.read_bytes() == TEXT.encode()
    result = protoseg("fill", str(page))
    assert (result.status, result.err) == (0, "")
    assert result.out == f"{page}:1 70.0 -> 71.00\n2 numbers in 1 page, 1 changed\n"
    assert page.read_bytes() == RIGHT.encode()
    before = page.stat().st_mtime_ns
    assert protoseg("fill", str(page)).out == "2 numbers in 1 page, 0 changed\n"
    assert page.stat().st_mtime_ns == before
    assert protoseg("fill", str(page), "--check").status == 0


def test_json_has_pages_changes_and_written_files(protoseg: CommandLine, page: Path) -> None:
    result = protoseg("fill", str(page), "--json")
    change = {"line": 1, "source": "mean quickstart 1", "old": "70.0", "new": "71.00"}
    assert result.json == {
        "pages": [{"page": str(page), "numbers": 2, "changes": [change]}],
        "written": [str(page)],
        "problems": [],
    }


def test_a_link_to_a_page_stays_a_link(protoseg: CommandLine, page: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.md"
    link.symlink_to(page)
    assert protoseg("fill", str(link)).status == 0
    assert link.is_symlink()
    assert page.read_bytes() == RIGHT.encode()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mea quickstart 1", "unknown source 'mea'. Did you mean 'mean'?"),
        ("mean quickstat 1", "unknown matrix 'quickstat'. Did you mean 'quickstart'?"),
        ("mean quickstart 9", "quickstart: unknown row '9'. Known: 'Parametric, K = 1'"),
        ("mean quickstart 1 mio", "unknown column 'mio'. Did you mean 'miou'?"),
        ("mean quickstart 2", "'ProtoSeg, K = 1' has no finished run in the records."),
        ("runs camvid_methods", "camvid_methods: no run has a record."),
    ],
)
def test_a_problem_is_reported_with_page_and_line(
    protoseg: CommandLine, page: Path, source: str, message: str
) -> None:
    text = f"{TEXT}\n<!-- {source} -->1<!-- -->\n"
    page.write_bytes(text.encode())
    result = protoseg("fill", str(page))
    assert result.status == 1
    assert result.err.startswith(f"{page}:3: ")
    assert message in result.err
    assert len(result.err.splitlines()) == 1
    assert page.read_bytes() == text.encode(), "a page with a problem is not written"


def test_records_of_run_folders_are_not_used(protoseg: CommandLine, tmp_path: Path) -> None:
    protoseg.record(protoseg.quickstart()[0], 70.0, in_runs=True)
    page = tmp_path / "page.md"
    page.write_text("a <!-- runs quickstart -->1<!-- -->\n")
    assert "quickstart: no run has a record." in protoseg("fill", str(page)).err


def test_pages_that_cannot_be_read_are_reported(protoseg: CommandLine, tmp_path: Path) -> None:
    result = protoseg("fill", str(tmp_path / "no.md"))
    assert (result.status, result.out) == (2, "")
    assert result.err == (
        f"protoseg fill: {tmp_path / 'no.md'}: cannot be read (No such file or directory). "
        "Name a Markdown page.\n"
    )
    (tmp_path / "latin.md").write_bytes(b"\xe9")
    result = protoseg("fill", str(tmp_path / "latin.md"))
    assert result.status == 1
    assert "latin.md: not UTF-8 (byte 0). Save the page as UTF-8." in result.err


def test_a_damaged_record_is_reported(protoseg: CommandLine, page: Path) -> None:
    damaged = protoseg.record(protoseg.quickstart()[3], 70.0)
    damaged.write_text(damaged.read_text().replace('"miou": 70.0', '"miou": 99.0'))
    result = protoseg("fill", str(page), "--check")
    assert result.status == 1
    assert "edited or damaged record" in result.err


def test_the_numbers_of_the_committed_pages_follow_from_the_records(
    protoseg: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    result = protoseg("fill", "--check", "--results", str(REPOSITORY / "results"), "--json")
    assert result.json["problems"] == []
    assert [page for page in result.json["pages"] if page["changes"]] == []
    assert sum(page["numbers"] for page in result.json["pages"]) >= 160
    assert result.status == 0
