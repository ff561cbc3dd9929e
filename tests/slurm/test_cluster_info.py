"""Tests of the facts about a cluster, and of the probe job."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

import pytest
from waiting import DEADLINE

from protoseg.errors import ProtosegError
from protoseg.slurm import probe as probe_module
from protoseg.slurm.cluster_info import ClusterInfo, query_cluster, read_array_limit
from protoseg.slurm.probe import run_probe_job
from slurm.commands import BANNER, DOWN, NO_DATABASE, Commands, captured, sacct_lines, squeue_lines

ASKED = datetime.datetime.fromisoformat("2026-11-20T09:56:35+00:00").timestamp()
"""Time at which the controller printed the captured configuration."""


def install_cluster(
    commands: Commands, config: str = "", partitions: str = "", sinfo: str = ""
) -> None:
    """Install scontrol and sinfo with captured or given output."""
    folder = commands.folder
    (folder / "config").write_text(config or captured("config"))
    (folder / "partitions").write_text(partitions or captured("partitions"))
    commands.script(
        "scontrol",
        f'case "$*" in\n*config) /bin/cat {folder}/config;;\n'
        f"*partition) /bin/cat {folder}/partitions;;\nesac",
    )
    commands.prints("sinfo", sinfo or captured("sinfo"))
    commands.prints("sacct", sacct_lines())


def test_the_facts_of_a_captured_cluster(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_cluster(commands)
    monkeypatch.setattr(time, "time", lambda: ASKED + 0.5)
    info = query_cluster()
    assert (info.reachable, info.version, info.name) == (True, "22.05.8", "testbed")
    assert (info.max_array_size, info.max_job_count, info.min_job_age_seconds) == (
        1001, 10000, 300)  # fmt: skip
    assert (info.has_accounting, info.accounting_problem) == (True, "")
    assert info.job_requeue is True
    assert (info.preempt_type, info.preempt_mode) == ("preempt/partition_prio", "REQUEUE")
    assert info.send_user_signal is False
    assert info.kill_wait_seconds == 10
    assert info.clock_ahead_seconds == 0
    batch, urgent, short = info.partitions
    assert (batch.name, batch.default, batch.state) == ("batch", True, "UP")
    assert (batch.nodes, batch.nodes_up, batch.gpus) == (2, 2, ("gpu:8",))
    assert (urgent.preempt_mode, urgent.default) == ("OFF", False)
    assert short.time_limit == "00:02:00"


@pytest.mark.parametrize(
    ("offset", "ahead"),
    [(0, 0.0), (0.9, 0.0), (-30, 30.0), (30, -29.0), (-0.4, 0.4)],
)
def test_the_clock_offset_of_the_controller(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, offset: float, ahead: float
) -> None:
    install_cluster(commands)
    monkeypatch.setattr(time, "time", lambda: ASKED + offset)
    assert query_cluster().clock_ahead_seconds == ahead


def test_the_facts_of_other_clusters(commands: Commands) -> None:
    config = captured("config")
    for old, new in (
        ("JobRequeue              = 1", "JobRequeue              = 0"),
        ("MaxArraySize            = 1001", "MaxArraySize            = 0"),
    ):
        assert old in config
        config = config.replace(old, new)
    config = f"{BANNER}\n{config}\nPreemptParameters       = reorder_count=1,send_user_signal\n"
    unit = "\x1f"
    rows = [
        ("PARTITION", "NODES", "GRES", "STATE"),
        ("batch*", "4", "gpu:a100:8(S:0-1),nvme:1", "mixed"),
        ("batch*", "1", "gpu:h100.80gb:4(S:0)", "down*"),
        ("batch*", "2", "(null)", "drained"),
        ("urgent", "many", "gpu:8", "idle"),
    ]
    install_cluster(commands, config, sinfo="".join(unit.join((*row, "")) + "\n" for row in rows))
    commands.prints("sacct", errors=NO_DATABASE, status=1)
    info = query_cluster()
    assert (info.job_requeue, info.max_array_size, info.send_user_signal) == (False, 0, True)
    assert not info.has_accounting
    assert "Problem talking to the database" in info.accounting_problem
    batch = info.partitions[0]
    assert (batch.nodes, batch.nodes_up) == (7, 4)
    assert batch.gpus == ("gpu:a100:8", "gpu:h100.80gb:4")
    assert info.partitions[1].nodes == 0


def test_read_array_limit_takes_one_call(commands: Commands) -> None:
    assert read_array_limit() is None
    install_cluster(commands)
    assert read_array_limit() == 1001
    assert len(commands.calls("scontrol")) == 1
    assert commands.calls("sinfo") == commands.calls("sacct") == []


def test_missing_accounting_is_reported_without_a_query(commands: Commands) -> None:
    config = captured("config").replace("accounting_storage/slurmdbd", "accounting_storage/none")
    install_cluster(commands, config)
    assert query_cluster().accounting_problem == "this SLURM has no accounting"
    assert commands.calls("sacct") == []


def test_an_unreachable_controller_is_reported(commands: Commands) -> None:
    assert query_cluster() == ClusterInfo(reachable=False, problem="scontrol: not on this machine")
    # SLURM 22.05 exits with 0 if no controller answers.
    commands.prints("scontrol", errors=DOWN.replace("load_jobs", "load_ctl_conf"), status=0)
    info = query_cluster()
    assert not info.reachable
    assert "Unable to contact slurm controller" in info.problem


class Clock:
    """A clock of a test; sleep() advances it without waiting."""

    def __init__(self, now: float = ASKED) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long waits for slow machines, and a job without imports."""
    monkeypatch.setattr(probe_module, "FILE_DELAY_SECONDS", DEADLINE)
    monkeypatch.setattr(probe_module.sys, "executable", "/bin/true")


def install_sbatch(commands: Commands) -> None:
    """Install an sbatch that runs the script at once in the background, as a node does."""
    script = commands.folder / "script"
    node = f"PATH=/usr/bin:/bin SLURMD_NODENAME=node7 /bin/sh {script} &"
    answer = f"echo '{BANNER}'\necho '77;testbed'"
    commands.script("sbatch", f"/bin/cat > {script}\n{node}\n{answer}")


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("name", ["runs", "my runs' $(touch x) %j \"ü\n"])
def test_a_probe_job_sees_the_folder(commands: Commands, tmp_path: Path, name: str) -> None:
    install_sbatch(commands)
    commands.prints("squeue", squeue_lines(("77", "COMPLETED")))
    folder = tmp_path / name
    result = run_probe_job(folder, "batch")
    assert (result.job, result.node, result.problem) == ("77", "node7", "")
    assert result.clock_ahead_seconds == 0
    assert "protoseg" not in result.lacks
    assert "--partition=batch" in commands.calls("sbatch")[0]
    assert list(folder.iterdir()) == [], "the probe removes its files"
    assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("python", "lacks"),
    [("/bin/true", ("scontrol",)), ("/bin/false", ("scontrol", "protoseg"))],
)
def test_the_probe_reports_missing_programs(
    commands: Commands,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    python: str,
    lacks: tuple[str, ...],
) -> None:
    monkeypatch.setattr(probe_module.sys, "executable", python)
    install_sbatch(commands)
    bare = tmp_path / "node"
    bare.mkdir()
    for name in ("date", "mv", "sh"):
        (bare / name).symlink_to(f"/bin/{name}")
    (bare / "srun").write_text("")
    (bare / "srun").chmod(0o755)
    script = commands.folder / "bin" / "sbatch"
    script.write_text(script.read_text().replace("PATH=/usr/bin:/bin", f"PATH={bare}"))
    assert run_probe_job(tmp_path / "runs").lacks == lacks


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(("offset", "ahead"), [(-60, -59.0), (0, 0.0), (60, 60.0)])
def test_the_probe_reports_the_clock_offset_of_the_node(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int, ahead: float
) -> None:
    date = tmp_path / "node"
    date.mkdir()
    (date / "date").write_text(f"#!/bin/sh\necho {ASKED + offset:.0f}\n")
    (date / "date").chmod(0o755)
    install_sbatch(commands)
    script = commands.folder / "bin" / "sbatch"
    script.write_text(script.read_text().replace("PATH=/usr/bin", f"PATH={date}:/usr/bin"))
    monkeypatch.setattr(time, "time", lambda: ASKED)
    assert run_probe_job(tmp_path / "runs").clock_ahead_seconds == ahead


def test_the_probe_reports_a_node_without_the_folder(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(probe_module, "time", clock)
    commands.prints("sbatch", "77\n")
    commands.prints("squeue", squeue_lines(("77", "FAILED")))
    commands.prints("scancel")
    result = run_probe_job(tmp_path / "runs")
    assert (result.node, result.started) == ("", True)
    assert "FAILED" in result.problem
    assert "node1" in result.problem
    assert clock.now - ASKED == pytest.approx(
        probe_module.ASK_SECONDS + probe_module.FILE_DELAY_SECONDS, abs=0.5
    )
    assert not list((tmp_path / "runs").iterdir())


def test_the_probe_reports_a_job_that_did_not_start(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(probe_module, "time", clock)
    commands.prints("sbatch", "77\n")
    commands.prints("squeue", squeue_lines(("77", "PENDING")).replace("None", "Priority"))
    commands.prints("scancel")
    result = run_probe_job(tmp_path / "runs", seconds=10)
    assert not result.started
    assert clock.now - ASKED == pytest.approx(10, abs=0.5)
    assert len(commands.calls("squeue")) == 3, "one query every three seconds"
    assert "PENDING Priority" in result.problem
    assert [call.strip() for call in commands.calls("scancel")] == ["77"]


def test_a_refused_probe_is_an_error(commands: Commands, tmp_path: Path) -> None:
    errors = "sbatch: error: Batch job submission failed: Invalid partition name specified"
    commands.prints("sbatch", errors=errors, status=1)
    with pytest.raises(ProtosegError, match="Invalid partition name specified"):
        run_probe_job(tmp_path, "nowhere")
    assert not list(tmp_path.glob(".probe*"))
    for name in ("a b", "--wrap=id", "$(id)", "x\n"):
        with pytest.raises(ProtosegError, match="is not a partition name"):
            run_probe_job(tmp_path, name)
