"""Committed records that tests read: the parametric runs of the matrix `camvid_methods`."""

from __future__ import annotations

import json
from pathlib import Path

RECORDS = Path(__file__).parents[1] / "results" / "records"


def parametric_on_camvid(*prototypes: int) -> list[Path]:
    """Their files, sorted by name; with these numbers of prototypes."""
    found = []
    for path in sorted(RECORDS.glob("camvid-*-parametric-k*.json")):
        spec = json.loads(path.read_text())["spec"]
        alone = not spec.get("contrast") and spec["precision"] == "fp32"
        if alone and spec["method"]["num_prototypes"] in prototypes:
            found.append(path)
    return found
