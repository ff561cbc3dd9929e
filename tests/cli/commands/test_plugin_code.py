"""A changed source of a plug-in package: `plan` names the runs, and `sweep` asks for a choice."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.conftest import CommandLine
from protoseg import files
from protoseg.config.compose import Composer
from protoseg.config.load_matrix import load_matrix
from protoseg.config.matrix import PlannedRun
from protoseg.config.plugin_source import describe_plugin

ROOT = Path(__file__).parents[3]
MATRIX = """
base: {backbone.settings: {type: outsider.Net}}
seeds: [0, 1]
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module ``outsider`` that can be found, but whose import fails."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    (folder / "outsider.py").write_text("raise RuntimeError('planning must not import this')\n")
    return folder / "outsider.py"


@pytest.fixture
def matrix(tmp_path: Path) -> str:
    (tmp_path / "mine.yaml").write_text(MATRIX)
    return str(tmp_path / "mine.yaml")


def plan_runs(matrix: str) -> list[PlannedRun]:
    return list(load_matrix(Composer(ROOT / "experiments"), matrix).runs)


def change(plugin: Path) -> None:
    plugin.write_text(plugin.read_text() + "# changed\n")


def test_finished_runs_of_other_code_need_a_choice(
    protoseg: CommandLine, plugin: Path, matrix: str
) -> None:
    origin = {"outside": {"outsider": describe_plugin("outsider")}}
    for run in plan_runs(matrix):
        protoseg.record(run, 70.0, provenance=origin)
    assert "Changed code" not in protoseg("plan", matrix).out
    assert protoseg("sweep", matrix).status == 0

    before = str(describe_plugin("outsider")["sha256"])
    change(plugin)
    now = str(describe_plugin("outsider")["sha256"])
    result = protoseg("plan", matrix)
    text = " ".join(result.out.split())
    assert result.status == 0
    assert f"(source {before[:10]}; now {now[:10]})" in text
    assert "2 runs were trained with other code of the package outsider" in text
    (entry,) = protoseg("plan", matrix, "--json").json["changed_plugins"]
    assert (entry["recorded"], entry["current"]) == ([before], now)
    assert len(entry["run_ids"]) == 2

    refused = protoseg("sweep", matrix)
    assert (refused.status, refused.out) == (2, "")
    assert "set plugin_version=2" in refused.err
    assert "--accept-code" in refused.err
    accepted = protoseg("sweep", matrix, "--accept-code")
    assert (accepted.status, "Nothing to do" in accepted.out) == (0, True)
    assert "2 new" in protoseg("plan", matrix, "plugin_version=2").out


def test_an_interrupted_run_of_other_code_needs_a_choice(
    protoseg: CommandLine, plugin: Path, matrix: str
) -> None:
    run = plan_runs(matrix)[0]
    attempts = protoseg.lab.runs / run.run_id / "attempts"
    for number, outside in ((1, {"outsider": describe_plugin("outsider")}), (2, None)):
        folder = attempts / f"{number:04d}"
        folder.mkdir(parents=True)
        if outside:  # the second attempt ended before it had written its code
            files.write_json(folder / "code.json", {"outside": outside})
    assert "Changed code" not in protoseg("plan", matrix).out
    change(plugin)
    assert "1 run was trained with other code" in " ".join(protoseg("plan", matrix).out.split())
    assert protoseg("sweep", matrix).status == 2


def test_a_plugin_version_without_a_plugin_is_refused(protoseg: CommandLine) -> None:
    result = protoseg("plan", "quickstart", "plugin_version=2")
    assert result.status == 2
    assert "plugin_version: 2 has no effect" in result.err
