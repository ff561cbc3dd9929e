"""Committed records for tests: the parametric runs of the matrix `camvid_methods`."""

from __future__ import annotations

import json
from pathlib import Path

RECORDS = Path(__file__).parents[1] / "results" / "records"


def parametric_on_camvid(*prototypes: int) -> list[Path]:
    """The records of runs with these numbers of prototypes per class, sorted by file name."""
    paths = []
    for path in sorted(RECORDS.glob("camvid-*-parametric-k*.json")):
        spec = json.loads(path.read_text())["spec"]
        is_of_matrix = not spec.get("contrast") and spec["precision"] == "fp32"
        if is_of_matrix and spec["method"]["num_prototypes"] in prototypes:
            paths.append(path)
    return paths
