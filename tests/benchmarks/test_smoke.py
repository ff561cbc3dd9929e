"""The benchmarks run: small cases without timing, and one saved run."""

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
import run as run_script
from forked import start_forked
from waiting import DEADLINE, finish

from benchmarks.conftest import BENCHMARK_MODULES

ROOT = Path(__file__).parents[2]
SMALLEST = (
    "test_clustering.py::test_even_classes[10000-5-1]",
    "test_alternatives.py::test_scaling",
    "test_contrast.py::test_step[4096-11-50-64]",
    "test_inference.py::test_head[19-1]",
    "test_bootstrap.py::test_blocks[101-11]",
    "test_trees.py::test_loss[19-tree_min]",
)
LONGER = (
    "test_clustering.py::test_assignment_and_update[16384-847-long tail]",
    "test_head.py::test_forward_and_backward[1-19-1]",
    "test_inference.py::test_whole_model",
    "test_predict.py::test_folder",
    "test_training.py::test_mobilenet_v2",
    "test_determinism.py::test_tiny",
    "test_planning.py::test_plan[plan-1000]",
    "test_overhead.py::test_checkpoint[paper]",
    "test_check.py::test_rate",
)
"""Files whose cases all take more than a second."""


def build_environment() -> dict[str, str]:
    """Return the environment of the benchmarks."""
    # Without the variables of xdist, because pytest-benchmark does not time in its workers.
    variables = {
        key: value for key, value in os.environ.items() if not key.startswith("PYTEST_XDIST")
    }
    return {**variables, "OMP_NUM_THREADS": "1"}


def run_pytest(*arguments: str) -> str:
    """Run ``python -m pytest`` in a forked process of the checkout and return its output."""
    process = start_forked(
        "import os, sys, pytest\nos.chdir(sys.argv[1])\nsys.exit(pytest.main(sys.argv[2:]))",
        [
            *(str(ROOT), *arguments, "-q", "-p", "no:cacheprovider"),
            # Hydra is a plugin of pytest too, and the fork server has imported it.
            *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
        ],
        modules=BENCHMARK_MODULES,
        environment=build_environment(),
    )
    try:
        output, _ = finish(process)  # type: ignore[arg-type]
    finally:
        process.kill()
    assert process.returncode == 0, output
    return output


def read_commands() -> list[str]:
    """Return the commands of docs/benchmarks.md."""
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]


def test_every_benchmark_file_has_a_case() -> None:
    files = {path.name for path in (ROOT / "benchmarks").glob("test_*.py")}
    assert {case.partition("::")[0] for case in (*SMALLEST, *LONGER)} == files


@pytest.mark.parametrize("line", read_commands())
def test_a_documented_command_is_valid(line: str) -> None:
    arguments = shlex.split(line)
    if arguments[0] == "make":
        result = subprocess.run(
            ["make", "-n", *arguments[1:]],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        assert result.returncode == 0, result.stderr
        script = re.findall(r"benchmarks/\w+\.py", result.stdout)
        assert script
        assert all((ROOT / path).is_file() for path in script)
    elif arguments[0] == "python":
        assert arguments[:3] == ["python", "-m", "pytest"]
        run_pytest(*arguments[3:], "--collect-only")
    else:
        assert arguments[:2] == ["protoseg", "tables"]


def test_the_smallest_cases_pass() -> None:
    cases = [f"benchmarks/{case}" for case in SMALLEST]
    assert f"{len(SMALLEST)} passed" in run_pytest(*cases, "--benchmark-disable")


@pytest.mark.slow
@pytest.mark.parametrize("case", LONGER)
def test_a_longer_case_passes(case: str) -> None:
    assert "1 passed" in run_pytest(f"benchmarks/{case}", "--benchmark-disable")


def make_raw_run() -> dict[str, Any]:
    """Return the parts of the JSON of pytest-benchmark that are read, for one case."""
    times = {"median": 1.23456789e-3, "low": 1e-3, "high": 2e-3}
    info = {"case": "10,000 px", "ours": times, "references": {"loop": {**times, "ratio": times}}}
    bench = {"group": "clustering", "extra_info": info, "stats": {"rounds": 9}}
    machine = {"device": "CPU AMD EPYC (R) 9 Processor", "threads": 1}
    return {
        "machine_info": {"protoseg": machine, "node": "a host"},
        "datetime": "2026-11-20T12:00:00.123456+00:00",
        "benchmarks": [bench],
    }


def test_a_saved_run_keeps_six_digits_and_no_host() -> None:
    saved = run_script.trim_run(make_raw_run(), (0.5, 1.5))
    (case,) = saved["cases"]
    assert (case["group"], case["case"], case["rounds"]) == ("clustering", "10,000 px", 9)
    assert case["ours"]["median"] == case["references"]["loop"]["ratio"]["median"] == 1.23457e-3
    assert "memory" not in case
    assert (saved["time"], saved["threads"]) == ("2026-11-20T12:00:00+00:00", 1)
    assert saved["load"] == {"before": 0.5, "end": 1.5}
    assert "a host" not in json.dumps(saved)
    twice = make_raw_run()
    twice["benchmarks"] *= 2
    with pytest.raises(AssertionError, match="two cases have the same name"):
        run_script.trim_run(twice, (0, 0))


def test_the_file_name_contains_device_and_day(tmp_path: Path) -> None:
    saved = run_script.trim_run(make_raw_run(), (0, 0))
    first = run_script.choose_path(tmp_path, saved)
    assert first.name == "cpu-amd-epyc-9-2026-11-20.json"
    first.touch()
    assert run_script.choose_path(tmp_path, saved).name == "cpu-amd-epyc-9-2026-11-20-2.json"


@pytest.mark.slow
def test_a_saved_run_has_no_host_or_path_and_gives_tables(tmp_path: Path) -> None:
    path = tmp_path / "saved.json"
    case = "test_even_classes and 10000-5-19"
    arguments = ["benchmarks/run.py", "--out", str(path), "--seconds", "0.05", "-k", case]
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=build_environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    saved = json.loads(path.read_text())
    [saved_case] = saved["cases"]
    assert saved_case["case"] == "10,000 px, K = 5, 19 classes"
    others = {"loop", "loop, released", "POT sinkhorn", "POT sinkhorn_log", "exponentials alone"}
    assert set(saved_case["references"]) == others
    for times in (saved_case["ours"], *saved_case["references"].values()):
        assert 0 < times["low"] <= times["median"] <= times["high"]
    for reference in saved_case["references"].values():
        ratio = reference["ratio"]
        assert ratio["low"] <= ratio["median"] <= ratio["high"]
    assert saved_case["rounds"] >= 7
    assert (saved["threads"], len(saved["commit"])) == (1, 40)
    assert {"torch", "POT", "python"} <= set(saved["versions"])
    for secret in (os.uname().nodename, str(ROOT), str(Path.home())):
        assert secret not in path.read_text()
    assert (tmp_path / "saved.md").exists()
    assert "10,000 px" in (tmp_path / "saved.tex").read_text()
    assert (tmp_path / "saved.csv").read_text().count("\n") == 7
