"""The short form of the fault campaign: real runs on a real SLURM, and what goes wrong on one.

The long form is `python slurm/campaign.py`; its reports are in results/campaigns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 900.0
"""Seconds before it is given up; it takes about two minutes on two cores."""
NOT_HERE = 3


def campaign(report: Path, *words: str) -> dict[str, Any]:
    """Run a campaign on a testbed of its own; what it wrote down."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "slurm" / "campaign.py"), "--report", str(report), *words],
        env={key: value for key, value in os.environ.items() if not key.startswith("SLURM")},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode == NOT_HERE:
        pytest.skip(f"no fault campaign here: {done.stderr.strip()}")
    assert report.exists(), done.stdout + done.stderr
    found: dict[str, Any] = json.loads(report.with_suffix(".json").read_text())
    assert found["wrong"] == [], done.stdout
    assert done.returncode == 0
    return found


def kinds(found: dict[str, Any]) -> set[str]:
    """The faults that were injected."""
    return {event["kind"] for event in found["events"]}


@pytest.mark.slow
def test_every_run_survives_a_short_campaign_and_each_reason_is_right(tmp_path: Path) -> None:
    faults = "kill_worker,cancel,requeue,preempt,two_sweeps,sweep_killed,controller,disk_full"
    found = campaign(
        tmp_path / "report.md",
        *("--runs", "6", "--faults", "8", "--kinds", faults, "--pause", "4"),
        *("--iterations", "500", "--undisturbed", "1"),
    )
    assert len({attempt["run"] for attempt in found["attempts"]}) == 6
    faults_done = [event for event in found["events"] if event["kind"] != "sweep"]
    assert len(faults_done) + len(found["too_late"]) >= 8
    assert len(found["too_late"]) <= 3, "on a fast day the runs are done before the last ones"
    assert len(kinds(found)) > 4
    assert len(found["same_bits"]) == 2


@pytest.mark.slow
def test_the_same_without_accounting(tmp_path: Path) -> None:
    found = campaign(
        tmp_path / "report.md",
        *("--runs", "4", "--faults", "4", "--kinds", "kill_worker,scancel,requeue,node_dead"),
        *("--iterations", "400", "--undisturbed", "0", "--pause", "4", "--no-accounting"),
    )
    assert len({attempt["run"] for attempt in found["attempts"]}) == 4
    assert len([event for event in found["events"] if event["kind"] != "sweep"]) >= 4
