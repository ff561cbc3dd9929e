"""Batch scripts on a real SLURM: accepted, and every value as it was given."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launch.arrays import array
from launch.test_sbatch import ODD
from testbed.testbed import Testbed
from waiting import DEADLINE

from protoseg.launch.profile.profile import ClusterProfile
from protoseg.launch.profile.values import parse_time
from protoseg.launch.sbatch import SubmissionRefused, submit
from slurm.testbed.config import copy_config

pytestmark = pytest.mark.usefixtures("cluster")


def call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shown(job: str) -> dict[str, str]:
    """What SLURM says of the first task of a job: a key and its value a line, where it asks so."""
    found = {}
    for line in call("scontrol", "show", "job", job).split("\n\n")[0].splitlines():
        single = re.fullmatch(r"\s*(Comment|WorkDir|StdOut|Features|Command)=(.*?) ?", line)
        words = [single.groups()] if single else re.findall(r"(\S+?)=(\S*)", line)
        found.update(dict(words))
    return found


@pytest.fixture
def held() -> Iterator[dict[str, Any]]:
    """Options for jobs that are to be looked at and not to run; they are cancelled afterwards."""
    name = f"held-{os.getpid()}"
    yield {"name": f"{name}.1", "sbatch": {"hold": True}}
    call("scancel", f"--name={name}.1")


def submit_held(
    held: dict[str, Any], folder: Path, runs: int = 3, **values: Any
) -> tuple[str, dict[str, str]]:
    sbatch = {**held["sbatch"], **values.pop("sbatch", {})}
    profile = ClusterProfile(**{"memory": "100M", **values}, sbatch=sbatch)
    job = submit(array(profile, runs), profile, folder, held["name"])
    return job, shown(job)


def test_what_a_profile_asks_for_is_what_slurm_has(held: dict[str, Any], tmp_path: Path) -> None:
    job, found = submit_held(
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
    assert found["JobId"] == found["ArrayJobId"] == job
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
    assert {key: found.get(key) for key in expected} == expected
    assert found["NtasksPerN:B:S:C"].startswith("2:")


def test_the_defaults_are_slurm_s_own(held: dict[str, Any], tmp_path: Path) -> None:
    _, found = submit_held(held, tmp_path, runs=1)
    expected = {"Partition": "batch", "Requeue": "1", "ArrayTaskId": "0", "TimeLimit": "01:00:00"}
    assert {key: found.get(key) for key in expected} == expected
    assert "Comment" not in found
    assert found.get("WcKey") is None


def test_slurm_reads_times_as_we_do(held: dict[str, Any]) -> None:
    for text in ("90", "10:30", "90:00", "2:00:00", "1-12", "1-2:30", "0-0:5:30"):
        job = call(
            *("sbatch", "--parsable", "--hold", "--mem=10M", f"--job-name={held['name']}"),
            *(f"--time={text}", "--output=/dev/null", "--wrap=true"),
        ).strip()
        theirs = parse_time(shown(job)["TimeLimit"])
        whole_minutes = -(-parse_time(text) // 60) * 60
        assert theirs == whole_minutes, text


def test_variables_of_the_environment_do_not_win(
    held: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_TIMELIMIT", "7")
    monkeypatch.setenv("SBATCH_PARTITION", "short")
    monkeypatch.setenv("SBATCH_ARRAY_INX", "5-9")
    monkeypatch.setenv("SBATCH_QOS", "normal")
    monkeypatch.setenv("SBATCH_JOB_NAME", "theirs")
    _, found = submit_held(held, tmp_path, partition="batch", time="30")
    expected = {"Partition": "batch", "TimeLimit": "00:30:00", "ArrayTaskId": "0-2"}
    assert {key: found.get(key) for key in expected} == expected
    assert (found["QOS"], found["JobName"]) == ("normal", held["name"])


def test_folders_with_odd_names(
    cluster: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = tmp_path / "py's $(touch PWNED) %A" / "python"
    stub.parent.mkdir()
    stub.write_text(
        '#!/bin/sh\nprintf "%s\\n" "$@" "$VALUE" > "$3/seen"\npwd\necho said so >&2\n'
        'echo "$SLURM_ARRAY_TASK_ID" >> "$3/tasks"\n'
    )
    stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stub))
    value = 'it\'s $(touch PWNED) `x` \\ "%A" ü'
    profile = ClusterProfile(memory="10M", time="5", environment={"VALUE": value})
    jobs = {}
    for odd in ODD:
        folder = tmp_path / odd / "s"
        jobs[folder] = submit(array(profile, 2), profile, folder, "odd.1")
    queue = ("squeue", "--noheader", f"--jobs={','.join(jobs.values())}")
    cluster.wait_until("the end of all jobs", lambda: cluster.ask(*queue) == "")
    for folder, job in jobs.items():
        seen = (folder / "seen").read_text().splitlines()
        assert seen == ["-m", "protoseg.launch.task", str(folder), value]
        assert sorted((folder / "tasks").read_text().split()) == ["0", "1"]
        logs = {path.name: path.read_text() for path in (folder / "logs").iterdir()}
        # `pwd` says where the folder is, without `..`.
        said = f"{os.path.normpath(folder)}\nsaid so\n"
        assert logs == {f"{job}_0.txt": said, f"{job}_1.txt": said}
        assert not (folder / "logs" / f"{job}_0.txt").stat().st_mode & 0o022
    assert not list(tmp_path.rglob("PWNED"))


def test_a_site_s_banner_before_the_answer(
    held: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = call("which", "sbatch").strip()
    wrapper = tmp_path / "bin" / "sbatch"
    wrapper.parent.mkdir()
    wrapper.write_text(
        "#!/bin/sh\nprintf '*** 2026 was a good year ***\\n\\n42 nodes, quota 80%%\\n'\n"
        f'echo "sbatch: lua: fine" >&2\nexec {real} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    job, found = submit_held(held, tmp_path / "s")
    assert (found["JobId"], found["JobName"]) == (job, held["name"])


@pytest.mark.parametrize(
    ("values", "words"),
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
def test_what_slurm_does_not_take_is_told_in_its_words(
    held: dict[str, Any], tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    held["sbatch"] = {}  # of a held job SLURM does not ask whether it could ever start
    with pytest.raises(SubmissionRefused) as caught:
        submit_held(held, tmp_path, **values)
    assert words in str(caught.value)
    assert not caught.value.limit
    assert not caught.value.unsure
    assert not call("squeue", "--noheader", f"--name={held['name']}").strip()


def test_a_limit_on_the_number_of_jobs_is_told_apart(held: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SubmissionRefused, match="QOSMaxSubmitJobPerUserLimit") as caught:
        submit_held(held, tmp_path, runs=30, qos="small")
    assert caught.value.limit
    _, found = submit_held(held, tmp_path, runs=15, qos="small")
    assert found["QOS"] == "small", "fewer are taken"


def test_the_largest_array(held: dict[str, Any], tmp_path: Path) -> None:
    (found,) = re.findall(r"MaxArraySize\s*=\s*(\d+)", call("scontrol", "show", "config"))
    largest = int(found)
    with pytest.raises(SubmissionRefused, match="Invalid job array specification") as caught:
        submit_held(held, tmp_path, runs=largest + 1, array_size=2 * largest)
    assert not caught.value.limit
    _, job = submit_held(held, tmp_path, runs=largest, array_size=2 * largest)
    assert job["ArrayTaskId"] == f"0-{largest - 1}"


def test_a_controller_that_is_away(
    cluster: Testbed, held: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody listens at port 1; sbatch tries for a while.
    elsewhere = copy_config(cluster, tmp_path, SlurmctldPort=1, MessageTimeout=2)
    profile = ClusterProfile()
    with monkeypatch.context() as away:
        away.setenv("SLURM_CONF", str(elsewhere))
        with pytest.raises(SubmissionRefused, match="Unable to contact slurm controller") as caught:
            submit(array(profile), profile, tmp_path, held["name"])
    assert not caught.value.limit
