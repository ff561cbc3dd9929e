"""Tests with short fault campaigns: real runs on a real SLURM.

Long campaigns: `python tests/campaigns/slurm/campaign.py`, with reports in results/campaigns.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from testbed.testbed import Testbed
from waiting import DEADLINE, finish

ROOT = Path(__file__).resolve().parents[3]
LIMIT_SECONDS = 10 * DEADLINE
"""Time limit of a campaign, which takes one to two minutes on two cores."""
UNAVAILABLE = 3


def run_campaign(report: Path, *arguments: str) -> dict[str, Any]:
    """Run a campaign, and return its JSON report."""
    command = [
        sys.executable,
        str(ROOT / "tests" / "campaigns" / "slurm" / "campaign.py"),
        "--report",
        str(report),
    ]
    # Trainings wait for the faults, and a busy machine has time to react.
    command += ["--paced", "--margin", "4", "--limit", str(LIMIT_SECONDS), *arguments]
    process = subprocess.Popen(
        command,
        env={key: value for key, value in os.environ.items() if not key.startswith("SLURM")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        out, _ = process.communicate(timeout=2 * LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # then it stops its testbed and unmounts its disk
        finish(process)
        raise AssertionError(f"the campaign does not end: {command}") from None
    if process.returncode == UNAVAILABLE:
        pytest.skip(f"a fault campaign cannot run: {out.strip()}")
    assert report.exists(), out
    report_data: dict[str, Any] = json.loads(report.with_suffix(".json").read_text())
    assert report_data["wrong"] == [], out
    assert process.returncode == 0, out
    return report_data


def fault_names(report_data: dict[str, Any]) -> set[str]:
    """Return the names of the injected faults."""
    return {event["kind"] for event in report_data["events"]}


def test_a_short_campaign_keeps_all_runs_with_correct_reasons(
    cluster: Testbed, tmp_path: Path
) -> None:
    faults = "kill_worker,cancel,requeue,preempt,two_sweeps,sweep_killed,controller,disk_full"
    report_data = run_campaign(
        tmp_path / "report.md",
        *("--testbed", str(cluster.folder)),
        *("--runs", "4", "--faults", "8", "--kinds", faults, "--pause", "2"),
        *("--iterations", "40", "--undisturbed", "1"),
    )
    assert len({attempt["run"] for attempt in report_data["attempts"]}) == 4
    faults_done = [event for event in report_data["events"] if event["kind"] != "sweep"]
    assert (len(faults_done), report_data["too_late"]) == (8, [])
    assert len(fault_names(report_data)) > 4
    assert len(report_data["same_bits"]) == 2


@pytest.mark.slow
def test_a_short_campaign_without_accounting(tmp_path: Path) -> None:
    """It needs its own testbed: the shared one has accounting."""
    report_data = run_campaign(
        tmp_path / "report.md",
        *("--runs", "4", "--faults", "4", "--kinds", "kill_worker,scancel,requeue,node_dead"),
        *("--iterations", "40", "--undisturbed", "0", "--pause", "2", "--no-accounting"),
    )
    assert len({attempt["run"] for attempt in report_data["attempts"]}) == 4
    faults_done = [event for event in report_data["events"] if event["kind"] != "sweep"]
    assert (len(faults_done), report_data["too_late"]) == (4, [])
