"""Tests of the testbed: it behaves like a SLURM cluster, and its parts can be stopped."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import testbed
from testbed.conf import SMALL_QOS, SMALL_QOS_JOBS, Shape
from testbed.daemons import Daemons
from testbed.processes import await_executions, find_all_processes, find_node_processes, kill_all
from testbed.testbed import Testbed, TestbedError
from waiting import DEADLINE

WHOLE_NODE = "--gres=gpu:8"


def submit_job(cluster: Testbed, folder: Path, *options: str, wrap: str = "sleep 600") -> str:
    """Submit a job and return its id."""
    output = f"--output={folder}/%A_%a.out"
    return cluster.query("sbatch", "--parsable", output, *options, f"--wrap={wrap}")


def wait_command(file: Path) -> str:
    """Return a shell command that waits for a file."""
    return f"until [ -e {shlex.quote(str(file))} ]; do sleep 0.1; done"


def states(cluster: Testbed, job: str) -> dict[str, str]:
    """Return task -> state for the tasks in the queue."""
    answer = cluster.query("squeue", "--array", "--noheader", f"--jobs={job}", "--format=%i %T")
    return dict(line.split() for line in answer.splitlines())


def wait_for_states(cluster: Testbed, job: str, *expected: str) -> None:
    """Wait until the job's tasks in the queue are in these states, in any order."""
    cluster.wait_until(
        f"job {job}: {expected}",
        lambda: sorted(states(cluster, job).values()) == sorted(expected),
    )


def wait_for_accounting(cluster: Testbed, job: str, *expected: str) -> None:
    """Wait until sacct shows these states for the starts of all tasks."""
    query = ("sacct", "-X", "--duplicates", "--noheader", "--parsable2", f"--jobs={job}")
    cluster.wait_until(
        f"job {job} in accounting: {expected}",
        lambda: cluster.run(*query, "--format=State").stdout.splitlines() == list(expected),
    )


def test_an_array_respects_its_throttle(cluster: Testbed, tmp_path: Path) -> None:
    go = tmp_path / "go"
    wrap = f"{wait_command(go)}; srun sh -c 'echo $SLURM_ARRAY_TASK_ID-$SLURM_PROCID'"
    job = submit_job(cluster, tmp_path, "--array=0-3%2", "--ntasks=2", wrap=wrap)
    wait_for_states(cluster, job, "RUNNING", "RUNNING", "PENDING", "PENDING")
    go.touch()
    wait_for_states(cluster, job)
    outputs = "".join(file.read_text() for file in tmp_path.glob("*.out")).split()
    assert sorted(outputs) == [f"{task}-{process}" for task in range(4) for process in range(2)]
    wait_for_accounting(cluster, job, *["COMPLETED"] * 4)


def test_jobs_wait_for_free_gpus(cluster: Testbed, tmp_path: Path) -> None:
    wrap = "echo $CUDA_VISIBLE_DEVICES; sleep 600"
    jobs = [submit_job(cluster, tmp_path, WHOLE_NODE, "--array=0", wrap=wrap) for _ in range(2)]
    for job in jobs:
        wait_for_states(cluster, job, "RUNNING")
    third = submit_job(cluster, tmp_path, WHOLE_NODE, "--array=0")
    reason = ("squeue", "--noheader", f"--jobs={third}", "--format=%T %r")
    cluster.wait_until("the third job", lambda: cluster.query(*reason) == "PENDING Resources")
    output = tmp_path / f"{jobs[0]}_0.out"
    cluster.wait_until("the job's output", lambda: output.read_text() == "0,1,2,3,4,5,6,7\n")
    cluster.query("scancel", jobs[0])
    wait_for_states(cluster, third, "RUNNING")
    wait_for_accounting(cluster, jobs[0], "CANCELLED by 0")


def test_an_urgent_job_preempts_another(cluster: Testbed, tmp_path: Path) -> None:
    job = submit_job(cluster, tmp_path, WHOLE_NODE, "--nodelist=node1", "--requeue")
    wait_for_states(cluster, job, "RUNNING")
    go = tmp_path / "go"
    urgent = submit_job(cluster, tmp_path, WHOLE_NODE, "--nodelist=node1", "--partition=urgent",
                    wrap=wait_command(go))  # fmt: skip
    wait_for_states(cluster, job, "PENDING")
    go.touch()
    wait_for_states(cluster, urgent)
    wait_for_states(cluster, job, "RUNNING")
    wait_for_accounting(cluster, job, "PREEMPTED", "RUNNING")


def test_a_job_survives_a_restart_of_slurmd(cluster: Testbed, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = submit_job(cluster, tmp_path, "--nodelist=node2", wrap=f"{wait_command(go)}; echo done")
    wait_for_states(cluster, job, "RUNNING")
    cluster.kill_slurmd("node2")
    assert not cluster.status()["node2"]
    assert find_node_processes(cluster.folder, cluster.conf, "node2"), "the job still runs"
    cluster.start_slurmd("node2")
    go.touch()
    wait_for_states(cluster, job)
    wait_for_accounting(cluster, job, "COMPLETED")


def test_jobs_of_a_dead_node_fail_or_are_requeued(cluster: Testbed, tmp_path: Path) -> None:
    elsewhere = submit_job(cluster, tmp_path, "--nodelist=node2")
    kept, lost = (
        submit_job(cluster, tmp_path, "--nodelist=node1", flag)
        for flag in ("--requeue", "--no-requeue")
    )
    for job in (elsewhere, kept, lost):
        wait_for_states(cluster, job, "RUNNING")
    cluster.kill_node("node1")
    assert not find_node_processes(cluster.folder, cluster.conf, "node1")
    cluster.declare_down("node1")
    wait_for_states(cluster, kept, "PENDING")
    wait_for_accounting(cluster, lost, "NODE_FAIL")
    assert states(cluster, elsewhere) == {elsewhere: "RUNNING"}
    cluster.start_slurmd("node1")
    wait_for_states(cluster, kept, "RUNNING")
    wait_for_accounting(cluster, kept, "NODE_FAIL", "RUNNING")


def test_a_step_reports_out_of_memory(strict_cluster: Testbed, tmp_path: Path) -> None:
    """Only the row of the step is OUT_OF_MEMORY; the job ends with the state of its script."""
    hungry = f"{sys.executable} -c 'bytearray(400_000_000)'"
    job = submit_job(strict_cluster, tmp_path, "--mem=100M", wrap=f"srun {hungry}")
    rows = ("sacct", "--noheader", "--parsable2", f"--jobs={job}", "--format=JobID,State,ExitCode")
    strict_cluster.wait_until(
        "out of memory",
        lambda: f"{job}.0|OUT_OF_MEMORY|0:125" in strict_cluster.query(*rows).splitlines(),
    )
    wait_for_states(strict_cluster, job)
    assert "Out Of Memory" in next(tmp_path.glob("*.out")).read_text()


def test_the_queue_survives_a_restart_of_the_controller(cluster: Testbed, tmp_path: Path) -> None:
    job = submit_job(cluster, tmp_path, "--array=0-2%1")
    wait_for_states(cluster, job, "RUNNING", "PENDING", "PENDING")
    before = states(cluster, job)
    cluster.stop_controller()
    assert cluster.run("scontrol", "ping").returncode == 1
    cluster.start_controller()
    assert states(cluster, job) == before


def test_without_accounting_sacct_fails_and_squeue_works(cluster: Testbed, tmp_path: Path) -> None:
    job = submit_job(cluster, tmp_path)
    cluster.stop_accounting()
    assert cluster.run("sacct", f"--jobs={job}").returncode == 1
    wait_for_states(cluster, job, "RUNNING")
    cluster.start_accounting()
    wait_for_accounting(cluster, job, "RUNNING")


def test_limits_are_enforced_at_submission(cluster: Testbed, tmp_path: Path) -> None:
    submit_job(cluster, tmp_path, "--array=0-1000", "--hold")
    with pytest.raises(TestbedError, match="Invalid job array specification"):
        submit_job(cluster, tmp_path, "--array=0-1001", "--hold")
    submit_job(cluster, tmp_path, f"--array=1-{SMALL_QOS_JOBS}", "--hold", f"--qos={SMALL_QOS}")
    with pytest.raises(TestbedError, match="QOSMaxSubmitJobPerUserLimit"):
        submit_job(cluster, tmp_path, "--hold", f"--qos={SMALL_QOS}")


def test_two_testbeds_run_independently(
    cluster: Testbed, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The second one is used through the command line; the first one is not affected."""
    package = Path(testbed.__file__).parent
    folder = cluster.folder.parent / f"{cluster.folder.name}-b"

    def run_testbed(verb: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(package), verb, "--folder", str(folder), *options]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=DEADLINE, check=False
        )

    try:
        up = run_testbed("up", "--nodes", "1", "--no-accounting")
        assert up.returncode == 0, up.stderr
        other = Testbed(folder)
        assert up.stdout == f"export SLURM_CONF={other.conf}\n" == run_testbed("env").stdout
        assert other.shape == Shape(nodes=1, accounting=False)
        assert run_testbed("status").returncode == 0
        assert other.query("srun", "printenv", "SLURMD_NODENAME") == "node1"
        assert other.run("sacct").returncode == 1, "the second one has no accounting"
        assert "already runs there" in run_testbed("up").stderr
        job = submit_job(
            other, tmp_path_factory.mktemp("other"), wrap="setsid sleep 600 & sleep 600"
        )
        wait_for_states(other, job, "RUNNING")
    finally:
        down = run_testbed("down")
    assert down.returncode == 0, down.stderr
    assert not folder.exists()
    assert not find_all_processes(folder, folder / "etc" / "slurm.conf")
    assert all(cluster.status().values())


def test_a_daemon_that_does_not_start_is_reported_with_its_log(cluster: Testbed) -> None:
    """All its processes end, and its folder is kept."""
    broken = Testbed(f"{cluster.folder}-c", Shape(nodes=1, memory=-1, accounting=False))
    try:
        with pytest.raises(TestbedError, match=r"(?s)slurmctld ended.*RealMemory"):
            broken.up()
        assert not find_all_processes(broken.folder, broken.conf)
        assert broken.folder.exists()
    finally:
        broken.down()


@pytest.mark.parametrize("name", ["with a blank", "x" * 70, "50%"])
def test_a_folder_that_slurm_cannot_use_is_an_error(name: str) -> None:
    with pytest.raises(TestbedError, match="Set another --folder"):
        Testbed(f"/tmp/{name}")


def test_a_daemon_with_an_unreadable_environment_is_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([[], [], [7], []])
    monkeypatch.setattr("testbed.daemons.find_daemon", lambda *_: next(looks, []))
    daemons = Daemons(tmp_path, {})
    assert daemons.is_running("slurmdbd")
    assert not daemons.is_running("slurmdbd")


def test_kill_all_kills_processes_that_appear_later() -> None:
    sleepers = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    looks = iter([[sleepers[0].pid], [], [sleepers[1].pid]])
    kill_all(lambda: next(looks, []))
    assert [sleeper.wait(DEADLINE) for sleeper in sleepers] == [-9, -9]


def test_await_executions_waits_for_execve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside execve a process has no readable environment."""
    looks = iter([True, True, False])
    checked = []
    monkeypatch.setattr(
        "testbed.processes._is_executing", lambda pid: checked.append(pid) or next(looks)
    )
    monkeypatch.setattr("testbed.processes._list_pids", lambda: [17])
    await_executions()
    assert checked == [17, 17, 17]


def test_await_executions_returns_without_execve() -> None:
    """Kernel threads, sleeping processes and this test are not inside execve."""
    await_executions()
