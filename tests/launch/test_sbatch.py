"""Tests of batch scripts: their text, and values that are passed but never executed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch.arrays import make_array
from protoseg.config.hydra.folders import ConfigFolders
from protoseg.errors import UsageError
from protoseg.launch import batch_script
from protoseg.launch.batch_script import BatchExecutor
from protoseg.launch.profile.profile import ClusterProfile, load_profile
from protoseg.launch.sbatch import (
    make_batch_script,
    preview_scripts,
    submit_array,
)
from protoseg.launch.sbatch_errors import SubmissionRefused, parse_refusal

GOLDEN = Path(__file__).parent / "golden"
SLURM = Path(__file__).resolve().parents[2] / "slurm"
FOLDER = Path("/scratch/meine läufe/.submissions/20260102-030405-abcdef")

EVERYTHING = {
    "partition": "a,b",
    "account": "lab",
    "qos": "long",
    "reservation": "mine",
    "constraint": "[rack1|rack2]&ssd",
    "nodes": 2,
    "gpus": 4,
    "gpu_type": "h100",
    "cpus": 6,
    "memory": "1536M",
    "time": "1-12",
    "modules": ["gcc/13", "cuda/12.4"],
    "throttle": 2,
    "signal_seconds": 300,
    "requeue": False,
    "environment": {"PLAIN": "1", "QUOTED": 'it\'s "$HOME" `id`', "EMPTY": ""},
    "sbatch": {"exclusive": True, "comment": "half 'n' half # \\ done", "nice": 100},
}
ODD = [
    *("sp ace", "qu'ote", 'dou"ble', "$(touch PWNED)", "`touch PWNED`", "a;touch PWNED;b"),
    *(
        "a&&touch PWNED",
        "a|b",
        "%A%a%j%%",
        "hash #x",
        "ümläut →",
        "*?[x]",
        "~",
        "{a,b}",
        "!x",
        "..",
    ),
    *("'; touch PWNED; '", '"; touch PWNED; "', "-n", "$HOME", "${IFS}", "<x>", "a\u00a0b"),
]


def make_profile(data: dict[str, Any]) -> ClusterProfile:
    profile = ClusterProfile(**{k: tuple(v) if k == "modules" else v for k, v in data.items()})
    assert isinstance(profile, ClusterProfile)
    return profile


def parse_options(text: str) -> dict[str, str | bool]:
    """Parse the options of a script with the quoting rules of a shell."""
    options: dict[str, str | bool] = {}
    for line in text.split("\n"):
        if line.startswith("#SBATCH"):
            _, word = shlex.split(line)
            name, equals, value = word.removeprefix("--").partition("=")
            options[name] = value if equals else True
    return options


@pytest.mark.parametrize("name", ["testbed", "one_h200", "eight_gpus", "everything"])
def test_batch_scripts_equal_the_golden_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference changes the jobs of users: check it, then update the golden file."""
    monkeypatch.setattr(sys, "executable", "/opt/my venv/bin/python")
    profile = (
        make_profile(EVERYTHING)
        if name == "everything"
        else load_profile(ConfigFolders(SLURM), name)
    )
    text = make_batch_script(make_array(profile), profile, FOLDER, "matrix.abcdef")
    assert text == (GOLDEN / f"{name}.sh").read_text(encoding="utf-8")


def test_one_run_is_an_array_of_one_task() -> None:
    profile = ClusterProfile()
    assert (
        parse_options(make_batch_script(make_array(profile, 1), profile, FOLDER, "m.1"))["array"]
        == "0-0"
    )


def test_unset_keys_of_a_profile_give_no_options() -> None:
    profile = ClusterProfile()
    options = parse_options(make_batch_script(make_array(profile), profile, FOLDER, "m.1"))
    unset = {"partition", "account", "qos", "reservation", "constraint", "mem", "gpus-per-node"}
    assert not unset & set(options)
    assert "wckey" not in options


def test_the_last_line_starts_the_task() -> None:
    profile = make_profile(EVERYTHING)
    text = make_batch_script(make_array(profile), profile, FOLDER, "m.1")
    assert shlex.split(text.rstrip("\n").split("\n")[-1]) == [
        *("exec", sys.executable, "-m", "protoseg.launch.task", str(FOLDER))
    ]


def test_preview_shows_each_array() -> None:
    profile = ClusterProfile(array_size=2)
    whole = make_array(ClusterProfile(), 3)
    shown = preview_scripts(
        [whole.slice_tasks(0, 2), whole.slice_tasks(2, None)], profile, Path("/r uns"), "a b.yaml"
    )
    first, last = whole.run_ids[0], whole.run_ids[2]
    assert f"# ---- array 1 of 2: 2 runs ({first} ... {whole.run_ids[1]})\n#!/bin/bash" in shown
    assert f"# ---- array 2 of 2: 1 run ({last})\n#!/bin/bash" in shown
    assert shown.count("#SBATCH --job-name=a-b-yaml.NONCE") == 2
    assert shown.count("exec ") == 2


# Execution of scripts.


@pytest.fixture
def fake_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python that prints its arguments, in a folder with special characters."""
    path = tmp_path / "py's $(touch PWNED) bin" / "python"
    path.parent.mkdir()
    path.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "mask = os.umask(0)\n"
        "print(json.dumps([sys.argv, dict(os.environ), mask]))\n"
    )
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    return path


def execute(text: str, folder: Path, umask: int = 0o022) -> tuple[list[str], dict[str, str], int]:
    """Run a script as a job does, and return arguments, environment and umask of Python."""
    file = folder / "script.sh"
    file.write_text(text, encoding="utf-8")
    assert subprocess.run(["bash", "-n", file], capture_output=True, text=True).stderr == ""
    environment = {"PATH": os.environ["PATH"], "BASH_FUNC_module%%": '() { echo "$@" >> modules; }'}
    result = subprocess.run(
        ["bash", file], cwd=folder, env=environment, capture_output=True, text=True, umask=umask
    )
    assert result.stderr == ""
    assert result.returncode == 0
    arguments, variables, mask = json.loads(result.stdout)
    return arguments, variables, mask


def test_special_characters_are_passed_and_not_executed(fake_python: Path, tmp_path: Path) -> None:
    values = {f"V{number}": value for number, value in enumerate([*ODD, "back\\slash", "a\\"])}
    for odd in ODD:
        folder = tmp_path / "runs" / odd / ".submissions" / "x-1"
        profile = ClusterProfile(environment=values, modules=("gcc/13", "cuda/12.4"))
        work = tmp_path / "work"
        work.mkdir(exist_ok=True)
        text = make_batch_script(make_array(profile), profile, folder, "m.1")
        arguments, variables, _ = execute(text, work)
        assert arguments == [str(fake_python), "-m", "protoseg.launch.task", str(folder)]
        assert {name: variables[name] for name in values} == values
        assert (work / "modules").read_text() == "load gcc/13\nload cuda/12.4\n"
        (work / "modules").unlink()
        assert parse_options(text)["chdir"] == str(folder)
        assert parse_options(text)["output"] == str(folder).replace("%", "%%") + "/logs/%A_%a.txt"
    assert not list(tmp_path.rglob("PWNED"))


printable = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=30)
shell = st.text("ab '\"\\$`(){}[]<>|&;*?!#~%=-\t"[:-1], max_size=30)


@given(st.lists(printable | shell, min_size=1, max_size=30))
@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_text_is_passed_unchanged(fake_python: Path, tmp_path: Path, values: list[str]) -> None:
    environment = {f"V{number}": value for number, value in enumerate(values)}
    options = {"comment": values[0], "mail-user": values[-1]}
    profile = ClusterProfile(environment=environment, sbatch=options)
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    text = make_batch_script(make_array(profile), profile, tmp_path, "m.1")
    _, variables, _ = execute(text, work)
    assert {name: variables[name] for name in environment} == environment
    # For sbatch a backslash is an escape character, also inside quotes, so it is doubled.
    assert parse_options(text)["comment"] == values[0].replace("\\", "\\\\")
    assert parse_options(text)["mail-user"] == values[-1].replace("\\", "\\\\")
    assert len(re.findall("^#SBATCH", text, re.MULTILINE)) == len(parse_options(text))


@pytest.mark.parametrize(
    ("outside", "inside"), [(0o000, 0o002), (0o002, 0o002), (0o022, 0o022), (0o077, 0o077)]
)
def test_other_users_cannot_write_the_files_of_a_job(
    fake_python: Path, tmp_path: Path, outside: int, inside: int
) -> None:
    profile = ClusterProfile()
    text = make_batch_script(make_array(profile), profile, tmp_path, "m.1")
    assert execute(text, tmp_path, outside)[2] == inside


def test_a_module_that_cannot_be_loaded_stops_the_job(fake_python: Path, tmp_path: Path) -> None:
    profile = ClusterProfile(modules=("cuda/1", "gcc/1"))
    file = tmp_path / "script.sh"
    file.write_text(make_batch_script(make_array(profile), profile, tmp_path, "m.1"))
    broken = {"PATH": os.environ["PATH"], "BASH_FUNC_module%%": "() { echo no $2 >&2; return 1; }"}
    result = subprocess.run(["bash", file], env=broken, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (78, "", "no cuda/1\n")
    result = subprocess.run(["bash", file], env={}, capture_output=True, text=True)
    assert result.returncode == 78, "a machine without the module command"
    assert result.stdout == ""


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\u2028b", "\udcff", "a\x1b[0mb"])
def test_paths_with_control_characters_are_an_error(
    bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = ClusterProfile()
    with pytest.raises(UsageError, match=r"^run folders: .* one line of text\. Use another"):
        make_batch_script(make_array(profile), profile, Path("/x") / bad, "m.1")
    monkeypatch.setattr(sys, "executable", f"/x/{bad}/python")
    with pytest.raises(UsageError, match=r"^python: "):
        make_batch_script(make_array(profile), profile, FOLDER, "m.1")


def test_a_backslash_in_a_folder_name_is_an_error() -> None:
    profile = ClusterProfile()
    with pytest.raises(UsageError, match="a backslash in its name"):
        make_batch_script(make_array(profile), profile, Path("/x/a\\b"), "m.1")


@pytest.mark.parametrize("name", ["", "a b", "a\n#SBATCH --wait", "a;b", "ä", "a%j", "$(id)", "-x"])
def test_a_job_name_with_other_characters_is_an_error(name: str) -> None:
    profile = ClusterProfile()
    with pytest.raises(UsageError):
        make_batch_script(make_array(profile), profile, FOLDER, name)


# Answers of sbatch.


@pytest.mark.parametrize(
    ("output", "job"),
    [
        ("123\n", "123"),
        ("123;cluster\n", "123"),
        ("*** Welcome to site 2024 ***\n\nMaintenance on 12.3.\n123\n", "123"),
        ("7\n123\n", "123"),
        ("Submitted batch job 123\n", "123"),
        ("Submitted batch job 123 on cluster c1\n", "123"),
        ("\x1b[31mQuota: 80%\x1b[0m\r\n  123  \r\n", "123"),
        ("caf\u00e9\n123", "123"),
    ],
)
def test_the_job_number_is_found_after_banners(output: str, job: str) -> None:
    assert BatchExecutor._get_job_id_from_submission_command(output) == job
    assert BatchExecutor._get_job_id_from_submission_command(output.encode("latin-1")) == job


@pytest.mark.parametrize("output", ["", "ok\n", "12a\n", "job\n"])
def test_an_answer_without_a_job_number_is_unsure(output: str) -> None:
    with pytest.raises(SubmissionRefused) as caught:
        BatchExecutor._get_job_id_from_submission_command(output)
    assert caught.value.is_unsure
    assert not caught.value.is_limit


POLICY = (
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit "
    "limit, user's size and/or time limits)\n"
)


@pytest.mark.parametrize(
    ("output", "limit", "unsure"),
    [
        (f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{POLICY}", True, False),
        (f"sbatch: error: AssocMaxSubmitJobLimit\n{POLICY}", True, False),
        (f"sbatch: error: AssocGrpSubmitJobsLimit\n{POLICY}", True, False),
        (POLICY, True, False),
        (f"sbatch: error: QOSMaxWallDurationPerJobLimit\n{POLICY}", False, False),
        (f"sbatch: error: QOSMaxGRESPerJob\n{POLICY}", False, False),
        (f"sbatch: error: AssocGrpCPUMinutesLimit\n{POLICY}", False, False),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", True, 0),
        ("sbatch: error: Batch job submission failed: Resource temporarily unavailable", True, 0),
        ("sbatch: error: Batch job submission failed: Invalid partition name specified", 0, 0),
        ("sbatch: error: Batch job submission failed: Invalid job array specification", 0, 0),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller", 0, 0),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv op", 0, True),
        ("sbatch: error: Batch job submission failed: Zero Bytes were transmitted or rec", 0, True),
        ("", 0, 0),
    ],
)
def test_refusals_are_classified(output: str, limit: bool, unsure: bool) -> None:
    error = parse_refusal(output)
    assert (error.is_limit, error.is_unsure) == (bool(limit), bool(unsure))
    assert str(error).startswith("sbatch: ")
    assert str(error).endswith(".")
    assert "\n" not in str(error)
    assert "error:" not in str(error)


def install_sbatch(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Install a program named sbatch as the first on PATH."""
    folder.mkdir()
    program = folder / "sbatch"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_sbatch_gets_the_script_and_a_clean_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_sbatch(
        tmp_path / "bin", monkeypatch, 'for x; do echo "arg $x"; done; env; umask; echo 77'
    )
    for name, value in {
        "SBATCH_WAIT": "1",
        "SBATCH_TIMELIMIT": "1",
        "SBATCH_PARTITION": "theirs",
        "SBATCH_ACCOUNT": "theirs",
        "SLURM_JOB_ID": "5",
        "SLURM_MEM_PER_CPU": "7",
        "SLURM_CONF": "/etc/x",
        "SBATCH_ARRAY_INX": "1-5",
    }.items():
        monkeypatch.setenv(name, value)
    profile = ClusterProfile(partition="ours")
    folder = tmp_path / "it's $(x)"
    answers: dict[str, bytes] = {}
    parse_job_id = BatchExecutor._get_job_id_from_submission_command

    def keep_answer(answer: bytes) -> str:
        answers["answer"] = answer
        return parse_job_id(answer)

    monkeypatch.setattr(
        BatchExecutor, "_get_job_id_from_submission_command", staticmethod(keep_answer)
    )
    old = os.umask(0)
    try:
        assert submit_array(make_array(profile), profile, folder, "m.1") == "77"
    finally:
        os.umask(old)
    lines = answers["answer"].decode().splitlines()
    assert [line for line in lines if line.startswith("arg ")] == [
        *("arg --parsable", f"arg {folder}/script.sh")
    ]
    slurm = sorted(line for line in lines if re.match("SBATCH_|SLURM_", line))
    assert slurm == ["SBATCH_ACCOUNT=theirs", "SLURM_CONF=/etc/x"]
    assert "0002" in lines
    assert (folder / "script.sh").read_text() == make_batch_script(
        make_array(profile), profile, folder, "m.1"
    )
    assert (folder / "logs").is_dir()
    assert not (folder / "logs").stat().st_mode & 0o002
    assert not (folder / "script.sh").stat().st_mode & 0o002


def test_a_refusal_contains_the_message_of_sbatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_sbatch(tmp_path / "bin", monkeypatch, "echo 'sbatch: error: No, never.' >&2; exit 1")
    profile = ClusterProfile()
    with pytest.raises(SubmissionRefused) as caught:
        submit_array(make_array(profile), profile, tmp_path, "m.1")
    assert str(caught.value) == "sbatch: No, never."


def test_a_hanging_sbatch_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_sbatch(tmp_path / "bin", monkeypatch, "exec sleep 600")
    monkeypatch.setattr(batch_script, "SBATCH_SECONDS", 0.1)
    profile = ClusterProfile()
    with pytest.raises(SubmissionRefused, match="did not answer") as caught:
        submit_array(make_array(profile), profile, tmp_path, "m.1")
    assert caught.value.is_unsure


def test_a_missing_sbatch_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    profile = ClusterProfile()
    with pytest.raises(UsageError, match="sbatch: not found on this machine"):
        submit_array(make_array(profile), profile, tmp_path, "m.1")
