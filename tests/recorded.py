"""Committed records for tests: the parametric runs of the matrix `camvid_methods`."""

from __future__ import annotations

import json
from pathlib import Path

RECORDS = Path(__file__).parents[1] / "results" / "records"


def parametric_on_camvid(*prototypes: int) -> list[Path]:
    """The records of `camvid_methods` with these numbers of prototypes, sorted by file name."""
    paths = []
    for path in sorted(RECORDS.glob("camvid-*-parametric-k*.json")):
        spec = json.loads(path.read_text())["spec"]
        is_short = spec["schedule"]["iterations"] == 300
        is_of_matrix = is_short and not spec.get("contrast") and spec["precision"] == "fp32"
        if is_of_matrix and spec["method"]["num_prototypes"] in prototypes:
            paths.append(path)
    return paths
