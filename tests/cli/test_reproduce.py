"""``protoseg reproduce``: real runs, trained again by the real worker, and what is said of them."""

from __future__ import annotations

import hashlib
import json
import os
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
from training.small import (
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
from protoseg.cli.commands import reproduce
from protoseg.config.identity import run_id
from protoseg.reproduce import retrain
from protoseg.reproduce.retrain import fresh_folder
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import publish, read_record
from protoseg.runs.states import State

SPEC = ("method=released", "method.num_prototypes=3", "schedule.iterations=6")
NUDGED_AT_4 = """
import torch
from protoseg.training.loop import TrainingLoop
note = TrainingLoop._note
def nudged(self, iteration, losses):
    if iteration == 4:
        with torch.no_grad():
            next(self.parts.module.parameters()).add_(0.01)
    note(self, iteration, losses)
TrainingLoop._note = nudged
"""


class ForkedWorkers:
    """Starts the workers of `protoseg.reproduce.retrain` as forks, which need no imports.

    Attributes:
        code: runs in a worker first.
    """

    def __init__(self) -> None:
        self.code = ""

    def start(
        self, command: list[str], *, env: dict[str, str], stdout: Any, **_: Any
    ) -> ForkedProcess:
        """Stands in for `subprocess.Popen`."""
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
    """Reproductions of this test start their workers as forks."""
    forked = ForkedWorkers()
    names = ("DEVNULL", "STDOUT", "TimeoutExpired")
    stand_in = types.SimpleNamespace(
        Popen=forked.start, **{name: getattr(subprocess, name) for name in names}
    )
    monkeypatch.setattr(retrain, "subprocess", stand_in)
    return forked


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the small built-in data set is made once."""
    return tmp_path_factory.mktemp("data")


def trained(place: Path, data: Path, code: str = "") -> RunFolder:
    folder = make_folder(place, small_spec(*SPEC), data)
    status, output = work(folder, code)
    assert status == 0, output
    return folder


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that nothing disturbed."""
    return trained(tmp_path_factory.mktemp("finished"), data)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# The same


@pytest.mark.usefixtures("workers")
def test_a_run_comes_out_with_the_same_bits(
    protoseg: CommandLine, finished: RunFolder, data: Path
) -> None:
    run = protoseg.lab.runs / finished.run_id
    earlier = protoseg.lab.runs / ".reproductions" / "1" / finished.run_id
    for place in (run, earlier):
        shutil.copytree(finished.path, place)
    before = files(run)
    answer = protoseg("reproduce", finished.run_id[-12:], "--data", str(data))
    assert answer.status == 0, answer.err
    assert "bit-identical: weights, the counts of 4 images, metrics, 6 points" in answer.out
    assert "6 iterations took" in answer.out
    assert "1 thread\ntraining with 1 thread in " in answer.out
    again = RunFolder(protoseg.lab.runs / ".reproductions" / "2" / finished.run_id)
    assert again.status().state is State.DONE
    assert json.loads(again.launch.read_text())["threads"] == 1
    assert files(run) == before, "the recorded run is as it was"
    assert files(earlier) == before, "an earlier reproduction too"


# Not the same


@pytest.mark.usefixtures("workers")
def test_the_first_difference_is_found_where_it_was_made(
    protoseg: CommandLine, data: Path, tmp_path: Path
) -> None:
    folder = trained(tmp_path / "trained", data, NUDGED_AT_4)
    publish(folder.path, protoseg.lab.records)
    words = ("--data", str(data), "--within", "0", "--into", str(tmp_path / "elsewhere"))
    answer = protoseg("reproduce", folder.run_id, *words)
    assert answer.status == 1
    assert (tmp_path / "elsewhere" / "1" / folder.run_id / "record.json").exists()
    assert not (protoseg.lab.runs / ".reproductions").exists()
    assert (
        "different: beyond the tolerance (metrics within 0 points, loss within 1 %)" in answer.out
    )
    (line,) = [line for line in answer.out.splitlines() if line.startswith("loss curve")]
    assert "first differs at iteration 5: loss " in line
    assert line.endswith("; the same until 4")
    assert "weights     other bits" in answer.out
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
    words = ("reproduce", finished.run_id, "--data", str(data))
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
        answer = protoseg(*words)
    assert answer.status == 1
    assert "; the same call again goes on with it." in answer.err
    assert folder.status().state is State.INTERRUPTED
    saved = folder.checkpoint_iteration()
    assert saved is not None
    assert 3 <= saved < 6
    workers.code = ""
    answer = protoseg(*words)
    assert answer.status == 0, answer.err
    assert f"going on from iteration {saved}" in answer.out
    assert "bit-identical: weights, the counts of 4 images, metrics, 6 points" in answer.out
    assert len(folder.attempts()) == 2


def start(words: list[str]) -> subprocess.Popen[str]:
    """The command as a user starts it, in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "PROTOSEG"))}
    return subprocess.Popen(
        [sys.executable, "-m", "protoseg.cli", "reproduce", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_the_command_saves_at_a_signal_and_resumes(protoseg: CommandLine, data: Path) -> None:
    spec = small_spec(*SPEC[:2], "schedule.iterations=4000")
    counts = protoseg.lab.records / f"{run_id(spec)}.npz"
    np.savez(counts, image=[0], cell=[0], count=[1], num_classes=6, num_images=1)
    sha256 = hashlib.sha256(counts.read_bytes()).hexdigest()
    record = make_record(
        spec, 50.0, confusion={"file": "confusion.npz", "sha256": sha256}, provenance={"threads": 1}
    )
    (protoseg.lab.records / f"{run_id(spec)}.json").write_text(json.dumps(record))
    words = [*protoseg.paths, "--data", str(data), run_id(spec)]
    folder = RunFolder(protoseg.lab.runs / ".reproductions" / "1" / run_id(spec))

    for attempt, number in ((1, signal.SIGINT), (2, signal.SIGTERM)):
        process = start(words)
        try:
            # One in every 40 iterations is written to the log.
            wait_until(
                lambda attempt=attempt, process=process: (
                    process.poll() is not None
                    or (len(folder.attempts()) == attempt and "/4000  loss" in log(folder))
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
        assert "; the same call again goes on with it." in err, err
        assert folder.status().state is State.INTERRUPTED
        assert folder.checkpoint_iteration() > 1
    assert "going on from iteration" in out
    assert "resuming from iteration" in log(folder)


def test_an_unfinished_reproduction_goes_on_only_with_the_same_settings(tmp_path: Path) -> None:
    def folder(threads: int, seed: int = 0) -> str:
        spec, settings = {"seed": seed}, {"code": "1", "threads": threads}
        found = fresh_folder(tmp_path, "run", spec, {"threads": threads}, settings)
        return found.path.parent.name

    assert [folder(1), folder(1), folder(2), folder(2), folder(1), folder(1, seed=1)] == [
        *("1", "1", "2", "2", "3", "4")
    ]
    assert json.loads((tmp_path / "1" / "run" / "launch.json").read_text()) == {"threads": 1}


# With the code of another commit


def git(folder: Path, *words: str) -> str:
    names = [f"-c{key}" for key in ("user.name=t", "user.email=t@t", "core.hooksPath=/dev/null")]
    flat = [part for name in names for part in ("-c", name[2:])]
    return subprocess.run(
        ["git", "-C", str(folder), *flat, *words],
        check=True,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    ).stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_checkout_of_the_recorded_commit_and_diff(
    protoseg: CommandLine, finished: RunFolder, data: Path, tmp_path: Path
) -> None:
    code = tmp_path / "code"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "protoseg", code / "protoseg", ignore=ignored)
    shutil.copytree(REPOSITORY / "experiments", code / "experiments")
    # Python's own files beside the modules are no change of the code, there as here.
    shutil.copy(REPOSITORY / ".gitignore", code)
    git(tmp_path, "init", "-q", str(code))
    git(code, "add", "-A")
    git(code, "commit", "-qm", "first")
    commit = git(code, "rev-parse", "HEAD").strip()
    # The recorded run is trained with a change that no commit holds.
    tiny = code / "protoseg" / "models" / "tiny.py"
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
    # Then the code goes on.
    tiny.write_text(original)
    (code / "protoseg" / "news.py").write_text('"""New."""\n')
    git(code, "add", "-A")
    git(code, "commit", "-qm", "second")

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        places = [*protoseg.paths, "--data", str(data)]
        command = [sys.executable, "-m", "protoseg.cli", "reproduce", *places, folder.run_id]
        return subprocess.run(
            [*command, *words],
            cwd=code,
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )

    plain_digest = read_record(finished.record)["provenance"]["state_sha256"]
    assert origin["state_sha256"] != plain_digest, "the change has an effect"
    with_it = call("--checkout")
    assert with_it.returncode == 0, with_it.stdout + with_it.stderr
    assert "changes that no commit holds; they are applied" in with_it.stderr
    assert "bit-identical: weights" in with_it.stdout
    assert "the same code, packages, device and settings" in with_it.stdout
    assert git(code, "worktree", "list").count("\n") == 1
    assert git(code, "status", "--porcelain") == ""


# What can not be done


def counted(protoseg: CommandLine, **changes: Any) -> str:
    """A record of a quickstart run with counts beside it; its id."""
    run = protoseg.quickstart()[0]
    counts = protoseg.lab.records / f"{run.run_id}.npz"
    np.savez(counts, image=[0], cell=[0], count=[1], num_classes=6, num_images=1)
    sha256 = hashlib.sha256(counts.read_bytes()).hexdigest()
    confusion = {"file": "confusion.npz", "sha256": sha256}
    protoseg.record(run, 70.0, confusion=confusion, **changes)
    return run.run_id


def test_an_unknown_run_names_the_nearest(protoseg: CommandLine) -> None:
    for run in protoseg.quickstart():
        protoseg.record(run, 70.0)
    name = protoseg.quickstart()[0].run_id
    answer = protoseg("reproduce", name[:-3])
    assert answer.status != 2 or "a part of" not in answer.err  # one run has this part
    answer = protoseg("reproduce", f"{name[:-3]}xyz")
    assert answer.status == 2
    assert f"unknown run '{name[:-3]}xyz'. Did you mean '{name}'?" in answer.err
    assert answer.err.startswith("protoseg reproduce: 9 records in ")
    answer = protoseg("reproduce", "prototype")
    assert answer.status == 2
    assert "'prototype' is a part of 6 runs: " in answer.err


def test_a_run_without_a_record_has_nothing_to_reproduce(protoseg: CommandLine) -> None:
    folder = protoseg.lab.start(protoseg.quickstart()[0].spec)
    answer = protoseg("reproduce", folder.run_id)
    assert (answer.status, answer.out) == (1, "")
    assert "has no record yet, so there is nothing to reproduce; it is new." in answer.err


def test_counts_that_are_gone_are_noticed_before_anything_is_trained(protoseg: CommandLine) -> None:
    run = protoseg.quickstart()[0]
    protoseg.record(run, 70.0)
    answer = protoseg("reproduce", run.run_id)
    assert answer.status == 1
    assert f"{run.run_id}.npz: the confusion counts of {run.run_id} are gone." in answer.err
    assert not (protoseg.lab.runs / ".reproductions").exists()


@pytest.mark.parametrize(
    ("origin", "sentence"),
    [
        ({"commit": None}, "its record names no commit, so none can be checked out; leave out"),
        ({"commit": "0" * 40}, "no commit 0000000000 (fatal: "),
    ],
)
def test_a_commit_that_is_not_there_is_one_sentence(
    protoseg: CommandLine, origin: dict[str, Any], sentence: str
) -> None:
    name = counted(protoseg, provenance=origin)
    if not (REPOSITORY / ".git").exists() and origin["commit"]:
        sentence = "not a git checkout, so commit 0000000000 is not available"
    answer = protoseg("reproduce", name, "--checkout")
    assert answer.status == 1
    assert sentence in answer.err
    assert "leave out --checkout" in answer.err
    assert not (protoseg.lab.runs / ".reproductions").exists()


@pytest.mark.usefixtures("workers")
def test_a_run_that_fails_again_says_why(protoseg: CommandLine, tmp_path: Path) -> None:
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
