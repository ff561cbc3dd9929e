"""The record of a choice: which trial of each row of a search gives the settings of its final runs.

A choice is sealed JSON (`protoseg.runs.sealed`; `FORMAT` names the keys). It has no time and no
machine: the same records of trials give the same bytes.
"""

from __future__ import annotations

import json
from typing import Any

from protoseg.runs.sealed import SealedFormat

CHOICES = "choices"
"""Folder of choices, in the folder of runs and in that of results."""

FORMAT = SealedFormat(
    "choice",
    1,
    {
        "matrix": str,
        "overrides": list,
        "block": dict,  # the block `tune` of the matrix
        # SHA-256 of the block, the names of the rows and the ids of all trials
        "block_digest": str,
        "metric": str,
        "on": str,  # the split, or holdout
        "rule": str,
        "tie_rule": str,
        "allow_missing": bool,
        # {row, axes, spaces, trials: [{number, run_id, values, value}], chosen, at_edge}; with a
        # successive halving rungs: [{iterations, trials: [{number, run_id, value}], promoted}],
        # and stopped_after of the trials that were not trained to the end
        "rows": list,
    },
)
read_choice = FORMAT.read_file
write_choice = FORMAT.write_once


def seal_choice(choice: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a choice with its digest; see `SealedFormat.seal`."""
    # Tuples become lists, so that the digest of what is read is the one of what is written.
    content: dict[str, Any] = json.loads(json.dumps(choice))
    return FORMAT.seal(content)
