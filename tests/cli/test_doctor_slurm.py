"""The cluster part of doctor: every finding says what it means, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from protoseg.cli.commands import doctor_slurm
from protoseg.cli.commands.doctor_slurm import slurm
from protoseg.cli.commands.finding import Finding
from protoseg.errors import ProtosegError
from protoseg.slurm.cluster_info import Partition, Site
from protoseg.slurm.probe import Probe

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
    monkeypatch.setattr(doctor_slurm.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(doctor_slurm, "site", lambda: Site(**{**SITE, **changes}))  # type: ignore[arg-type]
    found = slurm(Path("/scratch/runs"), partition)
    for finding in found:
        assert finding.state == "ok" or finding.todo, "it says what to do"
    return {finding.subject.removeprefix("SLURM: "): finding for finding in found}


def test_a_fine_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(monkeypatch)
    assert {finding.state for finding in found.values()} == {"ok"}
    assert found["SLURM"].found.startswith("23.11.4, cluster borealis")
    assert found["partition batch"].found == (
        "4 of 4 nodes up; limit 2-00:00:00; gpu:a100:8; the default; preempted jobs: REQUEUE"
    )
    assert "1001" in found["job arrays"].found
    assert "SIGTERM alone" in found["preemption"].found


def test_no_sbatch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_slurm.shutil, "which", lambda name: None)
    (finding,) = slurm(Path("/scratch/runs"))
    assert finding.state == "absent"
    assert [f.state for f in slurm(Path("/scratch/runs"), "")] == ["absent", "broken"]


@pytest.mark.parametrize(
    ("problem", "state"),
    [
        ("scontrol: Unable to contact slurm controller (connect failure)", "broken"),
        ("scontrol: Could not establish a configuration source", "absent"),
    ],
)
def test_a_silent_controller(monkeypatch: pytest.MonkeyPatch, problem: str, state: str) -> None:
    found = findings(monkeypatch, reachable=False, problem=problem)
    assert [finding.state for finding in found.values()] == [state]


@pytest.mark.parametrize(
    ("subject", "changes", "state", "words"),
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
def test_what_is_not_fine(
    monkeypatch: pytest.MonkeyPatch,
    subject: str,
    changes: dict[str, object],
    state: str,
    words: str,
) -> None:
    finding = findings(monkeypatch, **changes)[subject]
    assert finding.state == state
    assert words in finding.found


@pytest.mark.parametrize("mode", ["CANCEL", "OFF", "SUSPEND,GANG"])
def test_what_preemption_costs_is_said(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    assert findings(monkeypatch, preempt_mode=mode)["preemption"].todo


@pytest.mark.parametrize(
    ("answer", "state", "words"),
    [
        (Probe("7", "node3"), "ok", "job 7 on node3 reads and writes /scratch/runs"),
        (Probe("7", problem="the job ended (FAILED), but nothing is seen"), "broken", "FAILED"),
        (Probe("7", problem="did not end (PENDING)", started=False), "absent", "PENDING"),
        (ProtosegError("the probe job was not submitted: no."), "broken", "not submitted"),
    ],
)
def test_a_probe(
    monkeypatch: pytest.MonkeyPatch, answer: Probe | ProtosegError, state: str, words: str
) -> None:
    def probe(folder: Path, partition: str) -> Probe:
        assert (folder, partition) == (Path("/scratch/runs"), "batch")
        if isinstance(answer, ProtosegError):
            raise answer
        return answer

    monkeypatch.setattr(doctor_slurm, "probe", probe)
    finding = findings(monkeypatch, "batch")["probe job"]
    assert finding.state == state
    assert words in finding.found


def test_a_probe_in_a_partition_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nowhere", "$(id)", "a b"):
        finding = findings(monkeypatch, name)["probe job"]
        assert finding.state == "broken"
        assert "batch" in finding.todo


def test_a_probe_tells_of_the_nodes_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor_slurm, "probe", lambda *_: Probe("7", "node3", clock_ahead_seconds=-400.0)
    )
    found = findings(monkeypatch, "")
    assert found["clock of node3"].state == "broken"
    assert "400 s behind" in found["clock of node3"].found


def test_a_probe_names_what_a_node_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor_slurm, "probe", lambda *_: Probe("7", "node3", lacks=("scontrol", "protoseg"))
    )
    found = findings(monkeypatch, "")
    assert found["scontrol on node3"].state == "absent"
    assert found["protoseg on node3"].state == "broken"
