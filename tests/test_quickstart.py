"""`make quickstart`, as a new user types it: the matrix, the table in all forms, and again."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def recipe_lines() -> list[list[str]]:
    """The commands of the Makefile's target, with this interpreter in place of the venv's."""
    result = subprocess.run(
        ["make", "-n", "quickstart", "READY=/dev/null", "BIN=BIN"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split() for line in result.stdout.splitlines() if line.startswith("BIN/protoseg")]
    assert len(lines) == 2, result.stdout
    return [[sys.executable, "-m", "protoseg.cli", *line[1:]] for line in lines]


@pytest.mark.slow
def test_the_quickstart_ends_with_a_table_and_finds_everything_done_again(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PROTOSEG_RUNS": str(tmp_path / "runs"),
        "PROTOSEG_DATA": str(tmp_path / "data"),
        "PROTOSEG_RESULTS": str(tmp_path / "results"),
    }

    def make_quickstart() -> str:
        out = ""
        for line in recipe_lines():
            result = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
            assert result.returncode == 0, result.stdout + result.stderr
            out += result.stdout
        return out

    first = make_quickstart()
    assert first.count("done     shapes-") == 9
    assert "ProtoSeg, K = 4" in first
    tables = tmp_path / "results" / "tables"
    for ending in ("md", "tex", "csv", "html"):
        assert (tables / f"quickstart.{ending}").stat().st_size > 0
    with open(tables / "quickstart.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "miou"]
    means = {row["label"]: float(row["mean"]) for row in rows}
    assert len(means) == 3
    # Trained, not merely run: a model that says "ground" everywhere reaches 14 %.
    assert min(means.values()) > 40, means

    begun = time.monotonic()
    again = make_quickstart()
    assert "Nothing to do" in again
    assert "started" not in again
    assert re.sub(r"\s+", " ", again).count("ProtoSeg, K = 4") == 1
    # Not a measurement: training anything takes far longer than this.
    assert time.monotonic() - begun < 60
