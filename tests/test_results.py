"""The committed results are intact, and the tables follow from the records."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from protoseg.cli import main

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
RECORDS = sorted((RESULTS / "records").glob("*.json"))
TABLES = sorted(path.stem for path in (RESULTS / "tables").glob("*.md"))


def test_records_and_tables_are_committed() -> None:
    assert RECORDS
    assert "camvid_methods" in TABLES


def test_verify_finds_no_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("PROTOSEG_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(ROOT)
    status = main(["verify", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert [problem for check in report["checks"] for problem in check["problems"]] == []
    assert (report["sound"], status) == (True, 0)
    counts = {check["group"]: check["count"] for check in report["checks"]}
    assert counts["records"] == counts["counts"] == len(RECORDS)
    assert counts["metrics"] > 30 * len(RECORDS)
    # Four formats, the results per class, and the comparisons in two formats.
    assert counts["tables"] == 7 * len(TABLES)
    assert counts["pages"] >= 160


def test_records_have_a_clean_commit_and_no_local_path() -> None:
    texts = {path.name: path.read_text() for path in RECORDS}
    with_path = [name for name, text in texts.items() if "/home/" in text or "/root/" in text]
    assert not with_path
    origins = {name: json.loads(text)["provenance"] for name, text in texts.items()}
    assert not [name for name, origin in origins.items() if origin["dirty"] is not False]
    assert not [name for name, origin in origins.items() if len(origin["commit"]) != 40]


def test_a_readme_shows_the_committed_table() -> None:
    table, _, comparisons = (
        (RESULTS / "tables" / "camvid_methods.md").read_text().rpartition("\n## ")
    )
    assert ": comparisons\n" in comparisons
    rows = [line for line in table.splitlines() if line.startswith("|")]
    pages = [(folder / "README.md").read_text() for folder in (ROOT, RESULTS)]
    assert rows
    assert any(all(row in page for row in rows) for page in pages)
