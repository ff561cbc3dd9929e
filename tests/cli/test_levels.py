"""Metrics of levels on the command line: plan, tables, explain, compare, fill and verify."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded import parametric_on_camvid

from cli.conftest import CommandLine
from protoseg.report.statistics import levels
from protoseg.runs.results.evaluation import EVALUATIONS

MATRIX = """\
title: Two parametric heads
base: {dataset: camvid, backbone: mobilenet_v2, decoder: segformer_128,
  augmentation: camvid_256, schedule: cpu_300}
rows:
  - {label: one, method: parametric}
  - {label: ten, method: parametric, method.num_prototypes: 10}
seeds: [0, 1, 2]
table:
  metrics: [miou@2, miou, mistake_distance]
  baseline: {label: one}
"""
"""A part of the matrix `camvid_methods`, whose runs have committed records."""


@pytest.fixture
def matrix(protoseg: CommandLine, tmp_path: Path) -> str:
    """The path of MATRIX, with the committed records of its runs."""
    for path in parametric_on_camvid(1, 10):
        shutil.copy(path, protoseg.lab.records)
        shutil.copy(path.with_suffix(".npz"), protoseg.lab.records)
    path = tmp_path / "experiments" / "matrices" / "small.yaml"
    shutil.copytree(protoseg.paths[1], tmp_path / "experiments", dirs_exist_ok=True)
    path.write_text(MATRIX)
    protoseg.paths[1] = str(tmp_path / "experiments")
    return "small"


def test_a_plan_names_the_classes_on_short_branches(protoseg: CommandLine, matrix: str) -> None:
    line = "camvid: sky is its own group on level 2."
    assert line in protoseg("plan", matrix).out.splitlines()
    assert protoseg("plan", matrix, "--json").json["short_branches"] == {matrix: [line]}
    assert "own group" not in protoseg("plan", "camvid_methods").out
    path = Path(protoseg.paths[1]) / "matrices" / "heads.yaml"
    path.write_text("base: {dataset: camvid, method: prototype_hierarchical}\n")
    assert line in protoseg("plan", "heads").out.splitlines()
    assert "Smallest true difference in mIoU, level 2" in protoseg("plan", matrix).out


def test_a_level_that_does_not_exist_ends_a_plan(protoseg: CommandLine, matrix: str) -> None:
    path = Path(protoseg.paths[1]) / "matrices" / "small.yaml"
    path.write_text(MATRIX.replace("miou@2", "miou@3"))
    result = protoseg("plan", matrix)
    assert result.status == 2
    assert "the tree of camvid has levels 1 to 2. Name one of these levels" in result.err
    path.write_text(MATRIX.replace("miou@2", "miou@1"))
    assert "unknown metric 'miou@1'. Did you mean 'miou'?" in protoseg("plan", matrix).err


def test_the_commands_show_a_level(protoseg: CommandLine, matrix: str, tmp_path: Path) -> None:
    result = protoseg("tables", matrix, "--json")
    assert result.status == 0
    shown = {(row["row"], row["metric"]): row["mean"] for row in result.json["tables"][matrix]}
    explained = protoseg("explain", matrix, "one", "miou@2", "--json").json
    values = [run["value"] for run in explained["runs"]]
    assert float(shown["one", "miou@2"]) == pytest.approx(sum(values) / 3)
    assert values != [float(shown["one", "miou"])] * 3
    page = tmp_path / "page.md"
    page.write_text("<!-- mean small one miou@2 -->0<!-- -->\n")
    assert protoseg("fill", str(page)).status == 0
    assert f"-->{sum(values) / 3:.2f}<!-- -->" in page.read_text()
    compared = protoseg("compare", matrix, "one", "ten", "miou@2", "--draws", "20", "--json").json
    assert compared["our_miou"] == pytest.approx(float(shown["one", "miou"]))
    assert "not the column mIoU, level 2" in compared["notes"][0]


def test_a_run_without_counts_gives_a_warning(protoseg: CommandLine, matrix: str) -> None:
    lost = sorted(protoseg.lab.records.glob("*.npz"))[0]
    lost.unlink()
    result = protoseg("tables", matrix)
    assert result.status == 1
    assert f"{lost}: the confusion counts of {lost.stem} are gone." in result.err
    assert "without seed 0 (no confusion counts)" in result.out


def find_check(protoseg: CommandLine, name: str, *arguments: str) -> Any:
    checks = protoseg("verify", *arguments, "--json").json["checks"]
    return next(check for check in checks if check["group"] == name)


def test_verify_computes_the_levels_with_a_second_program(
    protoseg: CommandLine, matrix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert protoseg("tables", matrix).status == 0
    assert protoseg("verify", matrix).status == 0
    check = find_check(protoseg, "levels", matrix)
    # 6 runs: four metrics on level 2, and the mistake distance.
    assert (check["count"], check["problems"]) == (6 * 5, [])
    correct = levels.merge_matrix

    def lose_predictions(matrix: Any, ancestors: Any, size: int) -> Any:
        return np.triu(correct(matrix, ancestors, size))

    monkeypatch.setattr(levels, "merge_matrix", lose_predictions)
    assert protoseg("tables", matrix).status == 0
    problems = find_check(protoseg, "levels", matrix)["problems"]
    assert {problem["column"] for problem in problems} == {
        *("miou@2", "miou_present@2", "macc@2", "aacc@2"),
    }
    assert find_check(protoseg, "tables", matrix)["problems"] == []


def test_other_checks_report_what_levels_cannot_be_computed_from(
    protoseg: CommandLine, matrix: str
) -> None:
    records = protoseg.lab.records
    damaged, missing, evaluated = sorted(records.glob("*.json"))[:3]
    damaged.with_suffix(".npz").write_bytes(b"no archive")
    missing.unlink()
    folder = records.parent / EVALUATIONS
    folder.mkdir()
    (folder / f"{evaluated.stem}.damaged.json").write_text("{}")
    assert protoseg("tables", matrix).status == 1
    check = find_check(protoseg, "levels", matrix)
    assert (check["count"], check["problems"]) == (4 * 5, [])
