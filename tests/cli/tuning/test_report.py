"""``protoseg report`` of a matrix with a search."""

from __future__ import annotations

from report.page.html_reader import read_html, read_rows

from cli.conftest import CommandLine
from cli.tuning.conftest import Tuned

VALUES = (40.0, 50.0, 45.0, 30.0, 20.0, 35.0)


def test_before_the_choice_the_page_has_the_trials(protoseg: CommandLine, tuned: Tuned) -> None:
    tuned.record_trials((*VALUES[:2], None, *VALUES[3:]))
    result = protoseg("report", tuned.path)
    assert result.status == 0
    page = read_html((protoseg.lab.folder / "pages" / "tuned.html").read_text())
    assert "5 of 6 trials have a record. No final run is planned yet" in page.text
    assert not page.find_all("section", id="tables")
    rows = read_rows(page.find("div", id="trials").find("table", **{"class": "data"}))
    assert [row[-2] for row in rows] == ["40.00", "50.00", "not run", "30.00", "20.00", "35.00"]


def test_after_the_choice_the_page_has_results_and_the_search(
    protoseg: CommandLine, tuned: Tuned
) -> None:
    tuned.record_trials(VALUES)
    finals = tuned.record_finals((2, 3))
    assert protoseg("sweep", tuned.path).status == 0
    assert protoseg("report", tuned.path).status == 0
    page = read_html((protoseg.lab.folder / "pages" / "tuned.html").read_text())
    assert f"{len(finals)} of {len(finals)} runs have a record." in page.text
    choices = [item.text for item in page.find("ul", **{"class": "choices"}).find_all("li")]
    first, second = choices
    assert "(trial 2 of 3, mIoU 50.00)" in first
    assert "(trial 3 of 3, mIoU 35.00)" in second
    limits = page.find("ol").find_all("li")[2].text
    assert "All rows were tuned with the same number of trials." in limits
    # The trials are selected on val, which the final runs report.
    assert "An oracle: settings are selected on images that the table reports." in limits
    assert "With fewer than 3 seeds nothing is tested." in limits
    shown = read_rows(page.find("div", id="trials").find("table", **{"class": "data"}))
    assert [row[-2] for row in shown if "chosen" in row[-2]] == ["50.00 (chosen)", "35.00 (chosen)"]
