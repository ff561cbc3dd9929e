"""Comparison of two saved runs: slower, faster, same and inconclusive."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import compare
import pytest
from waiting import DEADLINE

from benchmarks.runs import case, saved

ROOT = Path(__file__).parents[2]


def classify(old: dict[str, Any], new: dict[str, Any]) -> str:
    [line] = compare.compare_runs(saved(old), saved(new))
    return line.verdict


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(2.0, "slower"), (0.5, "faster"), (1.02, "same"), (1.16, "inconclusive")],
)
def test_a_verdict_holds_for_the_whole_interval(factor: float, expected: str) -> None:
    assert classify(case("a", 1e-3, 1e-2), case("a", factor * 1e-3, 1e-2)) == expected
    assert classify(case("a", 1e-3), case("a", factor * 1e-3)) == expected


def test_wide_intervals_are_inconclusive() -> None:
    old, new = (case("a", seconds, 1e-2, spread=0.4) for seconds in (1e-3, 1.5e-3))
    assert classify(old, new) == "inconclusive"
    assert classify(old, old) == "inconclusive"


def test_a_change_of_the_references_too_is_inconclusive() -> None:
    old, new = case("a", 1e-3, 1e-2), case("a", 2e-3, 2e-2)
    assert classify(old, new) == "inconclusive"
    [line] = compare.compare_runs(saved(old), saved(new))
    assert line.change.median == pytest.approx(2)
    assert line.relative is not None
    assert line.relative.median == pytest.approx(1)


def test_each_group_has_its_threshold() -> None:
    slower = [case("a", s, group="training iteration", spread=0.01) for s in (1.0, 1.09)]
    assert classify(*slower) == "slower"
    assert classify(*[{**each, "group": "clustering"} for each in slower]) == "same"
    assert classify(*[{**each, "group": "a group of tomorrow"} for each in slower]) == "same"


def test_every_threshold_belongs_to_a_group_of_the_benchmarks() -> None:
    text = "".join(p.read_text() for p in sorted((ROOT / "benchmarks").glob("test_*.py")))
    for group in compare.THRESHOLDS:
        assert f'"{group}"' in text


@pytest.mark.parametrize("key", compare.MACHINE)
def test_runs_of_different_machines_are_an_error(key: str) -> None:
    one = saved(case("a", 1.0))
    with pytest.raises(ValueError, match=f"{key} is"):
        compare.compare_runs(one, {**one, key: "another"})


def test_runs_without_a_shared_case_are_an_error() -> None:
    with pytest.raises(ValueError, match="share no case"):
        compare.compare_runs(saved(case("a", 1.0)), saved(case("b", 1.0)))


def run_compare(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> tuple[int, str]:
    for name, run in (("old", old), ("new", new)):
        (folder / f"{name}.json").write_text(json.dumps(run))
    script = str(ROOT / "benchmarks" / "compare.py")
    result = subprocess.run(
        [sys.executable, script, "old.json", "new.json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    return result.returncode, result.stdout + result.stderr


def test_the_exit_status_is_1_if_a_case_is_slower(tmp_path: Path) -> None:
    old = saved(case("a", 1e-3, 1e-2), case("b", 1e-3, 1e-2), case("gone", 1.0))
    new = copy.deepcopy(old)
    new["cases"] = [case("a", 1e-3, 1e-2), case("b", 2e-3, 1e-2)]
    new["versions"]["torch"] = "2.14.0"
    status, text = run_compare(tmp_path, old, new)
    assert status == 1
    assert "  same          1.00 (0.96 to 1.04), relative to references 1.00  a" in text
    assert "  slower        2.00 (1.92 to 2.08), relative to references 2.00  b" in text
    assert "torch: 2.13.0 before, 2.14.0 now" in text
    assert "1 slower, 0 faster, 1 same, 0 inconclusive" in text
    assert "in one run only: 1 cases" in text
    assert run_compare(tmp_path, old, old)[0] == 0
    status, text = run_compare(tmp_path, old, {**new, "threads": 1})
    assert (status, "threads is 2" in text) == (2, True)
    assert run_compare(tmp_path, old, {})[0] == 2


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[]", "is not a saved run."),
        ("3", "is not a saved run."),
        ("null", "is not a saved run."),
        ("", "is not JSON."),
        ("\udcff", "is not JSON."),
        ("[" * 100_000, "is not JSON."),
        ('{"schema_version": 1}', "is not a saved run: it has no 'versions' or 'cases'."),
        ('{"versions": {}, "cases": [3]}', "case 0 has no valid times."),
        (
            '{"versions": {}, "cases": [{"group": "g", "case": "c", "references": {}}]}',
            "case 0 has",
        ),
        (None, "cannot be read (No such file or directory)."),
    ],
)
def test_a_file_that_is_no_run_gives_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, problem: str
) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(saved(case("a", 1.0))))
    if content is not None:
        new.write_bytes(content.encode("utf-8", "surrogateescape"))
    for files in ((old, new), (new, old)):
        assert compare.main([str(path) for path in files]) == 2
        message = capsys.readouterr().err
        assert message.startswith(f"compare: {new}: {problem}")
        assert message.count("\n") == 1
