"""Latency tables from saved runs: golden files, the command, and the committed tables."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typesetting import NEEDS_LATEX, typeset
from waiting import DEADLINE

from benchmarks.runs import case, saved, times
from protoseg.cli import main
from protoseg.report.tables import benchmarks

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
COMMITTED = sorted((ROOT / "results" / "benchmarks").glob("*.json"))


def make_example_run() -> dict[str, Any]:
    pot = {**times(4.321e-4), "ratio": {"median": 1.728, "low": 1.6, "high": 1.8}}
    first = case("10,000 px, K = 10, 1 class", 2.5e-4, 2.8e-3)
    first["references"]["POT sinkhorn"] = pot
    head = case("1 image of 512 & all, 19 classes", 0.2512, None, group="head, forward & backward")
    head["references"] = {"parametric": {**times(0.24), "ratio": times(0.955)}}
    head["memory"] = {"ProtoSeg": 3 * 2**20, "parametric": 2**20 // 2}
    plan_case = case("protoseg plan, 1,000 runs", 12.34, group="planning and reporting")
    return saved(first, case("65,536 px, K = 10, 150 classes", 0.0101, 0.2), head, plan_case)


@pytest.mark.parametrize("ending", [".md", ".tex", ".csv"])
def test_each_format_equals_its_golden_file(ending: str, tmp_path: Path) -> None:
    benchmarks.write_latency_files(Path("example.json"), make_example_run(), tmp_path)
    text = (tmp_path / f"example{ending}").read_text()
    if os.environ.get("GOLDEN"):  # GOLDEN=1 rewrites the files
        (GOLDEN / f"example{ending}").write_text(text)
    assert text == (GOLDEN / f"example{ending}").read_text()


def test_csv_has_plain_numbers_of_all_functions() -> None:
    lines = list(csv.DictReader(io.StringIO(benchmarks.to_csv(make_example_run()))))
    assert [line["who"] for line in lines[:3]] == ["ProtoSeg", "loop", "POT sinkhorn"]
    assert float(lines[0]["seconds"]) == 2.5e-4
    assert (lines[0]["ratio"], float(lines[2]["ratio"])) == ("", 1.728)
    assert [line["peak_bytes"] for line in lines if "image" in line["case"]] == [
        "3145728",
        "524288",
    ]
    assert {line["torch"] for line in lines} == {"2.13.0"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((12.34, "12.3 s"), (1.0, "1.00 s"), (0.2512, "251 ms"), (0.0101, "10.1 ms")),
        *((2.5e-4, "250 µs"), (3.21e-6, "3.21 µs"), (4e-7, "0.4 µs"), (123.4, "123 s")),
    ],
)
def test_durations_have_three_digits(seconds: float, text: str) -> None:
    assert benchmarks.format_duration(seconds) == text


def test_the_command_writes_next_to_the_run_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    path.write_text(json.dumps(make_example_run()))
    code = (
        "import sys; from protoseg.cli import main; status = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "tables", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "cpu.md").read_text() in result.stdout
    assert "written: " in result.stdout
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".md", ".tex", ".csv"}
    assert main(["tables", str(path), "--out", str(tmp_path / "other")]) == 0
    assert (tmp_path / "other" / "cpu.tex").read_bytes() == (tmp_path / "cpu.tex").read_bytes()


def test_json_contains_the_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cpu.json"
    path.write_text(json.dumps(make_example_run()))
    assert main(["tables", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tables"]["cpu"] == make_example_run()["cases"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "not JSON"),
        ("[]", "not a saved benchmark run"),
        ('{"schema_version": 7}', "not a saved benchmark run"),
        ('{"schema_version": 1, "time": "", "cases": []}', "has no device, cores"),
    ],
)
def test_a_file_that_is_not_a_saved_run_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    assert main(["tables", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_a_matrix_together_with_a_saved_run_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "x.json", "quickstart"]) == 2
    assert "quickstart cannot be combined with" in capsys.readouterr().err


@NEEDS_LATEX
def test_latex_compiles_the_tables(tmp_path: Path) -> None:
    benchmarks.write_latency_files(Path("example.json"), make_example_run(), tmp_path)
    committed = [path.with_suffix(".tex") for path in COMMITTED]
    sources = [path.read_text() for path in (tmp_path / "example.tex", *committed)]
    typeset(sources, tmp_path)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_tables_equal_those_of_the_committed_runs(path: Path, tmp_path: Path) -> None:
    _, files = benchmarks.write_latency_files(path, benchmarks.read_benchmark_run(path), tmp_path)
    for file in files:
        assert path.with_suffix(file.suffix).read_bytes() == file.read_bytes()
    text = path.read_text()
    assert "/root" not in text
    assert "/home" not in text
