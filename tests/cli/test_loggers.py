"""The loggers of a sweep: from options, the cluster profile or the environment; no identity."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli.conftest import CommandLine
from protoseg import files
from protoseg.cli import cluster_sweep, local_sweep
from protoseg.cli.local_sweep import Outcome
from protoseg.config.fields import to_plain
from protoseg.config.identity import run_id
from protoseg.launch import submit
from protoseg.launch.local import LocalSweep
from protoseg.launch.profile.profile import ClusterProfile
from protoseg.launch.submit import SubmissionResult
from protoseg.runs.folder import Launch, RunFolder


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """The launch settings of each sweep on this machine; nothing is trained."""
    settings: list[Launch] = []

    def run_sweep(plan: Any, runs: Path, launch: Launch, **options: Any) -> Outcome:
        settings.append(launch)
        return Outcome(interrupted=["x"])

    monkeypatch.setattr(local_sweep, "run_sweep", run_sweep)
    return settings


def test_a_sweep_starts_the_named_loggers(
    protoseg: CommandLine, launches: list[Launch], monkeypatch: pytest.MonkeyPatch
) -> None:
    protoseg("sweep", "quickstart")
    protoseg("sweep", "quickstart", "--logger", "jsonl", "--logger", "jsonl")
    protoseg("train", "dataset=shapes", "--logger", "jsonl")
    monkeypatch.setenv("PROTOSEG_LOGGERS", " jsonl ,")
    protoseg("sweep", "quickstart")
    assert [launch.loggers for launch in launches] == [[], ["jsonl"], ["jsonl"], ["jsonl"]]


@pytest.mark.parametrize("verb", [("sweep", "quickstart"), ("train", "dataset=shapes")])
def test_an_unknown_logger_is_refused_before_any_work(
    protoseg: CommandLine, launches: list[Launch], verb: tuple[str, ...]
) -> None:
    result = protoseg(*verb, "--logger", "tensorbord")
    assert result.status == 2
    assert "--logger: unknown logger 'tensorbord'. Did you mean 'tensorboard'?" in result.err
    assert launches == []


def test_the_environment_is_named_in_an_error(
    protoseg: CommandLine, launches: list[Launch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROTOSEG_LOGGERS", "jsonl,csv")
    assert "PROTOSEG_LOGGERS: unknown logger 'csv'" in protoseg("sweep", "quickstart").err


def test_loggers_are_launch_settings_and_no_part_of_the_identity(
    tmp_path: Path, protoseg: CommandLine
) -> None:
    spec = protoseg.quickstart()[0].spec
    launch = Launch(data="", weights="", loggers=["jsonl"])
    entry: Any = SimpleNamespace(run=SimpleNamespace(run_id=run_id(spec), spec=spec))
    sweep = LocalSweep(tmp_path, launch, jobs=1)
    (folder,) = sweep.prepare([entry])
    assert files.read_json(folder.launch)["loggers"] == ["jsonl"]
    assert "jsonl" not in folder.spec.read_text()
    assert folder.read_spec() == to_plain(spec, identity=True)
    # A sweep without loggers replaces the settings; equal ones are not written again.
    RunFolder(folder.path).create(to_plain(spec, identity=True), vars(Launch("", "")))
    assert files.read_json(folder.launch)["loggers"] == []
    assert Launch(**files.read_json(folder.launch)) == Launch("", "")


def test_a_cluster_gets_the_loggers_of_its_profile_or_of_the_options(
    protoseg: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    profiles: list[ClusterProfile] = []

    def submit_runs(
        make_plan: Any, runs: Path, profile: ClusterProfile, *arguments: Any, **options: Any
    ) -> SubmissionResult:
        profiles.append(profile)
        return SubmissionResult()

    monkeypatch.setattr(cluster_sweep, "submit_runs", submit_runs)
    call = ("sweep", "quickstart", "cluster=one_h200")
    protoseg(*call)
    protoseg(*call, "cluster.loggers=[jsonl]")
    monkeypatch.setenv("PROTOSEG_LOGGERS", "jsonl")
    protoseg(*call)
    protoseg(*call, "cluster.loggers=[jsonl]", "--logger", "jsonl")
    loggers = [profile.loggers for profile in profiles]
    assert loggers == [(), ("jsonl",), ("jsonl",), ("jsonl",)]
    wrong = protoseg(*call, "cluster.loggers=[csv]")
    assert "cluster one_h200: loggers: unknown logger 'csv'" in wrong.err
    written: dict[str, Any] = {}
    monkeypatch.setattr(submit, "write_intent", lambda *a, **settings: written.update(settings))
    monkeypatch.setattr(submit, "read_cluster_name", lambda: "c")
    array: Any = SimpleNamespace(entries=[], resources=profiles[0].resources({}))
    profile = dataclasses.replace(profiles[0], loggers=("jsonl", "tensorboard"))
    submit._write_intent(tmp_path, array, profile, {"data": "", "weights": ""}, "m", False)
    assert written["launch"]["loggers"] == ["jsonl", "tensorboard"]
