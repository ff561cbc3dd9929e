"""``protoseg status --html``: the page of running runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from report.page.html_reader import Element, read_html

from cli.conftest import CommandLine
from protoseg.cli.commands import status
from protoseg.planning.plan import Plan
from protoseg.runs import claim
from protoseg.runs.folder import RunFolder
from protoseg.runs.states import Reason, State


def start(protoseg: CommandLine, index: int, losses: list[float]) -> RunFolder:
    """A run of the quickstart that has logged these losses, one every 10 iterations."""
    folder = protoseg.lab.start(protoseg.quickstart()[index].spec)
    folder.start_attempt({"iteration": 0, "node": "gpu7"})
    points = [[10 * i, loss] for i, loss in enumerate(losses, 1)]
    progress = {"iteration": 10 * len(losses), "iterations": 550, "iterations_per_second": 2.5,
                "losses": points, "evaluation": {"iteration": 20, "miou": 43.21}}  # fmt: skip
    folder.progress.write_text(json.dumps(progress))
    return folder


def read_rows(path: Path) -> list[dict[str, Element]]:
    """The rows of the page: title of a column -> its cell."""
    table = read_html(path.read_text()).find("table", **{"class": "data"})
    titles = [cell.text for cell in table.find("thead").find_all("th")]
    rows = table.find("tbody").find_all("tr")
    cells = [[c for c in row.find_all("*") if c.name in ("td", "th")] for row in rows]
    return [dict(zip(titles, each, strict=True)) for each in cells]


def test_a_running_run_is_shown_first_with_its_loss(protoseg: CommandLine, tmp_path: Path) -> None:
    runs = protoseg.quickstart()
    protoseg.record(runs[0], 70.25)
    protoseg.lab.fail(runs[1].spec, "out_of_memory", "CUDA out of memory")
    folder = start(protoseg, 2, [4.0, 3.0, 2.0])
    held = claim.acquire(folder.claim)
    assert held is not None
    path = tmp_path / "live.html"
    result = protoseg("status", "quickstart", "--html", str(path))
    held.release()
    assert result.status == 1, "a run has failed"
    first, done, failed, *others = read_rows(path)
    texts = {title: cell.text for title, cell in first.items()}
    assert texts["Run"] == runs[2].run_id
    assert (texts["State"], texts["Progress"], texts["it/s"]) == ("running", "30/550", "2.50")
    assert (texts["Loss"], texts["mIoU"], texts["Node"]) == ("2.000", "43.21 at 20", "gpu7")
    points = [p.split(",") for p in first["Loss"].find("polyline").attributes["points"].split()]
    ys = [float(y) for _, y in points]
    assert ys[1] - ys[0] == pytest.approx(ys[2] - ys[1])
    assert ys[0] < ys[2]
    assert (done["State"].text, done["mIoU"].text) == ("done", "70.25")
    assert failed["State"].text == "failed"
    assert {row["State"].text for row in others} == {"new"}
    page = read_html(path.read_text())
    assert f"{runs[1].run_id} : out_of_memory: CUDA out of memory" in page.text
    assert "6 new" in page.text


def test_the_page_reloads_while_it_is_watched(
    protoseg: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, runs = tmp_path / "live.html", protoseg.quickstart()
    protoseg("status", "quickstart", "--html", str(path))
    page = read_html(path.read_text())
    assert not page.find_all("noscript"), "nothing writes the page again"
    assert "All runs have ended." not in page.text
    pages = []

    def finish_all(seconds: float) -> None:
        pages.append(read_html(path.read_text()))
        for run in runs:
            protoseg.record(run, 70.0)

    monkeypatch.setattr(status.time, "sleep", finish_all)
    protoseg("status", "quickstart", "--watch", "--html", str(path))
    (first,) = pages
    reload = first.find("noscript").find("meta", **{"http-equiv": "refresh"})
    assert reload.attributes["content"] == "5"
    page = read_html(path.read_text())
    assert not page.find_all("noscript")
    assert "All runs have ended." in page.text


def test_a_requeued_run_has_no_speed_and_node_of_its_earlier_attempt(
    protoseg: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, (run, *_) = tmp_path / "live.html", protoseg.quickstart()
    folder = start(protoseg, 0, [4.0])
    read_plan = status.read_plan

    def requeue(*arguments: object) -> Plan:
        plan = read_plan(*arguments)
        entries = [
            dataclasses.replace(
                entry,
                status=dataclasses.replace(
                    entry.status, state=State.QUEUED, reason=Reason.PREEMPTED, message="submitted"
                ),
            )
            if entry.run.run_id == folder.run_id
            else entry
            for entry in plan.entries
        ]
        return dataclasses.replace(plan, entries=tuple(entries))

    monkeypatch.setattr(status, "read_plan", requeue)
    protoseg("status", "quickstart", "--html", str(path))
    (row,) = [row for row in read_rows(path) if row["Run"].text == run.run_id]
    assert (row["State"].text, row["it/s"].text, row["Node"].text) == ("queued", "", "")
    text = read_html(path.read_text()).text
    assert "submitted" in text
    assert "preempted" not in text


def test_watching_writes_the_page_again(
    protoseg: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, runs = tmp_path / "live.html", protoseg.quickstart()
    read_plan, states = status.read_plan, []

    def finish_one_more(*arguments: object) -> Plan:
        # Each reading finds one more finished run.
        protoseg.record(runs[len(states)], 70.0)
        states.append(path.read_text() if path.exists() else "")
        return read_plan(*arguments)

    monkeypatch.setattr(status, "read_plan", finish_one_more)
    monkeypatch.setattr(status, "WATCH_SECONDS", 0.0)
    assert protoseg("status", "quickstart", "--watch", "--html", str(path)).status == 0
    assert len(states) == len(runs)
    assert len(set(states)) == len(runs)
    assert [row["State"].text for row in read_rows(path)] == ["done"] * len(runs)


def test_a_foreign_file_is_kept(protoseg: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "live.html"
    path.write_text("mine")
    result = protoseg("status", "quickstart", "--html", str(path))
    assert (result.status, path.read_text()) == (2, "mine")
    assert "is not a page of protoseg" in result.err
