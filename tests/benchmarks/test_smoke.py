"""The benchmarks run: the smallest case of each file, checked and not timed; one saved for real."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALLEST = (
    "test_clustering.py::test_even_classes[10000-5-1]",
    "test_clustering.py::test_assignment_and_update[16384-847-long tail]",
    "test_alternatives.py::test_scaling",
    "test_contrast.py::test_step[4096-11-50-64]",
    "test_head.py::test_forward_and_backward[1-19-1]",
    "test_inference.py::test_head[19-1]",
    "test_inference.py::test_whole_model",
    "test_training.py::test_mobilenet_v2",
    "test_determinism.py::test_tiny",
    "test_planning.py::test_plan[plan-1000]",
    "test_overhead.py::test_checkpoint[paper]",
)


def run(*words: str) -> str:
    # Not a process of xdist's, where pytest-benchmark would refuse to time.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_XDIST")}
    environment = {**kept, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def shell_lines() -> list[str]:
    """The commands of docs/benchmarks.md."""
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]


def test_every_file_has_a_case_here() -> None:
    files = {path.name for path in (ROOT / "benchmarks").glob("test_*.py")}
    assert {case.partition("::")[0] for case in SMALLEST} == files


def test_the_smallest_cases_run_and_give_the_right_answers() -> None:
    cases = [f"benchmarks/{case}" for case in SMALLEST]
    out = run("-m", "pytest", *cases, "--benchmark-disable", "-q", "-p", "no:cacheprovider")
    assert f"{len(SMALLEST)} passed" in out


def test_a_run_is_saved_without_host_and_paths_and_becomes_tables(tmp_path: Path) -> None:
    path = tmp_path / "saved.json"
    case = "test_even_classes and 10000-5-19"
    run("benchmarks/run.py", "--out", str(path), "--seconds", "0.05", "-k", case)
    saved = json.loads(path.read_text())
    [found] = saved["cases"]
    assert found["case"] == "10,000 px, K = 5, 19 classes"
    others = {"loop", "loop, released", "POT sinkhorn", "POT sinkhorn_log", "exponentials alone"}
    assert set(found["references"]) == others
    for times in (found["ours"], *found["references"].values()):
        assert 0 < times["low"] <= times["median"] <= times["high"] < 10
    for reference in found["references"].values():
        ratio = reference["ratio"]
        assert ratio["low"] <= ratio["median"] <= ratio["high"]
    assert found["rounds"] >= 7
    assert (saved["threads"], len(saved["commit"])) == (1, 40)
    assert {"torch", "POT", "python"} <= set(saved["versions"])
    for secret in (os.uname().nodename, str(ROOT), str(Path.home())):
        assert secret not in path.read_text()
    assert (tmp_path / "saved.md").exists()
    assert "10,000 px" in (tmp_path / "saved.tex").read_text()
    assert (tmp_path / "saved.csv").read_text().count("\n") == 7


@pytest.mark.parametrize("line", shell_lines())
def test_a_documented_command_names_what_exists(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "make":
        result = subprocess.run(
            ["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        script = re.findall(r"benchmarks/\w+\.py", result.stdout)
        assert script
        assert all((ROOT / path).is_file() for path in script)
    elif words[0] == "python":
        run(*words[1:], "--collect-only", "-q", "-p", "no:cacheprovider")
    else:
        assert words[:2] == ["protoseg", "tables"]
