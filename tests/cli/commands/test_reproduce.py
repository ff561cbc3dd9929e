"""``protoseg reproduce``: trains runs again with the real worker, and compares the records."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import ForkedProcess, start_forked
from report.lab import make_record
from training.provenance.repository import git
from training.small import (
    BASE,
    WORKER_MODULES,
    compose,
    log,
    log_paths,
    make_folder,
    pause_after,
    small_spec,
    work,
)
from waiting import DEADLINE, finish, wait_until

from cli.conftest import REPOSITORY, CommandLine
from protoseg.cli import context
from protoseg.cli.commands import reproduce
from protoseg.config.compose import Composer
from protoseg.config.identity import run_id
from protoseg.config.load_matrix import load_matrix
from protoseg.config.recipes.locked import find_configs_folder
from protoseg.reproduce import retrain
from protoseg.reproduce.retrain import choose_run_folder
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import publish, read_record
from protoseg.runs.states import State

SPEC = ("method=released_2026_11", "method.num_prototypes=3", "schedule.iterations=6")
CHANGE_WEIGHTS_AT_4 = """
import torch
from protoseg.training.loop import TrainingLoop
note = TrainingLoop._note
def change_weights(self, iteration, losses):
    if iteration == 4:
        with torch.no_grad():
            next(self.parts.module.parameters()).add_(0.01)
    note(self, iteration, losses)
TrainingLoop._note = change_weights
"""
"""Code for a worker: changes the weights after iteration 4."""


class ForkedWorkers:
    """Forks the workers of `protoseg.reproduce.retrain` from a process that imported torch.

    Attributes:
        code: runs at the start of each worker.
    """

    def __init__(self) -> None:
        self.code = ""

    def start(
        self, command: list[str], *, env: dict[str, str], stdout: Any, **_: Any
    ) -> ForkedProcess:
        """Replaces `subprocess.Popen`."""
        assert command[1:3] == ["-m", "protoseg.training.worker"]
        program = f"import sys\nfrom protoseg.training import worker\n{self.code}\n"
        return start_forked(
            f"{program}sys.exit(worker.main(sys.argv[1:]))",
            command[3:],
            modules=WORKER_MODULES,
            environment=env,
            new_session=True,
            output=Path(stdout.name),
        )


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> ForkedWorkers:
    """The reproductions of this test fork their workers."""
    forked = ForkedWorkers()
    names = ("DEVNULL", "STDOUT", "TimeoutExpired")
    replacement = types.SimpleNamespace(
        Popen=forked.start, **{name: getattr(subprocess, name) for name in names}
    )
    monkeypatch.setattr(retrain, "subprocess", replacement)
    return forked


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data folder in which the built-in data set is generated once."""
    return tmp_path_factory.mktemp("data")


def train_run(runs: Path, data: Path, code: str = "") -> RunFolder:
    """Train the run of SPEC; ``code`` runs in the worker first."""
    folder = make_folder(runs, small_spec(*SPEC), data)
    status, output = work(folder, code)
    assert status == 0, output
    return folder


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run."""
    return train_run(tmp_path_factory.mktemp("finished"), data)


def read_files(folder: Path) -> dict[str, bytes]:
    """Relative path -> content of all files in a folder."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


# Identical results


@pytest.mark.usefixtures("workers")
def test_a_reproduction_is_bit_identical(
    protoseg: CommandLine, finished: RunFolder, data: Path
) -> None:
    run = protoseg.lab.runs / finished.run_id
    earlier = protoseg.lab.runs / ".reproductions" / "1" / finished.run_id
    for folder in (run, earlier):
        shutil.copytree(finished.path, folder)
    before = read_files(run)
    answer = protoseg("reproduce", finished.run_id[-12:], "--data", str(data))
    assert answer.status == 0, answer.err
    assert "bit-identical: weights, the counts of 4 images, metrics, 6 points" in answer.out
    assert "6 iterations took" in answer.out
    assert "1 thread\ntraining with 1 thread in " in answer.out
    reproduced = RunFolder(protoseg.lab.runs / ".reproductions" / "2" / finished.run_id)
    assert reproduced.status().state is State.DONE
    assert json.loads(reproduced.launch.read_text())["threads"] == 1
    assert read_files(run) == before, "the recorded run has changed"
    assert read_files(earlier) == before, "an earlier reproduction has changed"


@pytest.mark.slow
@pytest.mark.usefixtures("workers")
def test_a_run_with_a_recipe_of_ones_own_needs_only_its_record(
    protoseg: CommandLine, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "Composer", Composer)
    folder = find_configs_folder()
    assert folder is not None
    base = folder / small_spec(*SPEC).schedule.recipe
    recipe = tmp_path / "clip.py"

    def plan_run(max_norm: float) -> dict[str, Any]:
        """The only run of a matrix with this recipe, as `plan` shows it."""
        clip = f"optim_wrapper = dict(clip_grad=dict(max_norm={max_norm}))"
        recipe.write_text(f"_base_ = {str(base)!r}\n{clip}\n")
        answer = protoseg("plan", str(matrix), "--json")
        assert answer.status == 0, answer.err
        (run,) = answer.json["runs"]
        return dict(run)

    settings = dict(text.partition("=")[::2] for text in (*BASE, *SPEC))
    base_text = ", ".join(f"{key}: {value}" for key, value in settings.items())
    matrix = tmp_path / "clipped.yaml"
    matrix.write_text(f"base: {{{base_text}, schedule.recipe: {recipe}}}\nseeds: [0]\n")
    states = {}
    for max_norm in (1.0, 1e-4):
        planned = plan_run(max_norm)
        assert planned["state"] == "new", "another content is another run"
        spec = load_matrix(Composer(REPOSITORY / "experiments"), str(matrix)).runs[0].spec
        run = make_folder(protoseg.lab.runs, spec, data)
        assert run.run_id == planned["run_id"]
        status, output = work(run)
        assert status == 0, output
        assert plan_run(max_norm)["state"] == "done"
        states[run.run_id] = read_record(run.record)["provenance"]["state_sha256"]
    assert len(states) == len(set(states.values())) == 2
    recipe.unlink()
    for run_id_ in states:
        assert str(tmp_path) not in (protoseg.lab.runs / run_id_ / "record.json").read_text()
    answer = protoseg("reproduce", next(iter(states)), "--data", str(data))
    assert answer.status == 0, answer.err
    assert "bit-identical" in answer.out


# Different results


@pytest.mark.usefixtures("workers")
def test_the_report_names_the_first_iteration_that_differs(
    protoseg: CommandLine, data: Path, tmp_path: Path
) -> None:
    folder = train_run(tmp_path / "trained", data, CHANGE_WEIGHTS_AT_4)
    publish(folder.path, protoseg.lab.records)
    options = ("--data", str(data), "--within", "0", "--into", str(tmp_path / "elsewhere"))
    answer = protoseg("reproduce", folder.run_id, *options)
    assert answer.status == 1
    assert (tmp_path / "elsewhere" / "1" / folder.run_id / "record.json").exists()
    assert not (protoseg.lab.runs / ".reproductions").exists()
    assert (
        "different: outside the tolerance (metrics within 0 points, loss within 1%)" in answer.out
    )
    (line,) = [line for line in answer.out.splitlines() if line.startswith("loss curve")]
    assert "first differs at iteration 5: loss " in line
    assert line.endswith("; identical until 4")
    assert "weights     not bit-identical" in answer.out
    assert "made with   the same code, packages, device and settings" in answer.out


# Interrupted


def test_an_interrupted_reproduction_is_resumed(
    protoseg: CommandLine,
    finished: RunFolder,
    data: Path,
    workers: ForkedWorkers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(finished.path, protoseg.lab.runs / finished.run_id)
    arguments = ("reproduce", finished.run_id, "--data", str(data))
    folder = RunFolder(protoseg.lab.runs / ".reproductions" / "1" / finished.run_id)

    def train(folder: RunFolder, code: Path, each_poll: Callable[[Any], None]) -> Any:
        def interrupt_at_3(status: Any) -> None:
            each_poll(status)
            if "iteration 3/6" in log(folder):
                signal.raise_signal(signal.SIGTERM)

        return retrain.train(folder, code, interrupt_at_3)

    with monkeypatch.context() as patch:
        patch.setattr(reproduce, "train", train)
        workers.code = pause_after(3)
        answer = protoseg(*arguments)
    assert answer.status == 1
    assert "; run the same command again to resume it." in answer.err
    assert folder.status().state is State.INTERRUPTED
    saved = folder.checkpoint_iteration()
    assert saved is not None
    assert 3 <= saved < 6
    workers.code = ""
    answer = protoseg(*arguments)
    assert answer.status == 0, answer.err
    assert f"resuming from iteration {saved}" in answer.out
    assert "bit-identical: weights, the counts of 4 images, metrics, 6 points" in answer.out
    assert len(folder.attempts()) == 2


def start_process(arguments: list[str]) -> subprocess.Popen[str]:
    """Start ``protoseg reproduce`` in a separate process, as a user does."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "PROTOSEG"))}
    return subprocess.Popen(
        [sys.executable, "-m", "protoseg.cli", "reproduce", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_signal_saves_a_checkpoint_from_which_the_next_call_resumes(
    protoseg: CommandLine, data: Path
) -> None:
    spec = small_spec(*SPEC[:2], "schedule.iterations=4000")
    counts = protoseg.lab.records / f"{run_id(spec)}.npz"
    np.savez(counts, image=[0], cell=[0], count=[1], num_classes=6, num_images=1)
    sha256 = hashlib.sha256(counts.read_bytes()).hexdigest()
    record = make_record(
        spec, 50.0, confusion={"file": "confusion.npz", "sha256": sha256}, provenance={"threads": 1}
    )
    (protoseg.lab.records / f"{run_id(spec)}.json").write_text(json.dumps(record))
    arguments = [*protoseg.paths, "--data", str(data), run_id(spec)]
    folder = RunFolder(protoseg.lab.runs / ".reproductions" / "1" / run_id(spec))

    def has_loss(attempt: int) -> bool:
        """Whether an attempt has trained; its log has the loss of every 40th iteration."""
        path = folder.attempts_folder / f"{attempt:04d}" / "log.txt"
        return path.exists() and "/4000  loss" in path.read_text()

    for attempt, number in ((1, signal.SIGINT), (2, signal.SIGTERM)):
        process = start_process(arguments)
        try:
            wait_until(
                lambda attempt=attempt, process=process: (
                    process.poll() is not None or has_loss(attempt)
                ),
                f"the first line with a loss in the log of attempt {attempt}",
                logs=log_paths(folder),
            )
            if attempt == 1:
                other = protoseg("reproduce", run_id(spec), "--data", str(data))
                assert other.status == 1
                assert "a reproduction of this run is running on " in other.err
            process.send_signal(number)
            out, err = finish(process, logs=log_paths(folder))
        finally:
            process.kill()
        assert process.returncode == 1, err
        assert "; run the same command again to resume it." in err, err
        assert folder.status().state is State.INTERRUPTED
        assert folder.checkpoint_iteration() > 1
    assert "resuming from iteration" in out
    assert re.search(r" from iteration \d+$", log(folder), re.MULTILINE)


def test_an_unfinished_reproduction_is_resumed_only_with_the_same_settings(tmp_path: Path) -> None:
    def number(threads: int, seed: int = 0) -> str:
        spec, settings = {"seed": seed}, {"code": "1", "threads": threads}
        folder = choose_run_folder(tmp_path, "run", spec, {"threads": threads}, settings)
        return folder.path.parent.name

    numbers = [number(1), number(1), number(2), number(2), number(1), number(1, seed=1)]
    assert numbers == ["1", "1", "2", "2", "3", "4"]
    assert json.loads((tmp_path / "1" / "run" / "launch.json").read_text()) == {"threads": 1}


# With the code of another commit


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_checkout_trains_with_the_recorded_commit_and_diff(
    protoseg: CommandLine, finished: RunFolder, data: Path, tmp_path: Path
) -> None:
    code = tmp_path / "code"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "protoseg", code / "protoseg", ignore=ignored)
    shutil.copytree(REPOSITORY / "experiments", code / "experiments")
    # Python's bytecode files must not count as changes of the code.
    shutil.copy(REPOSITORY / ".gitignore", code)
    git(tmp_path, "init", "-q", str(code))
    git(code, "add", "-A")
    git(code, "commit", "-qm", "first")
    commit = git(code, "rev-parse", "HEAD").strip()
    # The recorded run is trained with an uncommitted change.
    tiny = code / "protoseg" / "models" / "tiny_backbone.py"
    original = tiny.read_text()
    tiny.write_text(original.replace("maps = []", "maps = []\n        image = image.abs()"))
    folder = make_folder(protoseg.lab.runs, small_spec(*SPEC), data)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    environment |= {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
    worker = [sys.executable, "-m", "protoseg.training.worker", str(folder.path)]
    subprocess.run(
        worker, cwd=code, env=environment, check=True, capture_output=True, timeout=DEADLINE
    )
    origin = read_record(folder.record)["provenance"]
    assert (origin["commit"], origin["dirty"]) == (commit, True)
    # Then the code changes.
    tiny.write_text(original)
    (code / "protoseg" / "news.py").write_text('"""New."""\n')
    git(code, "add", "-A")
    git(code, "commit", "-qm", "second")

    def call(*options: str) -> subprocess.CompletedProcess[str]:
        paths = [*protoseg.paths, "--data", str(data)]
        command = [sys.executable, "-m", "protoseg.cli", "reproduce", *paths, folder.run_id]
        return subprocess.run(
            [*command, *options],
            cwd=code,
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )

    unchanged_digest = read_record(finished.record)["provenance"]["state_sha256"]
    assert origin["state_sha256"] != unchanged_digest, "the change has no effect"
    process = call("--checkout")
    assert process.returncode == 0, process.stdout + process.stderr
    assert "its code had uncommitted changes; they are applied" in process.stderr
    assert "bit-identical: weights" in process.stdout
    assert "the same code, packages, device and settings" in process.stdout
    assert git(code, "worktree", "list").count("\n") == 1
    assert git(code, "status", "--porcelain") == ""


# Errors


def make_record_with_counts(protoseg: CommandLine, **changes: Any) -> str:
    """Write a record of a quickstart run with its counts, and return the run id."""
    run = protoseg.quickstart()[0]
    counts = protoseg.lab.records / f"{run.run_id}.npz"
    np.savez(counts, image=[0], cell=[0], count=[1], num_classes=6, num_images=1)
    sha256 = hashlib.sha256(counts.read_bytes()).hexdigest()
    confusion = {"file": "confusion.npz", "sha256": sha256}
    protoseg.record(run, 70.0, confusion=confusion, **changes)
    return run.run_id


def test_an_unknown_run_is_an_error_with_the_nearest_id(protoseg: CommandLine) -> None:
    for run in protoseg.quickstart():
        protoseg.record(run, 70.0)
    name = protoseg.quickstart()[0].run_id
    answer = protoseg("reproduce", name[:-3])
    assert answer.status != 2 or "a part of" not in answer.err  # only one run id has this part
    answer = protoseg("reproduce", f"{name[:-3]}xyz")
    assert answer.status == 2
    assert f"unknown run '{name[:-3]}xyz'. Did you mean '{name}'?" in answer.err
    assert answer.err.startswith("protoseg reproduce: records in ")
    answer = protoseg("reproduce", "prototype")
    assert answer.status == 2
    assert "'prototype' is a part of 6 run ids: " in answer.err


def test_a_run_without_a_record_is_an_error(protoseg: CommandLine) -> None:
    folder = protoseg.lab.start(protoseg.quickstart()[0].spec)
    answer = protoseg("reproduce", folder.run_id)
    assert (answer.status, answer.out) == (1, "")
    assert "has no record yet. Its state is new." in answer.err


def test_missing_counts_are_an_error_before_the_training(protoseg: CommandLine) -> None:
    run = protoseg.quickstart()[0]
    protoseg.record(run, 70.0)
    answer = protoseg("reproduce", run.run_id)
    assert answer.status == 1
    assert f"{run.run_id}.npz: the confusion counts of {run.run_id} are gone." in answer.err
    assert not (protoseg.lab.runs / ".reproductions").exists()


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ({"commit": None}, "its record has no commit to check out. Remove --checkout"),
        ({"commit": "0" * 40}, "no commit 0000000000 (fatal: "),
    ],
)
def test_a_missing_commit_is_an_error(
    protoseg: CommandLine, origin: dict[str, Any], message: str
) -> None:
    name = make_record_with_counts(protoseg, provenance=origin)
    if not (REPOSITORY / ".git").exists() and origin["commit"]:
        message = "not a git checkout, so commit 0000000000 is not available"
    answer = protoseg("reproduce", name, "--checkout")
    assert answer.status == 1
    assert message in answer.err
    assert "--checkout" in answer.err
    assert not (protoseg.lab.runs / ".reproductions").exists()


@pytest.mark.usefixtures("workers")
def test_a_failed_reproduction_is_reported_with_its_reason(
    protoseg: CommandLine, tmp_path: Path
) -> None:
    spec = compose("dataset=camvid")
    counts = protoseg.lab.records / f"{run_id(spec)}.npz"
    np.savez(counts, image=[0], cell=[0], count=[1], num_classes=6, num_images=1)
    sha256 = hashlib.sha256(counts.read_bytes()).hexdigest()
    record = make_record(spec, 50.0, confusion={"file": "confusion.npz", "sha256": sha256})
    (protoseg.lab.records / f"{run_id(spec)}.json").write_text(json.dumps(record))
    answer = protoseg("reproduce", run_id(spec), "--json", "--threads", "2")
    assert answer.status == 1
    folder = RunFolder(Path(answer.json["folder"]))
    assert json.loads(folder.launch.read_text())["threads"] == 2
    assert answer.json["verdict"] is None
    assert "failed, bad_data: " in answer.err
    assert "Its log: " in answer.err
