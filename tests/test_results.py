"""What is committed under results/ is whole, and the tables follow from the records alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protoseg.runs.record import read_record, verify_confusion
from protoseg.spec.identity import run_id, spec_from_dict

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
RECORDS = sorted((RESULTS / "records").glob("*.json"))
TABLES = sorted(path.stem for path in (RESULTS / "tables").glob("camvid_*.tex"))


def test_there_are_records_and_tables() -> None:
    assert RECORDS
    assert "camvid_methods" in TABLES


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_is_whole_and_its_metrics_follow_from_its_counts(path: Path) -> None:
    record = read_record(path)
    assert run_id(spec_from_dict(record["spec"], path.name)) == path.stem == record["run_id"]
    counts = path.with_suffix(".npz")
    verify_confusion(record, counts)
    iou, accuracy = _iou_and_accuracy(np.load(counts))
    assert record["metrics"]["miou"] == pytest.approx(100 * np.nanmean(iou), abs=1e-9)
    assert record["metrics"]["aacc"] == pytest.approx(100 * accuracy, abs=1e-9)


def _iou_and_accuracy(counts: Any) -> tuple[Any, float]:
    classes = int(counts["num_classes"])
    matrix = np.zeros((classes, classes))
    np.add.at(matrix.reshape(-1), counts["cell"], counts["count"])
    hit = np.diag(matrix)
    with np.errstate(invalid="ignore"):
        return hit / (matrix.sum(0) + matrix.sum(1) - hit), float(hit.sum() / matrix.sum())


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_tells_no_path_and_no_host_and_a_clean_commit(path: Path) -> None:
    record = json.loads(path.read_text())
    text = path.read_text()
    assert "/home/" not in text
    assert "/root/" not in text
    assert record["provenance"]["dirty"] is False
    assert len(record["provenance"]["commit"]) == 40


@pytest.mark.parametrize("name", TABLES)
def test_a_committed_table_is_what_the_records_give(name: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PROTOSEG_RUNS": str(tmp_path / "runs")}
    result = subprocess.run(
        [sys.executable, "-m", "protoseg.cli", "tables", name, "--out", str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    for path in sorted((RESULTS / "tables").glob(f"{name}*")):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("name", TABLES)
def test_the_readme_shows_the_table_as_it_is(name: str) -> None:
    rows = [
        line
        for line in (RESULTS / "tables" / f"{name}.md").read_text().splitlines()
        if line.startswith("|")
    ]
    readme = (ROOT / "README.md").read_text()
    assert rows
    assert [row for row in rows if row not in readme] == []
