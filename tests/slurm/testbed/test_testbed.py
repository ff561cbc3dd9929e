"""The testbed itself: it is a SLURM like any other, and its parts can be taken away one by one."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import testbed
from testbed.conf import SMALL_QOS, SMALL_QOS_JOBS, Shape
from testbed.daemons import Daemons
from testbed.processes import all_processes, await_executions, kill_all, node_processes
from testbed.testbed import Testbed, TestbedError
from waiting import DEADLINE

WHOLE_NODE = "--gres=gpu:8"


def submit(cluster: Testbed, folder: Path, *options: str, wrap: str = "sleep 600") -> str:
    """Submit a job and return its id."""
    output = f"--output={folder}/%A_%a.out"
    return cluster.ask("sbatch", "--parsable", output, *options, f"--wrap={wrap}")


def until(file: Path) -> str:
    """A shell command that waits for a file."""
    return f"until [ -e {shlex.quote(str(file))} ]; do sleep 0.1; done"


def states(cluster: Testbed, job: str) -> dict[str, str]:
    """Task -> state, of what is in the queue."""
    answer = cluster.ask("squeue", "--array", "--noheader", f"--jobs={job}", "--format=%i %T")
    return dict(line.split() for line in answer.splitlines())


def wait(cluster: Testbed, job: str, *expected: str) -> None:
    """Wait until the job's tasks in the queue are in these states, in any order."""
    cluster.wait_until(
        f"job {job}: {expected}",
        lambda: sorted(states(cluster, job).values()) == sorted(expected),
    )


def wait_ended(cluster: Testbed, job: str, *expected: str) -> None:
    """Wait until sacct tells these states of the incarnations of all tasks."""
    query = ("sacct", "-X", "--duplicates", "--noheader", "--parsable2", f"--jobs={job}")
    cluster.wait_until(
        f"job {job} in accounting: {expected}",
        lambda: cluster.run(*query, "--format=State").stdout.splitlines() == list(expected),
    )


def test_an_array_keeps_its_throttle_and_srun_runs_every_task(
    cluster: Testbed, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    wrap = f"{until(go)}; srun sh -c 'echo $SLURM_ARRAY_TASK_ID-$SLURM_PROCID'"
    job = submit(cluster, tmp_path, "--array=0-3%2", "--ntasks=2", wrap=wrap)
    wait(cluster, job, "RUNNING", "RUNNING", "PENDING", "PENDING")
    go.touch()
    wait(cluster, job)
    said = "".join(file.read_text() for file in tmp_path.glob("*.out")).split()
    assert sorted(said) == [f"{task}-{process}" for task in range(4) for process in range(2)]
    wait_ended(cluster, job, *["COMPLETED"] * 4)


def test_gpus_are_counted(cluster: Testbed, tmp_path: Path) -> None:
    wrap = "echo $CUDA_VISIBLE_DEVICES; sleep 600"
    jobs = [submit(cluster, tmp_path, WHOLE_NODE, "--array=0", wrap=wrap) for _ in range(2)]
    for job in jobs:
        wait(cluster, job, "RUNNING")
    third = submit(cluster, tmp_path, WHOLE_NODE, "--array=0")
    reason = ("squeue", "--noheader", f"--jobs={third}", "--format=%T %r")
    cluster.wait_until("the third job", lambda: cluster.ask(*reason) == "PENDING Resources")
    output = tmp_path / f"{jobs[0]}_0.out"
    cluster.wait_until("the job's output", lambda: output.read_text() == "0,1,2,3,4,5,6,7\n")
    cluster.ask("scancel", jobs[0])
    wait(cluster, third, "RUNNING")
    wait_ended(cluster, jobs[0], "CANCELLED by 0")


def test_an_urgent_job_sends_another_back_to_the_queue(cluster: Testbed, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, WHOLE_NODE, "--nodelist=node1", "--requeue")
    wait(cluster, job, "RUNNING")
    go = tmp_path / "go"
    urgent = submit(cluster, tmp_path, WHOLE_NODE, "--nodelist=node1", "--partition=urgent",
                    wrap=until(go))  # fmt: skip
    wait(cluster, job, "PENDING")
    go.touch()
    wait(cluster, urgent)
    wait(cluster, job, "RUNNING")
    wait_ended(cluster, job, "PREEMPTED", "RUNNING")


def test_a_slurmd_that_was_killed_comes_back_to_its_jobs(cluster: Testbed, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = submit(cluster, tmp_path, "--nodelist=node2", wrap=f"{until(go)}; echo done")
    wait(cluster, job, "RUNNING")
    cluster.kill_slurmd("node2")
    assert not cluster.status()["node2"]
    assert node_processes(cluster.folder, cluster.conf, "node2"), "the job runs on"
    cluster.start_slurmd("node2")
    go.touch()
    wait(cluster, job)
    wait_ended(cluster, job, "COMPLETED")


def test_a_dead_node_fails_its_jobs_or_sends_them_back(cluster: Testbed, tmp_path: Path) -> None:
    elsewhere = submit(cluster, tmp_path, "--nodelist=node2")
    kept, lost = (
        submit(cluster, tmp_path, "--nodelist=node1", flag)
        for flag in ("--requeue", "--no-requeue")
    )
    for job in (elsewhere, kept, lost):
        wait(cluster, job, "RUNNING")
    cluster.kill_node("node1")
    assert not node_processes(cluster.folder, cluster.conf, "node1")
    cluster.declare_down("node1")
    wait(cluster, kept, "PENDING")
    wait_ended(cluster, lost, "NODE_FAIL")
    assert states(cluster, elsewhere) == {elsewhere: "RUNNING"}
    cluster.start_slurmd("node1")
    wait(cluster, kept, "RUNNING")
    wait_ended(cluster, kept, "NODE_FAIL", "RUNNING")


def test_a_step_that_runs_out_of_memory_says_so(strict_cluster: Testbed, tmp_path: Path) -> None:
    """The job itself ends as its batch script does: only the step's row has the word."""
    hungry = f"{sys.executable} -c 'bytearray(400_000_000)'"
    job = submit(strict_cluster, tmp_path, "--mem=100M", wrap=f"srun {hungry}")
    rows = ("sacct", "--noheader", "--parsable2", f"--jobs={job}", "--format=JobID,State,ExitCode")
    strict_cluster.wait_until(
        "out of memory",
        lambda: f"{job}.0|OUT_OF_MEMORY|0:125" in strict_cluster.ask(*rows).splitlines(),
    )
    wait(strict_cluster, job)
    assert "Out Of Memory" in next(tmp_path.glob("*.out")).read_text()


def test_the_queue_outlives_the_controller(cluster: Testbed, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, "--array=0-2%1")
    wait(cluster, job, "RUNNING", "PENDING", "PENDING")
    before = states(cluster, job)
    cluster.stop_controller()
    assert cluster.run("scontrol", "ping").returncode == 1
    cluster.start_controller()
    assert states(cluster, job) == before


def test_without_accounting_sacct_fails_and_squeue_works(cluster: Testbed, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path)
    cluster.stop_accounting()
    assert cluster.run("sacct", f"--jobs={job}").returncode == 1
    wait(cluster, job, "RUNNING")
    cluster.start_accounting()
    wait_ended(cluster, job, "RUNNING")


def test_limits_are_enforced_at_submission(cluster: Testbed, tmp_path: Path) -> None:
    submit(cluster, tmp_path, "--array=0-1000", "--hold")
    with pytest.raises(TestbedError, match="Invalid job array specification"):
        submit(cluster, tmp_path, "--array=0-1001", "--hold")
    submit(cluster, tmp_path, f"--array=1-{SMALL_QOS_JOBS}", "--hold", f"--qos={SMALL_QOS}")
    with pytest.raises(TestbedError, match="QOSMaxSubmitJobPerUserLimit"):
        submit(cluster, tmp_path, "--hold", f"--qos={SMALL_QOS}")


def test_a_second_cluster_does_not_meet_the_first(
    cluster: Testbed, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Through the command line: up, status, a job, down; the first one never notices."""
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
        assert other.ask("srun", "printenv", "SLURMD_NODENAME") == "node1"
        assert other.run("sacct").returncode == 1, "it keeps no accounts"
        assert "runs there already" in run_testbed("up").stderr
        job = submit(other, tmp_path_factory.mktemp("other"), wrap="setsid sleep 600 & sleep 600")
        wait(other, job, "RUNNING")
    finally:
        down = run_testbed("down")
    assert down.returncode == 0, down.stderr
    assert not folder.exists()
    assert not all_processes(folder, folder / "etc" / "slurm.conf")
    assert all(cluster.status().values())


def test_a_daemon_that_does_not_start_is_named_with_its_last_words(cluster: Testbed) -> None:
    """Nothing of it stays behind, and its folder is kept for whoever wants to know more."""
    broken = Testbed(f"{cluster.folder}-c", Shape(nodes=1, memory=-1, accounting=False))
    try:
        with pytest.raises(TestbedError, match=r"(?s)slurmctld ended.*RealMemory"):
            broken.up()
        assert not all_processes(broken.folder, broken.conf)
        assert broken.folder.exists()
    finally:
        broken.down()


@pytest.mark.parametrize("name", ["with a blank", "x" * 70, "50%"])
def test_a_folder_that_slurm_would_not_understand_is_refused(name: str) -> None:
    with pytest.raises(TestbedError, match="name another --folder"):
        Testbed(f"/tmp/{name}")


def test_a_daemon_that_shows_no_environment_for_a_moment_has_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([[], [], [7], []])
    monkeypatch.setattr("testbed.daemons.daemon", lambda *_: next(looks, []))
    daemons = Daemons(tmp_path, {})
    assert daemons.runs("slurmdbd")
    assert not daemons.runs("slurmdbd")


def test_a_process_that_shows_itself_late_is_killed_all_the_same() -> None:
    sleepers = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    looks = iter([[sleepers[0].pid], [], [sleepers[1].pid]])
    kill_all(lambda: next(looks, []))
    assert [sleeper.wait(DEADLINE) for sleeper in sleepers] == [-9, -9]


def test_a_process_that_executes_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows no environment to be known by."""
    looks = iter([True, True, False])
    seen = []
    monkeypatch.setattr(
        "testbed.processes._is_executing", lambda pid: seen.append(pid) or next(looks)
    )
    monkeypatch.setattr("testbed.processes._pids", lambda: [17])
    await_executions()
    assert seen == [17, 17, 17]


def test_no_process_here_executes_for_ever() -> None:
    """Kernel threads, sleepers and this test itself are not taken for processes in execve."""
    await_executions()
