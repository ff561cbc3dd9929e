"""The notebook of docs/examples runs, and has outputs without a path of a machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from notebooks import execute_notebook, read_code_cells

from inference.conftest import FinishedRuns

NOTEBOOK = Path(__file__).parents[2] / "docs" / "examples" / "prediction.ipynb"


def test_the_notebook_runs(
    finished: FinishedRuns, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROTOSEG_RUNS", str(finished["prototype"].path.parent))
    monkeypatch.setenv("PROTOSEG_DATA", str(data))
    outputs = execute_notebook(NOTEBOOK)
    figures = [o for cell in outputs for o in cell if "image/png" in o.get("data", {})]
    assert len(figures) == 2


def test_the_notebook_has_outputs() -> None:
    cells = read_code_cells(json.loads(NOTEBOOK.read_text(encoding="utf-8")))
    assert all(cell["outputs"] for cell in cells)
    assert "/home" not in NOTEBOOK.read_text(encoding="utf-8")
    assert NOTEBOOK.stat().st_size < 200_000
