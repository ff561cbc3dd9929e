"""How the command line is called: help, exit statuses, places, pipes, odd names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import DEADLINE

from cli.conftest import REPOSITORY, CommandLine, shell
from protoseg import __version__
from protoseg.cli.command_line import VERBS, parse, parser
from protoseg.config.identity import run_id_pattern

pytestmark = pytest.mark.install
HEAVY = ("torch", "mmseg", "mmengine", "mmcv")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(protoseg: CommandLine, verb: str) -> None:
    answer = protoseg(verb, "--help")
    assert answer.status == 0
    assert answer.out.startswith(f"usage: protoseg {verb}")
    assert "--json" in answer.out
    assert answer.err == ""


def test_the_help_names_every_verb_and_the_exit_statuses() -> None:
    text = parser().format_help()
    for verb, (_, what) in VERBS.items():
        assert verb in text
        assert what.split(",")[0] in text
    assert "0 fine, 1 something failed, 2 wrong usage" in text


def test_every_example_of_the_help_is_understood(protoseg: CommandLine) -> None:
    lines = [line for line in parser().format_help().splitlines() if line.startswith("  protoseg ")]
    assert len(lines) == 6
    for line in lines:
        words = line.split("  ")[1].replace('"ProtoSeg, K = 4"', "LABEL").split()[1:]
        given = parser().parse_args(["ProtoSeg, K = 4" if w == "LABEL" else w for w in words])
        assert given.verb == words[0]


def test_overrides_may_stand_behind_options(protoseg: CommandLine) -> None:
    given = parse(["plan", "quickstart", "--jobs", "2", "seed=0", "--json", "cluster=one_h200"])
    assert (given.words, given.jobs) == (["quickstart", "seed=0", "cluster=one_h200"], 2)
    behind = protoseg("plan", "quickstart", "--json", "seed=0,5").json
    assert {run["seed"] for run in behind["runs"]} == {0, 5}


def test_version(protoseg: CommandLine) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "protoseg.cli", "--version"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (result.returncode, result.stdout) == (0, f"protoseg {__version__}\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["plan", "quikstart"], "unknown matrix 'quikstart'. Did you mean 'quickstart'? Known: "),
        (["plan", "nowhere.yaml"], "protoseg plan: nowhere.yaml: no such matrix file."),
        (["plan", "quickstart", "quickstart"], "a matrix is named twice: quickstart quickstart."),
        (["sweep"], "protoseg sweep: no matrix is named; name what is to be trained. Known: "),
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
        (["params", "seed=0", "seed=1"], "override 'seed': stands twice; keep one of them."),
        (["params", "+backbone.settings.foo=1"], "unexpected keyword argument 'foo'. Look at back"),
        (["params", "decoder.in_index=[7]"], "decoder.in_index: expected at least one of the "),
        (["params", "backbone=mit_b0", "mit_b2"], "published counts take no overrides; leave its"),
        (["plan", "quickstart", "--colour", "seed=0"], "unrecognized arguments: --colour seed=0"),
        (["explain", "quickstart", "1", "--json", "miou", "1"], "unrecognized arguments: miou 1"),
        (["train", "backbone=huge"], "train: unknown backbone 'huge'. Known: hrnet_w48, mit_b0, "),
        (["train", "quickstart"], "override 'quickstart': "),
        (["train", "schedule.iterations=5"], "train: schedule.warmup_iterations: 10 is not less "),
        (["train", "evaluation.mode=slide"], "train: evaluation.crop_size: evaluation.mode=slide"),
        (["sweep", "quickstart", "schedule.iterations=5"], "K = 1: schedule.warmup_iterations: "),
        (["status", "dataset"], "unknown matrix 'dataset'. Known: camvid_5a, "),
        (["explain", "quickstart"], "the following arguments are required: ROW"),
        (["explain", "seed=0", "1"], "explain: name one table, e.g. protoseg explain camvid_m"),
        (["explain", "quickstart", "9"], "quickstart: unknown row '9'. Known: Parametric, K = 1"),
        (["explain", "quickstart", "1", "mio"], "unknown column 'mio'. Did you mean 'miou'?"),
        (["data"], "data: say what to do: data list, data prepare NAME or data check NAME."),
        (["data", "chek"], "data: unknown action 'chek'. Did you mean 'check'? Known: check, lis"),
        (["data", "check"], "data check: name a data set. Known: ade20k, "),
        (["data", "check", "camvit"], "unknown data set 'camvit'. Did you mean 'camvid'? Known"),
        (["data", "list", "all"], "data list: takes no further words, found 'all'."),
        (["doctor", "now"], "unrecognized arguments: now"),
    ],
)
def test_wrong_usage_is_exit_status_2_and_one_sentence(
    protoseg: CommandLine, words: list[str], sentence: str
) -> None:
    answer = protoseg(*words)
    assert answer.status == 2
    assert answer.out == ""
    assert sentence in answer.err
    assert "Traceback" not in answer.err


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


def test_a_folder_without_experiments_says_so(protoseg: CommandLine, tmp_path: Path) -> None:
    answer = protoseg("plan", "quickstart", "--experiments", str(tmp_path))
    assert answer.status == 2
    assert "not a folder of experiments (no run.yaml in it)" in answer.err


LIGHT_CALLS = (
    ["plan", "quickstart"],
    ["plan", "quickstart", "--json"],
    ["status", "quickstart"],
    ["tables", "quickstart"],
    ["tables", "quickstart", "--markdown"],
    ["explain", "quickstart", "1", "miou"],
    ["explain", "quickstart", "1", "--json"],
)


def test_answers_without_torch(protoseg: CommandLine) -> None:
    code = f"""
import json, sys
from protoseg.cli import main
for words in json.loads(sys.argv[1]):
    assert main(words) == 0, words
    found = [name for name in {HEAVY!r} if name in sys.modules]
    assert not found, (words, found)
"""
    calls = [[verb, *protoseg.paths, *rest] for verb, *rest in LIGHT_CALLS]
    command = [sys.executable, "-c", code, json.dumps(calls)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert result.returncode == 0, result.stderr


def test_help_without_torch_or_hydra() -> None:
    heavy = (*HEAVY, "hydra", "pandas", "submitit", "rich", "numpy")
    code = f"""
import sys
from protoseg.cli import main
try:
    main(["plan", "--help"])
except SystemExit:
    pass
found = [name for name in {heavy!r} if name in sys.modules]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=DEADLINE)


@pytest.mark.parametrize("verb", ["plan", "status", "tables"])
def test_a_reader_that_leaves_is_no_error(protoseg: CommandLine, verb: str) -> None:
    """`protoseg plan | head -1`: the pipe is closed before anything is written."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        result = shell(
            [verb, *protoseg.paths, "quickstart"],
            capture_output=False,
            stdout=pipe,
            stderr=subprocess.PIPE,
        )
    assert result.stderr == ""
    assert result.returncode == 0


def test_a_terminal_that_can_not_show_a_sign_is_no_error(protoseg: CommandLine) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = shell(["tables", *protoseg.paths, "quickstart"], env=environment)
    assert result.returncode == 0, result.stderr
    assert "Parametric, K = 1" in result.stdout


@pytest.mark.parametrize("name", ["my runs ü", 'it\'s "quoted"', "-dash", "a=b,c", "[0]"])
def test_folders_may_have_any_name(protoseg: CommandLine, tmp_path: Path, name: str) -> None:
    run = protoseg.quickstart()[0]
    path = protoseg.record(run, 70.0, in_runs=True)
    place = tmp_path / name
    protoseg.lab.runs.rename(place)
    out = tmp_path / f"{name} tables"
    answer = protoseg("plan", "quickstart", f"--runs={place}", "--json")
    assert answer.json["counts"]["done"] == 1
    assert answer.status == 0
    answer = protoseg("tables", "quickstart", f"--runs={place}", f"--out={out}")
    assert answer.status == 0, answer.err
    assert (out / "quickstart.md").is_file()
    answer = protoseg("explain", "quickstart", "1", "--json", f"--runs={place}")
    assert answer.status == 0
    assert f"{name}/{path.parent.name}/record.json" in answer.out.replace('\\"', '"')


def test_a_matrix_may_have_any_name(protoseg: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "my table ü.yaml"
    path.write_text("base: {schedule.iterations: 30}")
    assert protoseg("plan", str(path), "--json").json["listed"] == 1


def test_values_are_never_given_to_a_shell(protoseg: CommandLine, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    value = f"x; touch {mark} $(touch {mark}) `touch {mark}` | touch {mark} & '"
    quoted = "'" + value.replace("'", "\\'") + "'"
    answer = protoseg("plan", "quickstart", f"dataset.name={quoted}", "--json")
    assert answer.status == 0, answer.err
    assert all(run_id_pattern().fullmatch(run["run_id"]) for run in answer.json["runs"])
    assert not mark.exists()


def test_an_option_wins_over_the_environment_and_that_over_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from protoseg.paths import places

    monkeypatch.chdir(REPOSITORY / "tests")
    for name in ("RUNS", "DATA", "WEIGHTS", "RESULTS", "EXPERIMENTS"):
        monkeypatch.delenv(f"PROTOSEG_{name}", raising=False)
    found = places()
    assert found.runs == REPOSITORY / "runs"
    assert found.weights == REPOSITORY / "data" / "weights"
    assert found.records == REPOSITORY / "results" / "records"
    monkeypatch.setenv("PROTOSEG_RUNS", "~/runs")
    monkeypatch.setenv("PROTOSEG_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/someone")
    found = places(data="here")
    assert found.runs == Path("/home/someone/runs")
    assert found.data == REPOSITORY / "tests" / "here"
    assert found.weights == found.data / "weights"
    assert places().data == tmp_path


def test_the_checkout_one_stands_in_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from protoseg.paths import home

    below = tmp_path / "checkout" / "docs" / "deep"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert home() == REPOSITORY
    (tmp_path / "checkout" / "experiments").mkdir()
    (tmp_path / "checkout" / "experiments" / "run.yaml").touch()
    assert home() == tmp_path / "checkout"
