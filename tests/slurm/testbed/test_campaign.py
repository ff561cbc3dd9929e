"""The short form of the fault campaign: real runs on a real SLURM, and what goes wrong on one.

The long form is `python tests/campaigns/slurm/campaign.py`; its reports are in results/campaigns.
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
"""For a whole campaign, which takes one to two minutes on two cores."""
NOT_HERE = 3


def run_campaign(report: Path, *words: str) -> dict[str, Any]:
    """Run a campaign, and return what it wrote down."""
    command = [sys.executable, str(ROOT / "slurm" / "campaign.py"), "--report", str(report)]
    # Trainings wait for the faults, and a busy machine has time to react: no order of the two, and
    # no speed, is taken for granted.
    command += ["--paced", "--margin", "4", "--limit", str(LIMIT_SECONDS), *words]
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
        process.send_signal(signal.SIGINT)  # it ends its testbed and unmounts its disk
        finish(process)
        raise AssertionError(f"the campaign does not end: {command}") from None
    if process.returncode == NOT_HERE:
        pytest.skip(f"no fault campaign here: {out.strip()}")
    assert report.exists(), out
    found: dict[str, Any] = json.loads(report.with_suffix(".json").read_text())
    assert found["wrong"] == [], out
    assert process.returncode == 0, out
    return found


def kinds(found: dict[str, Any]) -> set[str]:
    """The faults that were injected."""
    return {event["kind"] for event in found["events"]}


def test_every_run_survives_a_short_campaign_and_each_reason_is_right(
    cluster: Testbed, tmp_path: Path
) -> None:
    faults = "kill_worker,cancel,requeue,preempt,two_sweeps,sweep_killed,controller,disk_full"
    found = run_campaign(
        tmp_path / "report.md",
        *("--testbed", str(cluster.folder)),
        *("--runs", "4", "--faults", "8", "--kinds", faults, "--pause", "2"),
        *("--iterations", "40", "--undisturbed", "1"),
    )
    assert len({attempt["run"] for attempt in found["attempts"]}) == 4
    faults_done = [event for event in found["events"] if event["kind"] != "sweep"]
    assert (len(faults_done), found["too_late"]) == (8, [])
    assert len(kinds(found)) > 4
    assert len(found["same_bits"]) == 2


@pytest.mark.slow
def test_the_same_without_accounting(tmp_path: Path) -> None:
    """On a testbed of its own: the shared one keeps accounts."""
    found = run_campaign(
        tmp_path / "report.md",
        *("--runs", "4", "--faults", "4", "--kinds", "kill_worker,scancel,requeue,node_dead"),
        *("--iterations", "40", "--undisturbed", "0", "--pause", "2", "--no-accounting"),
    )
    assert len({attempt["run"] for attempt in found["attempts"]}) == 4
    faults_done = [event for event in found["events"] if event["kind"] != "sweep"]
    assert (len(faults_done), found["too_late"]) == (4, [])
