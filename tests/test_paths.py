"""The folders of a call: options, environment variables, checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from protoseg.paths import find_paths, find_root

pytestmark = pytest.mark.install
ROOT = Path(__file__).resolve().parents[1]


def test_options_precede_environment_variables_and_both_precede_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT / "tests")
    for name in ("RUNS", "DATA", "WEIGHTS", "RESULTS", "EXPERIMENTS"):
        monkeypatch.delenv(f"PROTOSEG_{name}", raising=False)
    paths = find_paths()
    assert paths.runs == ROOT / "runs"
    assert paths.weights == ROOT / "data" / "weights"
    assert paths.records == ROOT / "results" / "records"
    monkeypatch.setenv("PROTOSEG_RUNS", "~/runs")
    monkeypatch.setenv("PROTOSEG_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/someone")
    paths = find_paths(data="here")
    assert paths.runs == Path("/home/someone/runs")
    assert paths.data == ROOT / "tests" / "here"
    assert paths.weights == paths.data / "weights"
    assert find_paths().data == tmp_path


def test_the_checkout_is_the_one_that_contains_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = tmp_path / "checkout" / "docs" / "deep"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert find_root() == ROOT
    (tmp_path / "checkout" / "experiments").mkdir()
    (tmp_path / "checkout" / "experiments" / "run.yaml").touch()
    assert find_root() == tmp_path / "checkout"
