"""A page in a browser: sorting, filter, runs behind a cell, keyboard, lines, accessibility."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from protoseg.report.page import site
from protoseg.report.page.builder import build_page
from protoseg.report.page.examples import make_examples
from protoseg.report.page.live import LiveRun, render_live_page
from report.figures.searches import choose, finish_trials, make_search
from report.lab import Lab, make_matrix, method
from report.page.browser import Browser, browser  # noqa: F401  a fixture

pytestmark = pytest.mark.slow

ROWS = {"parametric 1": 71.0, "parametric 10": 9.5, "prototype 1": 80.25, "prototype 10": 76.5}
"""Label -> mIoU of seed 0; the mean is 1 higher. As text, 9.5 would be the largest."""
MISSING = "prototype 5"
AXE = """() => axe.run(document, {resultTypes: ["violations"]}).then(
  (result) => result.violations.map((v) => [v.id, ...v.nodes.map((n) => n.html)].join("\\n")))"""


GRASS = np.repeat([[0, 0, 1, 1]], 3, axis=0)
"""A label map, (3, 4): grass on the left."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page of a matrix, that of a search, and an index."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    planned = []
    for name in (*ROWS, MISSING):
        for seed in range(3):
            spec = method(name, seed)
            planned.append((spec, {"label": name}))
            if name in ROWS:
                losses = [[i, {"loss": 3.0 / i + seed}] for i in (10, 20, 30)]
                lab.finish(spec, ROWS[name] + seed, losses=losses)
    lab.fail(method(MISSING, 0), "out_of_memory", "CUDA out of memory")
    matrix = make_matrix(planned, "plain", metrics=("miou", "macc"),
                         baseline={"label": "parametric 1"})  # fmt: skip
    maps = {
        "a.png": {"Ground truth": GRASS, "prototype 1": 1 - GRASS},
        "b.png": {"Ground truth": GRASS},
    }
    examples = make_examples(maps, ["grass", "sky"], [(0, 128, 0), (0, 0, 255)])
    pages = [dataclasses.replace(build_page(matrix, lab.store, []), examples=examples)]
    search = make_search(["Linear", "Proto 1"])
    finish_trials(lab, search)
    pages.append(build_page(choose(lab, search), lab.store, []))
    for page in pages:
        site.write_page(lab.folder / f"{page.name}.html", site.render_page(page, site.INDEX))
    losses, time = (3.0, 2.0), "2026-01-01 00:00:00 UTC"
    run = LiveRun("r-1", "a", "running", 30, 550, losses, "2.50", "4 min", "gpu7", 1, "", "")
    live = render_live_page("plain", [run], time, ["a damaged record"])
    site.write_page(lab.folder / "live.html", live)
    site.write_page(lab.folder / site.INDEX, site.render_index(list(map(site.make_entry, pages))))
    return lab.folder


@pytest.fixture
def page(folder: Path, browser: Browser) -> Iterator[Any]:  # noqa: F811
    """The page of a matrix; the console must stay empty."""
    browser.errors.clear()
    with browser.open_page(folder / "plain.html") as opened:
        yield opened
    assert browser.errors == []


def labels(page: Any) -> list[str]:
    """The rows of the main table that are shown, from the top."""
    rows = page.locator("#main table.data > tbody > tr:visible > th")
    return list(rows.all_inner_texts())


def test_a_column_is_sorted_by_its_numbers(page: Any) -> None:
    header = page.locator("#main th", has_text="mIoU").get_by_role("button")
    first = labels(page)
    assert first == [*ROWS, MISSING]
    rising = sorted(ROWS, key=lambda name: ROWS[name])
    header.click()
    assert labels(page) == [*rising, MISSING]
    assert page.locator("#main th[aria-sort=ascending]").inner_text().startswith("mIoU")
    header.click()
    assert labels(page) == [*reversed(rising), MISSING]
    header.click()
    assert labels(page) == first
    assert page.locator("[aria-sort]").count() == 0


def test_a_column_is_sorted_with_the_keyboard(page: Any) -> None:
    page.locator("#main th", has_text="mIoU").get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert labels(page)[0] == "parametric 10"
    page.keyboard.press("Space")
    assert labels(page)[0] == "prototype 1"


def test_rows_are_filtered(page: Any) -> None:
    field = page.locator("#main").get_by_label("Filter rows")
    field.fill("PROTO 10")
    assert labels(page) == ["prototype 10"]
    assert page.locator("#main output").inner_text() == "1 of 5 rows"
    # Another table keeps its rows.
    assert page.locator("#compared tbody tr:visible").count() == 4
    field.fill("")
    assert labels(page) == [*ROWS, MISSING]


def test_the_runs_behind_a_cell_are_shown_at_the_pointer(page: Any) -> None:
    tip = page.locator("#tip")
    link = page.locator("#main tbody tr", has_text="prototype 10").locator("a.cell").first
    assert tip.is_hidden()
    link.hover()
    assert tip.locator("tbody tr").all_inner_texts() == [
        f"{seed}\t{76.5 + seed:.4f}\tdone\t0123456789\tNVIDIA H200\t2026-01-0{2 + seed} 00:00\t1"
        for seed in range(3)
    ]
    # The pointer may go onto them, to select a commit.
    tip.hover()
    assert tip.is_visible()
    page.mouse.move(2, 2)
    tip.wait_for(state="hidden")


def test_the_runs_behind_a_cell_are_reached_with_the_keyboard(page: Any) -> None:
    link = page.locator("#main tbody a.cell").first
    page.locator("#main .scroll").first.focus()
    for _ in range(5):  # four headers, then the first cell
        page.keyboard.press("Tab")
    assert link.evaluate("e => e === document.activeElement")
    assert page.locator("#tip").is_visible()
    assert link.get_attribute("aria-describedby") == "tip"
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    assert link.get_attribute("aria-describedby") is None
    page.keyboard.press("Enter")
    detail = page.locator(link.get_attribute("href"))
    detail.wait_for(state="visible")
    assert "71.0000" in detail.inner_text()


def test_a_failed_run_is_behind_its_cell(page: Any) -> None:
    page.locator("#main tbody tr", has_text=MISSING).locator("a.cell").first.hover()
    assert "failed: out_of_memory: CUDA out of memory" in page.locator("#tip").inner_text()


def test_lines_of_a_chart_are_switched(page: Any) -> None:
    figure = page.locator("figure", has_text="Training loss")
    line = figure.locator(".series").nth(2)
    box = figure.get_by_label("prototype 1", exact=True)
    assert line.is_visible()
    box.uncheck()
    assert line.is_hidden()
    assert figure.locator(".series:visible").count() == 3
    box.focus()
    page.keyboard.press("Space")
    assert line.is_visible()
    figure.get_by_label("All", exact=True).uncheck()
    assert figure.locator(".series:visible").count() == 0
    box.check()
    assert figure.locator(".series:visible").count() == 1


def read_pixel(page: Any, picture: Any, share: float) -> tuple[int, ...]:
    """The colour that a reader sees at a share of the width of a picture."""
    box = picture.bounding_box()
    spot = {"x": box["x"] + share * box["width"], "y": box["y"] + box["height"] / 2,
            "width": 1, "height": 1}  # fmt: skip
    return Image.open(io.BytesIO(page.screenshot(clip=spot))).convert("RGB").getpixel((0, 0))


def test_label_maps_are_compared_with_a_slider(page: Any) -> None:
    example = page.locator(".example").first
    stage, slider = example.locator(".stage"), example.get_by_label("Border")
    stage.scroll_into_view_if_needed()
    grass, sky = (0, 128, 0), (0, 0, 255)
    # Left of the border is the ground truth, right of it the prediction, which is inverted.
    assert [read_pixel(page, stage, x) for x in (0.1, 0.9)] == [grass, grass]
    slider.focus()
    page.keyboard.press("End")
    assert [read_pixel(page, stage, x) for x in (0.1, 0.9)] == [grass, sky]
    page.keyboard.press("Home")
    assert [read_pixel(page, stage, x) for x in (0.1, 0.9)] == [sky, grass]
    example.get_by_label("Right").select_option("Ground truth")
    assert [read_pixel(page, stage, x) for x in (0.1, 0.9)] == [grass, sky]
    # With one label map there is nothing to compare.
    assert page.locator(".example").nth(1).locator(".compare").is_hidden()


def test_a_command_is_copied(folder: Path, browser: Browser) -> None:  # noqa: F811
    rights = ["clipboard-read", "clipboard-write"]
    with browser.open_page(folder / "plain.html", permissions=rights) as page:
        row = page.locator(".command", has_text="prototype-k10")
        row.get_by_role("button").click()
        row.get_by_text("Copied").wait_for()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == row.locator("code").inner_text()
        assert copied.count("protoseg reproduce") == 3


def test_without_script_everything_is_readable(folder: Path, browser: Browser) -> None:  # noqa: F811
    with browser.open_page(folder / "plain.html", java_script_enabled=False) as page:
        assert labels(page) == [*ROWS, MISSING]
        assert page.locator("button:visible, input:visible").count() == 0
        assert page.locator("figure svg .path:visible").count() == len(ROWS)
        page.locator("#main tbody a.cell").first.click()
        detail = page.locator("#main-1-2")
        detail.wait_for(state="visible")  # the browser opens the list around it
        assert "71.0000" in detail.inner_text()
        page.locator("#main details.runs > summary").click()


@pytest.mark.parametrize("name", ["plain", "test", "index", "live"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_accessibility_check_is_clean(
    folder: Path,
    browser: Browser,  # noqa: F811
    name: str,
    scheme: str,
) -> None:
    axe = pytest.importorskip("axe_playwright_python", reason="axe is not installed")
    source = (Path(axe.__file__).parent / "axe.min.js").read_text()
    with browser.open_page(folder / f"{name}.html", color_scheme=scheme) as page:
        for details in page.locator("details").all():
            details.evaluate("e => { e.open = true; }")
        if page.locator("a.cell").count():
            page.locator("a.cell").first.focus()
        page.evaluate(source)
        assert page.evaluate(AXE) == []


@pytest.mark.parametrize("name", ["plain", "test", "index", "live"])
@pytest.mark.parametrize("width", [360, 1200])
def test_only_boxes_scroll_sideways(
    folder: Path,
    browser: Browser,  # noqa: F811
    name: str,
    width: int,
) -> None:
    with browser.open_page(folder / f"{name}.html", width=width) as page:
        for details in page.locator("details").all():
            details.evaluate("e => { e.open = true; }")
        if page.locator("a.cell").count():
            page.locator("a.cell").first.focus()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_print_has_tables_and_charts_without_controls(page: Any) -> None:
    page.emulate_media(media="print")
    assert labels(page) == [*ROWS, MISSING]
    assert page.locator("nav:visible, button.copy:visible, input:visible").count() == 0
    assert page.locator("svg.chart:visible").count() == 2
    assert page.locator("#main .data").evaluate("e => getComputedStyle(e).backgroundColor") in (
        "rgba(0, 0, 0, 0)", "rgb(255, 255, 255)",
    )  # fmt: skip


def test_the_index_leads_to_the_pages(folder: Path, browser: Browser) -> None:  # noqa: F811
    with browser.open_page(folder / "index.html") as page:
        page.get_by_role("link", name="plain").click()
        page.get_by_role("link", name="All matrices").click()
        assert page.locator("table.data tbody tr").count() == 2


def test_the_page_of_running_runs_reloads_unless_paused(
    folder: Path,
    browser: Browser,  # noqa: F811
) -> None:
    with browser.open_page(folder / "live.html") as page:
        page.clock.install()
        page.reload()
        page.evaluate("window.isFirst = true")
        page.get_by_label("Reload every 5 s").uncheck()
        page.clock.run_for(20_000)
        assert page.evaluate("window.isFirst") is True
        page.get_by_label("Reload every 5 s").check()
        with page.expect_navigation():
            page.clock.run_for(6_000)
        assert page.evaluate("window.isFirst") is None
