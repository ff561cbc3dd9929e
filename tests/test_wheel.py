"""The built package: its files, and commands in an empty folder without the checkout."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from waiting import DEADLINE

from protoseg.config.compose import Composer
from protoseg.config.load_matrix import load_matrix

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
SOURCES = (
    *("protoseg", "experiments", "slurm", "results/published"),
    *("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "NOTICE"),
    *("requirements.lock", "requirements-mm.lock"),
)


def run(*command: str | Path, folder: Path, **variables: str) -> str:
    """Run a command without the variables and the site of the checkout; return its output."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PROTOSEG_", "GIT_"))}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.strip()


def commit_all(folder: Path) -> str:
    """Make a repository of a folder, and return its commit."""
    author = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    run("git", "init", "--quiet", folder=folder)
    run("git", "add", "--all", folder=folder)
    run("git", *author, "commit", "--quiet", "--message=First", folder=folder)
    return run("git", "rev-parse", "HEAD", folder=folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the sources of the package, in one commit."""
    folder = tmp_path_factory.mktemp("source") / "protoseg"
    for name in SOURCES:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, target)
    commit_all(folder)
    return folder


@pytest.fixture(scope="module")
def installed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, from a wheel that is built from a source distribution."""
    folder = tmp_path_factory.mktemp("built")
    build = "from setuptools import build_meta; import sys; print(build_meta.{}(sys.argv[1]))"
    output = run(sys.executable, "-c", build.format("build_sdist"), folder, folder=source)
    with tarfile.open(folder / output.splitlines()[-1]) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    old = unpacked / "build" / "lib" / "protoseg" / "shipped" / "experiments" / "old.yaml"
    old.parent.mkdir(parents=True)
    old.touch()  # of an earlier build; since then it was deleted
    output = run(sys.executable, "-c", build.format("build_wheel"), folder, folder=unpacked)
    wheel = folder / output.splitlines()[-1]
    shutil.unpack_archive(wheel, folder / "site", "zip")
    return folder / "site"


@pytest.fixture
def protoseg(installed: Path, tmp_path: Path) -> Any:
    """Calls the installed command in an empty folder; returns its output."""

    def call(*arguments: str, folder: Path = tmp_path) -> str:
        command = (sys.executable, "-m", "protoseg.cli", *arguments)
        return run(*command, folder=folder, PYTHONPATH=str(installed))

    return call


def test_the_package_has_all_files_that_it_reads(installed: Path) -> None:
    shipped = installed / "protoseg" / "shipped"
    names = {path.relative_to(shipped) for path in shipped.rglob("*") if path.is_file()}
    patterns = ("experiments/**/*.yaml", "slurm/*.yaml", "results/published/*.yaml")
    expected = {path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern)}
    expected |= {Path("requirements.lock"), Path("requirements-mm.lock")}
    assert names == expected | {Path("build.json")}
    for name in expected:
        assert (shipped / name).read_bytes() == (ROOT / name).read_bytes()
    assert (installed / "protoseg" / "py.typed").is_file()


def test_the_commands_work_in_an_empty_folder(protoseg: Any, source: Path, tmp_path: Path) -> None:
    commit = run("git", "rev-parse", "HEAD", folder=source)
    assert f"(commit {commit[:10]})" in protoseg("--version")
    planned = json.loads(protoseg("plan", "quickstart", "--json"))["runs"]
    matrix = load_matrix(Composer(ROOT / "experiments"), "quickstart")
    assert [run["run_id"] for run in planned] == [run.run_id for run in matrix.runs]
    small = (
        "schedule.iterations=2",
        "schedule.warmup_iterations=0",
        "seed=0",
        "schedule.batch_size=2",
    )
    protoseg("sweep", "quickstart", *small, "--threads", "1")
    table = protoseg("tables", "quickstart", *small, "--markdown")
    assert "ProtoSeg, K = 4" in table
    (record, *_) = (tmp_path / "runs").rglob("record.json")
    provenance = json.loads(record.read_text())["provenance"]
    assert (provenance["commit"], provenance["dirty"]) == (commit, False)
    assert provenance["lock_sha256"] is not None
    assert "project" not in provenance


def test_the_commands_of_the_page_work_and_records_have_the_commit_of_the_project(
    protoseg: Any, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "installation.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    commands = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    calls = [shlex.split(line)[1:] for line in commands if line.startswith("protoseg ")]
    assert len(calls) >= 10
    project = tmp_path / "my_project"
    small = ("schedule.iterations=2", "schedule.warmup_iterations=0", "seed=0")
    for call in calls:
        folder = project / "experiments" if project.exists() else tmp_path
        protoseg(*call, *(small if "first" in call else ()), folder=folder)
        if call[0] == "init":
            commit = commit_all(project)
    records = list((project / "runs").rglob("record.json"))
    assert len(records) == 2
    for record in records:
        provenance = json.loads(record.read_text())["provenance"]
        assert provenance["project"] == {"commit": commit, "dirty": False}
