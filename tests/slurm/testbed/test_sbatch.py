"""Tests of batch scripts on a real SLURM: every value is accepted unchanged."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launch.arrays import make_array
from launch.test_sbatch import ODD
from testbed.testbed import Testbed
from waiting import DEADLINE

from protoseg.launch.profile.profile import ClusterProfile
from protoseg.launch.profile.values import parse_time
from protoseg.launch.sbatch import submit_array
from protoseg.launch.sbatch_errors import SubmissionRefused
from slurm.testbed.config import copy_config

pytestmark = pytest.mark.usefixtures("cluster")


def run_checked(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def show_job(job: str) -> dict[str, str]:
    """Return SLURM's values of the first task of a job."""
    values = {}
    for line in run_checked("scontrol", "show", "job", job).split("\n\n")[0].splitlines():
        single = re.fullmatch(r"\s*(Comment|WorkDir|StdOut|Features|Command)=(.*?) ?", line)
        pairs = [single.groups()] if single else re.findall(r"(\S+?)=(\S*)", line)
        values.update(dict(pairs))
    return values


@pytest.fixture
def held() -> Iterator[dict[str, Any]]:
    """Options of held jobs, which are cancelled after the test."""
    name = f"held-{os.getpid()}"
    yield {"name": f"{name}.1", "sbatch": {"hold": True}}
    run_checked("scancel", f"--name={name}.1")


def submit_held(
    held: dict[str, Any], folder: Path, runs: int = 3, **values: Any
) -> tuple[str, dict[str, str]]:
    sbatch = {**held["sbatch"], **values.pop("sbatch", {})}
    profile = ClusterProfile(**{"memory": "100M", **values}, sbatch=sbatch)
    job = submit_array(make_array(profile, runs), profile, folder, held["name"])
    return job, show_job(job)


def test_slurm_gets_the_values_of_a_profile(held: dict[str, Any], tmp_path: Path) -> None:
    job, values = submit_held(
        held,
        tmp_path,
        partition="short,batch",
        qos="normal",
        nodes=2,
        gpus=2,
        cpus=3,
        memory="1536M",
        time="1-12",
        throttle=2,
        requeue=False,
        sbatch={"nice": 100, "comment": "half 'n' \"half\" # \\ $(id) ü", "contiguous": True},
    )
    assert values["JobId"] == values["ArrayJobId"] == job
    expected = {
        "JobName": held["name"],
        "Partition": "short,batch",
        "QOS": "normal",
        "ArrayTaskId": "0-2%2",
        "ArrayTaskThrottle": "2",
        "TimeLimit": "1-12:00:00",
        "NumNodes": "2-2",
        "NumTasks": "4",
        "CPUs/Task": "3",
        "MinMemoryNode": "1.50G",
        "TresPerNode": "gres:gpu:2",
        "Requeue": "0",
        "Nice": "100",
        "Contiguous": "1",
        "Comment": "half 'n' \"half\" # \\ $(id) ü",
        "WorkDir": str(tmp_path),
        "Command": str(tmp_path / "script.sh"),
    }
    assert {key: values.get(key) for key in expected} == expected
    assert values["NtasksPerN:B:S:C"].startswith("2:")


def test_unset_keys_give_slurms_defaults(held: dict[str, Any], tmp_path: Path) -> None:
    _, values = submit_held(held, tmp_path, runs=1)
    expected = {"Partition": "batch", "Requeue": "1", "ArrayTaskId": "0", "TimeLimit": "01:00:00"}
    assert {key: values.get(key) for key in expected} == expected
    assert "Comment" not in values
    assert values.get("WcKey") is None


def test_slurm_and_parse_time_agree(held: dict[str, Any]) -> None:
    for text in ("90", "10:30", "90:00", "2:00:00", "1-12", "1-2:30", "0-0:5:30"):
        job = run_checked(
            *("sbatch", "--parsable", "--hold", "--mem=10M", f"--job-name={held['name']}"),
            *(f"--time={text}", "--output=/dev/null", "--wrap=true"),
        ).strip()
        theirs = parse_time(show_job(job)["TimeLimit"])
        whole_minutes = -(-parse_time(text) // 60) * 60
        assert theirs == whole_minutes, text


def test_environment_variables_do_not_override_the_script(
    held: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_TIMELIMIT", "7")
    monkeypatch.setenv("SBATCH_PARTITION", "short")
    monkeypatch.setenv("SBATCH_ARRAY_INX", "5-9")
    monkeypatch.setenv("SBATCH_QOS", "normal")
    monkeypatch.setenv("SBATCH_JOB_NAME", "theirs")
    _, values = submit_held(held, tmp_path, partition="batch", time="30")
    expected = {"Partition": "batch", "TimeLimit": "00:30:00", "ArrayTaskId": "0-2"}
    assert {key: values.get(key) for key in expected} == expected
    assert (values["QOS"], values["JobName"]) == ("normal", held["name"])


def test_folders_with_special_characters_work(
    cluster: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_python = tmp_path / "py's $(touch PWNED) %A" / "python"
    fake_python.parent.mkdir()
    fake_python.write_text(
        '#!/bin/sh\nprintf "%s\\n" "$@" "$VALUE" > "$3/seen"\npwd\necho some output >&2\n'
        'echo "$SLURM_ARRAY_TASK_ID" >> "$3/tasks"\n'
    )
    fake_python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake_python))
    value = 'it\'s $(touch PWNED) `x` \\ "%A" ü'
    profile = ClusterProfile(memory="10M", time="5", environment={"VALUE": value})
    jobs = {}
    for odd in ODD:
        folder = tmp_path / odd / "s"
        jobs[folder] = submit_array(make_array(profile, 2), profile, folder, "odd.1")
    queue = ("squeue", "--noheader", f"--jobs={','.join(jobs.values())}")
    cluster.wait_until("the end of all jobs", lambda: cluster.query(*queue) == "")
    for folder, job in jobs.items():
        arguments = (folder / "seen").read_text().splitlines()
        assert arguments == ["-m", "protoseg.launch.task", str(folder), value]
        assert sorted((folder / "tasks").read_text().split()) == ["0", "1"]
        logs = {path.name: path.read_text() for path in (folder / "logs").iterdir()}
        # `pwd` prints the folder without `..`.
        output = f"{os.path.normpath(folder)}\nsome output\n"
        assert logs == {f"{job}_0.txt": output, f"{job}_1.txt": output}
        assert not (folder / "logs" / f"{job}_0.txt").stat().st_mode & 0o022
    assert not list(tmp_path.rglob("PWNED"))


def test_a_banner_of_sbatch_is_ignored(
    held: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = run_checked("which", "sbatch").strip()
    wrapper = tmp_path / "bin" / "sbatch"
    wrapper.parent.mkdir()
    wrapper.write_text(
        "#!/bin/sh\nprintf '*** 2026 was a good year ***\\n\\n42 nodes, quota 80%%\\n'\n"
        f'echo "sbatch: lua: fine" >&2\nexec {real} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    job, values = submit_held(held, tmp_path / "s")
    assert (values["JobId"], values["JobName"]) == (job, held["name"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"partition": "nowhere"}, "Invalid partition name specified"),
        ({"account": "nobody"}, "Invalid account"),
        ({"qos": "nothing"}, "Invalid qos specification"),
        ({"memory": "100T"}, "Requested node configuration is not available"),
        ({"gpus": 1, "gpu_type": "a100"}, "Requested node configuration is not available"),
        ({"constraint": "moon"}, "Invalid feature specification"),
        ({"sbatch": {"no-such-option": "x"}}, "unrecognized option"),
    ],
)
def test_a_refusal_contains_slurms_message(
    held: dict[str, Any], tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    held["sbatch"] = {}  # for held jobs SLURM does not check whether they can start
    with pytest.raises(SubmissionRefused) as caught:
        submit_held(held, tmp_path, **values)
    assert message in str(caught.value)
    assert not caught.value.is_limit
    assert not caught.value.is_unsure
    assert not run_checked("squeue", "--noheader", f"--name={held['name']}").strip()


def test_a_limit_on_the_number_of_jobs_is_recognised(held: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SubmissionRefused, match="QOSMaxSubmitJobPerUserLimit") as caught:
        submit_held(held, tmp_path, runs=30, qos="small")
    assert caught.value.is_limit
    _, values = submit_held(held, tmp_path, runs=15, qos="small")
    assert values["QOS"] == "small", "fewer jobs are accepted"


def test_the_largest_array_is_accepted(held: dict[str, Any], tmp_path: Path) -> None:
    (number,) = re.findall(r"MaxArraySize\s*=\s*(\d+)", run_checked("scontrol", "show", "config"))
    largest = int(number)
    with pytest.raises(SubmissionRefused, match="Invalid job array specification") as caught:
        submit_held(held, tmp_path, runs=largest + 1, array_size=2 * largest)
    assert not caught.value.is_limit
    _, job = submit_held(held, tmp_path, runs=largest, array_size=2 * largest)
    assert job["ArrayTaskId"] == f"0-{largest - 1}"


def test_an_unreachable_controller_refuses(
    cluster: Testbed, held: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No process listens at port 1; sbatch tries for some time.
    elsewhere = copy_config(cluster, tmp_path, SlurmctldPort=1, MessageTimeout=2)
    profile = ClusterProfile()
    with monkeypatch.context() as away:
        away.setenv("SLURM_CONF", str(elsewhere))
        with pytest.raises(SubmissionRefused, match="Unable to contact slurm controller") as caught:
            submit_array(make_array(profile), profile, tmp_path, held["name"])
    assert not caught.value.is_limit
