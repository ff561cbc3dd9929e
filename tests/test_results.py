"""What is committed under results/ is whole, and the tables follow from the records alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from protoseg.cli import main

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
RECORDS = sorted((RESULTS / "records").glob("*.json"))
TABLES = sorted(path.stem for path in (RESULTS / "tables").glob("camvid_*.tex"))


def test_there_are_records_and_tables() -> None:
    assert RECORDS
    assert "camvid_methods" in TABLES


def test_verify_finds_every_record_sound_and_every_table_as_the_records_give_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("PROTOSEG_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(ROOT)
    status = main(["verify", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [problem for check in found["checks"] for problem in check["problems"]] == []
    assert (found["sound"], status) == (True, 0)
    counts = {check["group"]: check["count"] for check in found["checks"]}
    assert counts["records"] == counts["counts"] == len(RECORDS)
    assert counts["metrics"] > 30 * len(RECORDS)
    # Each is written in four forms, and by class.
    assert counts["tables"] >= 5 * len(TABLES)


def test_records_name_a_clean_commit_and_neither_a_path_nor_a_host() -> None:
    texts = {path.name: path.read_text() for path in RECORDS}
    with_path = [name for name, text in texts.items() if "/home/" in text or "/root/" in text]
    assert not with_path
    origins = {name: json.loads(text)["provenance"] for name, text in texts.items()}
    assert not [name for name, origin in origins.items() if origin["dirty"] is not False]
    assert not [name for name, origin in origins.items() if len(origin["commit"]) != 40]


def test_the_readme_shows_the_table_as_it_is() -> None:
    rows = [
        line
        for line in (RESULTS / "tables" / "camvid_methods.md").read_text().splitlines()
        if line.startswith("|")
    ]
    readme = (ROOT / "README.md").read_text()
    assert rows
    assert [row for row in rows if row not in readme] == []
