"""What is committed under results/ is whole, and the tables follow from the records alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
RECORDS = sorted((RESULTS / "records").glob("*.json"))
TABLES = sorted(path.stem for path in (RESULTS / "tables").glob("camvid_*.tex"))


def test_there_are_records_and_tables() -> None:
    assert RECORDS
    assert "camvid_methods" in TABLES


def test_verify_finds_every_record_sound_and_every_table_as_the_records_give_it() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PROTOSEG_")}
    result = subprocess.run(
        [sys.executable, "-m", "protoseg.cli", "verify", "--json"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    found = json.loads(result.stdout)
    assert [problem for check in found["checks"] for problem in check["problems"]] == []
    assert (found["sound"], result.returncode) == (True, 0)
    counts = {check["group"]: check["count"] for check in found["checks"]}
    assert counts["records"] == counts["counts"] == len(RECORDS)
    assert counts["metrics"] > 30 * len(RECORDS)
    # Each is written in four forms, and by class.
    assert counts["tables"] >= 5 * len(TABLES)


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_tells_no_path_and_no_host_and_a_clean_commit(path: Path) -> None:
    record = json.loads(path.read_text())
    text = path.read_text()
    assert "/home/" not in text
    assert "/root/" not in text
    assert record["provenance"]["dirty"] is False
    assert len(record["provenance"]["commit"]) == 40


def test_the_readme_shows_the_table_as_it_is() -> None:
    rows = [
        line
        for line in (RESULTS / "tables" / "camvid_methods.md").read_text().splitlines()
        if line.startswith("|")
    ]
    readme = (ROOT / "README.md").read_text()
    assert rows
    assert [row for row in rows if row not in readme] == []
