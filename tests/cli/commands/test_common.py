"""Behaviour that several verbs have in common: JSON, damaged records, odd folders."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from cli.conftest import REPOSITORY, CommandLine
from protoseg.cli.command_line import PURPOSES, import_verb, parse_arguments

JSON_CALLS = [
    ["plan", "quickstart"],
    ["status", "quickstart"],
    ["tables", "quickstart"],
    ["explain", "quickstart", "1", "miou"],
    ["data", "list"],
]
MATRIX_VERBS = ["plan", "status", "tables"]


@pytest.mark.parametrize("verb", PURPOSES)
def test_the_example_of_a_verb_parses(verb: str) -> None:
    program, *arguments = shlex.split(import_verb(verb).EXAMPLE)
    assert program == "protoseg"
    assert parse_arguments(arguments).verb == verb


@pytest.mark.parametrize("arguments", JSON_CALLS, ids=" ".join)
@pytest.mark.parametrize("some_done", [False, True])
def test_with_json_the_standard_output_is_json_only(
    protoseg: CommandLine, arguments: list[str], some_done: bool
) -> None:
    if some_done:
        protoseg.record(protoseg.quickstart()[0], 70.0)
    result = protoseg(*arguments, "--json")
    assert result.status == 0
    assert result.json
    assert result.err == ""


@pytest.mark.parametrize("verb", MATRIX_VERBS)
@pytest.mark.parametrize("in_runs", [False, True])
def test_a_damaged_record_is_reported_and_other_runs_are_shown(
    protoseg: CommandLine, verb: str, in_runs: bool
) -> None:
    first, second, *_ = protoseg.quickstart()
    damaged = protoseg.record(first, 70.0, in_runs=in_runs)
    damaged.write_text(damaged.read_text().replace('"miou": 70.0', '"miou": 99.0'))
    protoseg.record(second, 71.0, in_runs=in_runs)
    result = protoseg(verb, "quickstart")
    assert result.status == 1
    assert result.err.strip() == (
        f"{damaged}: edited or damaged record, its content does not match its digest. "
        "Restore it from a copy, or delete it and run the sweep again."
    )
    assert "99.0" not in result.out
    assert {"plan": "1 failed, 1 done", "status": "71.00", "tables": "71.00"}[verb] in result.out
    result = protoseg(verb, "quickstart", "--json")
    assert result.status == 1
    assert str(damaged) in json.dumps(result.json)


@pytest.mark.parametrize("verb", MATRIX_VERBS)
@pytest.mark.parametrize("option", ["--runs", "--results"])
def test_a_file_in_place_of_a_folder_counts_as_an_empty_folder(
    protoseg: CommandLine, tmp_path: Path, verb: str, option: str
) -> None:
    file = tmp_path / "file"
    file.touch()
    out = ["--out", str(tmp_path / "out")] if verb == "tables" else []
    result = protoseg(verb, "quickstart", option, str(file), *out)
    assert (result.status, result.err) == (0, "")


def test_malformed_files_in_run_folders_are_ignored(protoseg: CommandLine) -> None:
    runs = protoseg.quickstart()
    for run, name in zip(runs, ("progress.json", "claim.json", "spec.json"), strict=False):
        folder = protoseg.lab.start(run.spec)
        folder.start_attempt({"iteration": None})
        (folder.path / name).write_text("[1, 2]")
    for verb in MATRIX_VERBS:
        result = protoseg(verb, "quickstart")
        assert (result.status, result.err) == (0, "")


def test_reading_verbs_write_no_files(protoseg: CommandLine, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    for arguments in (["plan"], ["status", "quickstart"], ["explain", "quickstart", "1"]):
        assert protoseg(*arguments).status == 0
    protoseg("data", "list")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("verb", MATRIX_VERBS)
def test_a_matrix_that_cannot_be_read_is_named_and_the_others_are_shown(
    protoseg: CommandLine, tmp_path: Path, verb: str
) -> None:
    experiments = tmp_path / "experiments"
    shutil.copytree(REPOSITORY / "experiments", experiments)
    for path in (experiments / "matrices").glob("*.yaml"):
        if path.stem != "quickstart":
            path.unlink()
    (experiments / "method" / "lost.yaml").write_text("kind: lost_package.Method\n")
    broken = experiments / "matrices" / "broken.yaml"
    broken.write_text("rows: [{label: x, method: lost}]\n")
    result = protoseg(verb, "--experiments", str(experiments))
    assert result.status == 1
    assert "Parametric" in result.out or "parametric" in result.out
    (line,) = result.err.splitlines()
    assert line.startswith("matrix broken cannot be read: broken.yaml: x: method.kind: 'lost_pack")
    named = protoseg(verb, "broken", "--experiments", str(experiments))
    assert named.status == 2
    assert "lost_package cannot be imported" in named.err
