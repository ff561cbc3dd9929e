"""The command line: help, wrong usage, imports, pipes, names of files and folders."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import DEADLINE

from cli.conftest import CommandLine, run_in_process
from protoseg import __version__
from protoseg.cli import main
from protoseg.cli.command_line import PURPOSES, make_parser, parse_arguments
from protoseg.config.identity import run_id_pattern

pytestmark = pytest.mark.install


HEAVY = ("torch", "mmseg", "mmengine", "mmcv")
"""Packages whose import takes seconds."""


@pytest.mark.parametrize("verb", PURPOSES)
def test_the_help_of_a_verb_has_its_purpose_and_an_example(
    protoseg: CommandLine, verb: str
) -> None:
    result = protoseg(verb, "--help")
    assert result.status == 0
    assert result.out.startswith(f"usage: protoseg {verb}")
    assert PURPOSES[verb][1:] in " ".join(result.out.split())
    assert "--json" in result.out
    assert f"\nexample:\n  protoseg {verb}" in result.out
    assert result.err == ""


def test_the_help_lists_verbs_and_exit_statuses() -> None:
    text = make_parser().format_help()
    for verb, purpose in PURPOSES.items():
        assert f"  {verb:<11}{purpose}\n" in text
    assert "0 success, 1 failure, 2 wrong usage" in text


def test_the_examples_of_the_help_parse() -> None:
    examples = re.findall(r"^  protoseg (.+?)(?:   .*)?$", make_parser().format_help(), re.M)
    assert len(examples) == 6
    for example in examples:
        verb, *arguments = shlex.split(example)
        assert parse_arguments([verb, *arguments]).verb == verb


def test_overrides_may_follow_options(protoseg: CommandLine) -> None:
    parsed = parse_arguments(
        ["plan", "quickstart", "--jobs", "2", "seed=0", "--json", "cluster=one_h200"]
    )
    assert (parsed.operands, parsed.jobs) == (["quickstart", "seed=0", "cluster=one_h200"], 2)
    data = protoseg("plan", "quickstart", "--json", "seed=0,5").json
    assert {run["seed"] for run in data["runs"]} == {0, 5}


def test_version_names_commit_torch_and_device() -> None:
    import torch

    result = subprocess.run(
        [sys.executable, "-m", "protoseg.cli", "--version"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    commit = re.escape(head.stdout[:10])
    assert result.returncode == 0
    assert re.fullmatch(
        rf"protoseg {re.escape(__version__)} \(commit {commit}(, changed)?\), torch "
        rf"{re.escape(torch.__version__)}, device .+\n",
        result.stdout,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "quikstart"], "unknown matrix 'quikstart'. Did you mean 'quickstart'? Known: "),
        (["plan", "nowhere.yaml"], "protoseg plan: nowhere.yaml: no such matrix file."),
        (["plan", "quickstart", "quickstart"], "a matrix is named twice: quickstart quickstart."),
        (["sweep"], "protoseg sweep: no matrix is named. Known: "),
        (["plan", "quickstart", "sed=1"], "unknown key 'sed'. Did you mean 'seed'?"),
        (["plan", "--jobs", "0"], "expected a whole number from 1, found '0'"),
        (["plan", "--jobs", "two"], "expected a whole number from 1, found 'two'"),
        (["plan", "--colour"], "unrecognized arguments: --colour"),
        (["sweep", "--workers", "-1"], "--workers"),
        (["sweep", "--workers=-1"], "expected a whole number from 0, found '-1'"),
        (["train", "--checkpoint-seconds", "nan"], "expected a number of seconds from 0, found "),
        (["train", "--checkpoint-seconds", "soon"], "expected a number of seconds from 0, found "),
        (["train", "seed=0,1"], "override 'seed': train takes one run; use a matrix for a sweep."),
        (["params", "backbone=mit_b0,mit_b2"], "override 'backbone': params takes one run; use a "),
        (["params", "seed=0", "seed=1"], "override 'seed': given twice. Remove one."),
        (
            ["params", "+backbone.settings.foo=1"],
            "TinyNet.__init__() got an unexpected keyword argument 'foo'. ",
        ),
        (["params", "decoder.in_index=[7]"], "decoder.in_index: expected at least one of the "),
        (["params", "backbone=mit_b0", "mit_b2"], "the published counts of a backbone take no"),
        (["plan", "quickstart", "--colour", "seed=0"], "unrecognized arguments: --colour seed=0"),
        (
            ["explain", "quickstart", "1", "--json", "miou", "1"],
            "explain: name a matrix, a row and a",
        ),
        (["train", "backbone=huge"], "train: unknown backbone 'huge'. Known: hrnet_w48, mit_b0, "),
        (["train", "quickstart"], "override 'quickstart': "),
        (["train", "schedule.iterations=5"], "train: schedule.warmup_iterations: 10 is not less "),
        (["train", "evaluation.mode=slide"], "train: evaluation.crop_size: evaluation.mode=slide"),
        (["sweep", "quickstart", "schedule.iterations=5"], "K = 1: schedule.warmup_iterations: "),
        (["status", "dataset"], "unknown matrix or run 'dataset'. Known: camvid_5a, "),
        (
            ["explain", "quickstart"],
            "explain: name a row of quickstart. Rows: 'Parametric, K = 1', ",
        ),
        (["explain", "seed=0", "1"], "explain: name a matrix, a row and a column, or one run, "),
        (["explain", "quickstart", "9"], "quickstart: unknown row '9'. Known: 'Parametric, K = 1"),
        (["explain", "quickstart", "1", "mio"], "unknown column 'mio'. Did you mean 'miou'?"),
        (["data"], "data check NAME, data browse NAME or data init DIR."),
        (
            ["data", "chek"],
            "data: unknown action 'chek'. Did you mean 'check'? Known: browse,",
        ),
        (["data", "check"], "data check: name a data set. Known: ade20k, "),
        (["data", "check", "camvit"], "unknown data set 'camvit'. Did you mean 'camvid'? Known"),
        (["data", "list", "all"], "data list: takes no names, found 'all'."),
        (["doctor", "now"], "unrecognized arguments: now"),
    ],
)
def test_wrong_usage_has_exit_status_2_and_a_message(
    protoseg: CommandLine, arguments: list[str], message: str
) -> None:
    result = protoseg(*arguments)
    assert result.status == 2
    assert result.out == ""
    assert message in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("verb", ["", "plam"])
def test_an_unknown_verb_is_wrong_usage(verb: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "protoseg.cli", *([verb] if verb else [])],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert result.returncode == 2
    assert "plan" in result.stderr or "VERB" in result.stderr


def test_a_folder_without_experiments_is_wrong_usage(protoseg: CommandLine, tmp_path: Path) -> None:
    result = protoseg("plan", "quickstart", "--experiments", str(tmp_path))
    assert result.status == 2
    assert "not a folder of experiments (no run.yaml in it)" in result.err


LIGHT_CALLS = (
    ["plan", "quickstart"],
    ["plan", "quickstart", "--json"],
    ["status", "quickstart"],
    ["tables", "quickstart"],
    ["tables", "quickstart", "--markdown"],
    ["explain", "quickstart", "1", "miou"],
    ["explain", "quickstart", "1", "--json"],
)


def test_reading_verbs_do_not_import_torch(protoseg: CommandLine) -> None:
    code = f"""
import json, sys
from protoseg.cli import main
for arguments in json.loads(sys.argv[1]):
    assert main(arguments) == 0, arguments
    imported = [name for name in {HEAVY!r} if name in sys.modules]
    assert not imported, (arguments, imported)
"""
    calls = [[verb, *protoseg.paths, *rest] for verb, *rest in LIGHT_CALLS]
    command = [sys.executable, "-c", code, json.dumps(calls)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert result.returncode == 0, result.stderr


def test_help_imports_no_large_package() -> None:
    heavy = (*HEAVY, "hydra", "pandas", "submitit", "rich", "numpy")
    code = f"""
import sys
from protoseg.cli import main
try:
    main(["plan", "--help"])
except SystemExit:
    pass
imported = [name for name in {heavy!r} if name in sys.modules]
assert not imported, imported
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=DEADLINE)


@pytest.mark.parametrize("verb", ["plan", "status", "tables"])
def test_a_closed_pipe_is_no_error(protoseg: CommandLine, verb: str) -> None:
    """As in `protoseg plan | head -1`: the reader closes the pipe before the verb writes."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        result = run_in_process(
            [verb, *protoseg.paths, "quickstart"],
            capture_output=False,
            stdout=pipe,
            stderr=subprocess.PIPE,
        )
    assert result.stderr == ""
    assert result.returncode == 0


def test_an_ascii_terminal_is_no_error(protoseg: CommandLine) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = run_in_process(["tables", *protoseg.paths, "quickstart"], env=environment)
    assert result.returncode == 0, result.stderr
    assert "Parametric, K = 1" in result.stdout


@pytest.mark.parametrize("name", ["my runs ü", 'it\'s "quoted"', "-dash", "a=b,c", "[0]"])
def test_folders_may_have_any_name(protoseg: CommandLine, tmp_path: Path, name: str) -> None:
    run = protoseg.quickstart()[0]
    path = protoseg.record(run, 70.0, in_runs=True)
    runs = tmp_path / name
    protoseg.lab.runs.rename(runs)
    out = tmp_path / f"{name} tables"
    result = protoseg("plan", "quickstart", f"--runs={runs}", "--json")
    assert result.json["counts"]["done"] == 1
    assert result.status == 0
    result = protoseg("tables", "quickstart", f"--runs={runs}", f"--out={out}")
    assert result.status == 0, result.err
    assert (out / "quickstart.md").is_file()
    result = protoseg("explain", "quickstart", "1", "--json", f"--runs={runs}")
    assert result.status == 0
    assert f"{name}/{path.parent.name}/record.json" in result.out.replace('\\"', '"')


def test_a_matrix_file_may_have_any_name(protoseg: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "my table ü.yaml"
    path.write_text("base: {schedule.iterations: 30}")
    assert protoseg("plan", str(path), "--json").json["listed"] == 1


def test_values_are_not_run_by_a_shell(protoseg: CommandLine, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    value = f"x; touch {mark} $(touch {mark}) `touch {mark}` | touch {mark} & '"
    quoted = "'" + value.replace("'", "\\'") + "'"
    result = protoseg("plan", "quickstart", f"dataset.name={quoted}", "--json")
    assert result.status == 0, result.err
    assert all(run_id_pattern().fullmatch(run["run_id"]) for run in result.json["runs"])
    assert not mark.exists()


def test_an_unexpected_exception_keeps_its_traceback(
    protoseg: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from protoseg.cli.commands import plan

    monkeypatch.setattr(plan, "read_plan", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["plan", *protoseg.paths, "quickstart"])


def test_the_installed_command_gives_the_same_result(protoseg: CommandLine) -> None:
    command = Path(sys.executable).parent / "protoseg"
    if not command.exists():
        pytest.skip("protoseg is not installed in the environment of this Python")
    arguments = ["plan", *protoseg.paths, "quickstart", "--json"]
    result = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=DEADLINE)
    assert (result.returncode, result.stdout) == (0, protoseg("plan", "quickstart", "--json").out)


def test_an_error_names_the_verb_once(protoseg: CommandLine) -> None:
    assert protoseg("compare", "one").err.startswith("protoseg compare: name two runs")
    assert protoseg("data", "check").err.startswith("protoseg data check: name a data set")
    assert protoseg("plan", "nowhere.yaml").err.startswith("protoseg plan: nowhere.yaml: ")


def test_a_call_without_a_verb_shows_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "protoseg plan quickstart" in capsys.readouterr().err
