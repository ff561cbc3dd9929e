"""The checks of ``doctor`` that ask SLURM: state, text and advice of each finding."""

from __future__ import annotations

from pathlib import Path

import pytest

from protoseg.cli import slurm_checks
from protoseg.cli.slurm_checks import Finding, check_slurm
from protoseg.errors import ProtosegError
from protoseg.slurm.cluster_info import ClusterInfo, Partition
from protoseg.slurm.probe import ProbeResult

BATCH = Partition("batch", "UP", True, "2-00:00:00", 0, "REQUEUE", 4, 4, ("gpu:a100:8",))
SITE = {
    "reachable": True,
    "version": "23.11.4",
    "name": "borealis",
    "max_array_size": 1001,
    "max_job_count": 10000,
    "min_job_age_seconds": 300,
    "has_accounting": True,
    "job_requeue": True,
    "preempt_type": "preempt/partition_prio",
    "preempt_mode": "REQUEUE",
    "send_user_signal": False,
    "kill_wait_seconds": 30,
    "clock_ahead_seconds": 0.0,
    "partitions": (BATCH,),
}


def findings(
    monkeypatch: pytest.MonkeyPatch, partition: str | None = None, **changes: object
) -> dict[str, Finding]:
    """Subject -> finding, for the cluster SITE with changes; all but ok findings have advice."""
    monkeypatch.setattr(slurm_checks.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(slurm_checks, "query_cluster", lambda: ClusterInfo(**{**SITE, **changes}))  # type: ignore[arg-type]
    checked = check_slurm(Path("/scratch/runs"), partition)
    for finding in checked:
        assert finding.state == "ok" or finding.todo, "what to do is missing"
    return {finding.subject.removeprefix("SLURM: "): finding for finding in checked}


def test_a_working_cluster_has_only_ok_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = findings(monkeypatch)
    assert {finding.state for finding in checked.values()} == {"ok"}
    assert checked["SLURM"].found.startswith("23.11.4, cluster borealis")
    assert checked["partition batch"].found == (
        "4 of 4 nodes up; limit 2-00:00:00; gpu:a100:8; the default; preempted jobs: REQUEUE"
    )
    assert "1001" in checked["job arrays"].found
    assert "SIGTERM alone" in checked["preemption"].found


def test_slurm_is_absent_without_sbatch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_checks.shutil, "which", lambda name: None)
    (finding,) = check_slurm(Path("/scratch/runs"))
    assert finding.state == "absent"
    with_probe = check_slurm(Path("/scratch/runs"), "")
    assert [finding.state for finding in with_probe] == ["absent", "broken"]


@pytest.mark.parametrize(
    ("problem", "state"),
    [
        ("scontrol: Unable to contact slurm controller (connect failure)", "broken"),
        ("scontrol: Could not establish a configuration source", "absent"),
    ],
)
def test_an_unreachable_controller_is_broken_and_a_missing_configuration_absent(
    monkeypatch: pytest.MonkeyPatch, problem: str, state: str
) -> None:
    checked = findings(monkeypatch, reachable=False, problem=problem)
    assert [finding.state for finding in checked.values()] == [state]


@pytest.mark.parametrize(
    ("subject", "changes", "state", "text"),
    [
        ("accounting", {"has_accounting": False, "accounting_problem": "no sacct on this machine"},
         "absent", "no sacct"),
        ("job arrays", {"max_array_size": 0}, "broken", "MaxArraySize=0"),
        ("requeue", {"job_requeue": False}, "ok", "JobRequeue=0"),
        ("preemption", {"preempt_type": "preempt/none"}, "ok", "none"),
        ("preemption", {"send_user_signal": True}, "ok", "their --signal first"),
        ("partition batch", {"partitions": (Partition("batch", "DRAIN", True, "1:00", 0, "OFF"),)},
         "absent", "DRAIN"),
        ("partition batch", {"partitions": (Partition("batch", "UP", True, "1:00", 0, "OFF", 3),)},
         "absent", "0 of 3 nodes up"),
        ("clock of the controller", {"clock_ahead_seconds": 3.0}, "ok", "3 s ahead"),
        ("clock of the controller", {"clock_ahead_seconds": -20.0}, "absent", "20 s behind"),
        ("clock of the controller", {"clock_ahead_seconds": 90.0}, "broken", "90 s ahead"),
    ],
)  # fmt: skip
def test_a_setting_of_the_cluster_is_reported(
    monkeypatch: pytest.MonkeyPatch,
    subject: str,
    changes: dict[str, object],
    state: str,
    text: str,
) -> None:
    finding = findings(monkeypatch, **changes)[subject]
    assert finding.state == state
    assert text in finding.found


@pytest.mark.parametrize("mode", ["CANCEL", "OFF", "SUSPEND,GANG"])
def test_preemption_has_advice_if_a_run_may_lose_work(
    monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    assert findings(monkeypatch, preempt_mode=mode)["preemption"].todo


@pytest.mark.parametrize(
    ("result", "state", "text"),
    [
        (ProbeResult("7", "node3"), "ok", "job 7 on node3 reads and writes /scratch/runs"),
        (
            ProbeResult("7", problem="the job ended (FAILED), but nothing is seen"),
            "broken",
            "FAILED",
        ),
        (ProbeResult("7", problem="did not end (PENDING)", started=False), "absent", "PENDING"),
        (ProtosegError("the probe job was not submitted: no."), "broken", "not submitted"),
    ],
)
def test_the_result_of_the_probe_job_is_reported(
    monkeypatch: pytest.MonkeyPatch, result: ProbeResult | ProtosegError, state: str, text: str
) -> None:
    def probe(folder: Path, partition: str) -> ProbeResult:
        assert (folder, partition) == (Path("/scratch/runs"), "batch")
        if isinstance(result, ProtosegError):
            raise result
        return result

    monkeypatch.setattr(slurm_checks, "run_probe_job", probe)
    finding = findings(monkeypatch, "batch")["probe job"]
    assert finding.state == state
    assert text in finding.found


def test_a_probe_in_an_unknown_partition_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nowhere", "$(id)", "a b"):
        finding = findings(monkeypatch, name)["probe job"]
        assert finding.state == "broken"
        assert "batch" in finding.todo


def test_a_probe_compares_the_clock_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        slurm_checks,
        "run_probe_job",
        lambda *_: ProbeResult("7", "node3", clock_ahead_seconds=-400.0),
    )
    clock = findings(monkeypatch, "")["clock of node3"]
    assert clock.state == "broken"
    assert "400 s behind" in clock.found


def test_a_probe_reports_missing_commands_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        slurm_checks,
        "run_probe_job",
        lambda *_: ProbeResult("7", "node3", lacks=("scontrol", "protoseg")),
    )
    checked = findings(monkeypatch, "")
    assert checked["scontrol on node3"].state == "absent"
    assert checked["protoseg on node3"].state == "broken"
