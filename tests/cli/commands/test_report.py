"""``protoseg report``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from report.page.html_reader import read_html, read_rows

from cli.conftest import CommandLine


def test_a_page_is_written_into_the_results_folder(protoseg: CommandLine) -> None:
    for run in protoseg.quickstart():
        protoseg.record(run, 50.0 + run.spec.seed)
    result = protoseg("report", "quickstart")
    assert (result.status, result.err) == (0, "")
    path = protoseg.lab.folder / "pages" / "quickstart.html"
    assert "9 of 9 runs have a record." in result.out
    assert [each.name for each in path.parent.iterdir()] == ["quickstart.html"]
    table = read_html(path.read_text()).find("div", id="main").find("table", **{"class": "data"})
    assert {row[1] for row in read_rows(table)} == {"51.00 ± 1.00"}


def test_a_call_without_a_matrix_is_refused(protoseg: CommandLine) -> None:
    result = protoseg("report")
    assert (result.status, result.out) == (2, "")
    assert result.err == "protoseg report: no matrix is named. Name one, or write --all.\n"
    result = protoseg("report", "quickstart", "--all")
    assert result.status == 2
    assert "--all takes every matrix" in result.err


def test_an_unknown_matrix_is_refused(protoseg: CommandLine) -> None:
    result = protoseg("report", "quikstart")
    assert result.status == 2
    assert "Did you mean 'quickstart'?" in result.err
    assert not (protoseg.lab.folder / "pages").exists()


def test_a_foreign_file_is_kept(protoseg: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    foreign = tmp_path / "site" / "quickstart.html"
    foreign.write_text("mine")
    result = protoseg("report", "quickstart", "--into", str(tmp_path / "site"))
    assert result.status == 2
    assert f"{foreign}: is not a page of protoseg" in result.err
    assert foreign.read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_named(protoseg: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = protoseg("report", "quickstart", "--into", str(tmp_path / "file" / "site"))
    assert result.status == 1
    assert str(tmp_path / "file") in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into every folder")
def test_a_folder_without_permission_is_named(protoseg: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir(mode=0o555)
    result = protoseg("report", "quickstart", "--into", str(tmp_path / "site"))
    assert result.status == 1
    assert str(tmp_path / "site") in result.err


def test_several_matrices_have_an_index(protoseg: CommandLine, tmp_path: Path) -> None:
    out = tmp_path / "site"
    result = protoseg("report", "quickstart", "question_init", "--into", str(out), "--json")
    assert (result.status, result.err) == (0, "")
    assert list(result.json["pages"]) == ["quickstart", "question_init", "index"]
    index = read_html((out / "index.html").read_text())
    links = [link.attributes["href"] for link in index.find_all("a")]
    assert links == ["quickstart.html", "question_init.html"]
    assert sorted(each.name for each in out.iterdir()) == sorted(["index.html", *links])
    first = read_html((out / "quickstart.html").read_text()).find("nav").find_all("a")[0]
    assert first.attributes["href"] == "index.html"


def test_with_overrides_the_page_of_the_matrix_is_not_replaced(protoseg: CommandLine) -> None:
    assert protoseg("report", "quickstart").status == 0
    assert protoseg("report", "quickstart", "schedule.iterations=400").status == 0
    pages = protoseg.lab.folder / "pages"
    (changed,) = pages.glob("overrides-*/quickstart.html")
    text = changed.read_text()
    for verb in ("sweep", "tables"):
        assert f"protoseg {verb} quickstart schedule.iterations=400" in text
    assert "Made with overrides: schedule.iterations=400." in text
    assert "schedule.iterations=400" not in (pages / "quickstart.html").read_text()


def test_a_damaged_record_is_reported(protoseg: CommandLine) -> None:
    path = protoseg.record(protoseg.quickstart()[0], 50.0)
    path.write_text(path.read_text().replace("50.0", "51.0"))
    result = protoseg("report", "quickstart")
    assert result.status == 1
    assert "damaged record" in result.err
    assert "damaged record" in (protoseg.lab.folder / "pages" / "quickstart.html").read_text()


def test_of_several_matrices_one_without_a_table_is_named(
    protoseg: CommandLine, tmp_path: Path
) -> None:
    run = protoseg.quickstart()[0]
    protoseg.record(run, 70.0)
    protoseg.record(run, 71.0, in_runs=True)
    alone = protoseg("report", "quickstart")
    assert (alone.status, alone.out) == (1, "")
    out = tmp_path / "site"
    result = protoseg("report", "quickstart", "question_init", "--into", str(out))
    assert result.status == 1
    assert run.run_id in result.err
    assert sorted(each.name for each in out.iterdir()) == ["index.html", "question_init.html"]
    assert "No page: " in read_html((out / "index.html").read_text()).text
