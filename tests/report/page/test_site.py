"""Pages as files: self-contained, escaped, reproducible, and what they replace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from protoseg.errors import UsageError
from protoseg.report.page import site
from protoseg.report.page.model import Chart, DotChart, DotRow, Series
from protoseg.report.page.svg import choose_ticks, draw_chart, draw_dots, draw_sparkline
from report.lab import Lab, make_matrix, method
from report.page.html_reader import read_html
from report.page.test_builder import make_page
from report.tables.test_builder import A, B, finish_all

ATTACK = '"><script>alert(1)</script> & <b>$x^{2}$</b> \u202eü'


def make_text(lab: Lab, label: str = B) -> str:
    """A page of two rows, the second with this label."""
    finish_all(lab, {A: [70.0, 71.0, 72.0], B: [75.0, 76.5, 78.5]})
    labels = {A: A, B: label}
    planned = [(method(n, s), {"label": labels[n]}) for n in (A, B) for s in range(3)]
    matrix = make_matrix(planned, baseline={"label": A}, caption=label)
    return site.render_page(make_page(lab, matrix))


def test_a_label_is_shown_as_text(lab: Lab) -> None:
    page = read_html(make_text(lab, ATTACK))
    (script,) = page.find_all("script")
    assert "alert" not in script.text
    assert not page.find_all("b")
    shown = ATTACK.replace("\u202e", "")
    table = page.find("div", id="main").find("table", **{"class": "data"})
    assert table.find_all("th", scope="row")[1].text == shown
    assert any(title.text == shown for title in page.find_all("title"))


def test_nothing_is_loaded_from_elsewhere(lab: Lab) -> None:
    text = make_text(lab)
    page = read_html(text)
    assert not re.search(r"""(?:src|href)=["'](?!#)""", text)
    assert not re.search(r"url\(|@import|https?://", text)
    assert not page.find_all("link")
    (policy,) = page.find_all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy.attributes["content"].startswith(
        "default-src 'none'; img-src data:; style-src 'sha256-"
    )
    assert "unsafe" not in policy.attributes["content"]
    # Neither inline styles nor inline handlers, which the policy would block.
    assert not re.search(r"""\s(?:style|on\w+)=""", text.replace("data-", ""))


def test_equal_records_give_equal_bytes(lab: Lab, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    other.mkdir()
    assert make_text(lab) == make_text(Lab(other))


def test_a_page_of_ours_is_replaced_and_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    first = site.render_index([])
    site.write_page(path, first)
    changed = path.stat().st_mtime_ns
    site.write_page(path, first)
    assert path.stat().st_mtime_ns == changed
    site.write_page(path, site.render_index([], "Others"))
    assert "<title>Others</title>" in path.read_text()
    path.write_text("<!doctype html><title>mine</title>")
    with pytest.raises(UsageError, match="is not a page of protoseg"):
        site.write_page(path, first)
    assert path.read_text() == "<!doctype html><title>mine</title>"
    with pytest.raises(UsageError, match="is a folder"):
        site.check_replaceable(tmp_path)


@pytest.mark.parametrize("name", ["index", "a/b", ".."])
def test_a_matrix_with_the_name_of_the_index_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="its page cannot be called"):
        site.name_file(name)


def test_the_index_shows_each_matrix_and_its_verdict(lab: Lab) -> None:
    finish_all(lab, {A: [70.0]})
    planned = [(method(A, 0), {"label": A})]
    page = make_page(lab, make_matrix(planned, name="k & k"))
    failed = site.IndexEntry("other", "Other", "", 0, 0, "", "No page: a reason")
    index = read_html(site.render_index([site.make_entry(page), failed]))
    (link,) = index.find_all("a")
    assert (link.attributes["href"], link.text) == ("k%20%26%20k.html", "k & k")
    assert "1 of 1" in index.text
    assert "No page: a reason" in index.text


def test_the_index_counts_clear_differences(lab: Lab) -> None:
    finish_all(lab, {A: [70.0, 71.0, 72.0], B: [75.0, 76.5, 78.5]})
    planned = [(method(n, s), {"label": n}) for n in (A, B) for s in range(3)]
    page = make_page(lab, make_matrix(planned, baseline={"label": A}))
    assert site.make_entry(page).result == (
        "1 of 1 tested differences in mIoU have an adjusted p < 0.05. Untuned."
    )


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), (38.0, 66.0, [40.0, 45.0, 50.0, 55.0, 60.0, 65.0]),
     (3.0, 3.0, [3.0])],
)  # fmt: skip
def test_ticks_are_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert choose_ticks(low, high) == pytest.approx(ticks)


def test_a_line_is_drawn_in_proportion() -> None:
    chart = Chart("t", "x", "y", (Series("a", (0, 1, 4), (0.0, 5.0, 20.0)),), ())
    (line,) = read_html(f"<p>{draw_chart(chart, 'c')}</p>").find_all("polyline")
    points = [tuple(map(float, p.split(","))) for p in line.attributes["points"].split()]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert (x1 - x0) / (x2 - x0) == pytest.approx(0.25, abs=0.002)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(0.25, abs=0.002)
    assert y2 < y0  # larger values are higher up


def test_a_logarithmic_axis_has_equal_steps_for_equal_factors() -> None:
    chart = Chart(
        "t", "x", "y", (Series("a", (1e-4, 1e-3, 1e-2), (1.0, 2.0, 3.0)),), (), "points", "log"
    )
    dots = read_html(f"<p>{draw_chart(chart, 'c')}</p>").find_all("circle")
    a, b, c = (float(dot.attributes["cx"]) for dot in dots)
    assert b - a == pytest.approx(c - b, abs=0.2)


def test_a_sparkline_skips_values_that_are_not_finite() -> None:
    spark = read_html(f"<p>{draw_sparkline([3.0, float('nan'), 1.0], 'loss')}</p>")
    assert len(spark.find("polyline").attributes["points"].split()) == 2


def test_everything_that_a_note_names_is_drawn() -> None:
    series = Series("a", (1, 2), (1.0, 2.0), (0.5, 1.5), (1.5, 2.5), ((0.9, 1.1), (2.0,)), ring=1)
    chart = Chart("t", "x", "y", (series,), (), "line", "linear", (1, 2), has_zero=True)
    page = read_html(f"<p>{draw_chart(chart, 'c')}</p>")
    counts = {
        name: len(page.find_all("*", **{"class": name}))
        for name in ("mean", "interval", "seed", "ring", "baseline", "path")
    }
    assert counts == {"mean": 2, "interval": 2, "seed": 3, "ring": 1, "baseline": 1, "path": 1}
    rows = (
        DotRow("a", (1.0, 2.0), 1.5, (1.0, 2.0), "", 1.75),
        DotRow("b", (), float("nan"), None, "not run"),
    )
    page = read_html(f"<p>{draw_dots(DotChart('t', 'x', rows, 'a', ()), 'c')}</p>")
    assert len(page.find_all("circle", **{"class": "published"})) == 1
    assert len(page.find_all("circle", **{"class": "seed"})) == 2
    assert len(page.find_all("line", **{"class": "baseline"})) == 1
    assert "not run" in page.text
