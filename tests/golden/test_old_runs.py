"""Run folders of the old code: read, resumed, retried, and left alone by the code of the checkout.

Another process of the old code trains the same runs without interruption; the results must have
the same bits.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from waiting import finish, wait_until

from golden.collect import find_differences, remove_sentences
from golden.old_code import ROOT, CodeFolder, extract_old_code, write_matrix

pytestmark = pytest.mark.slow
FINISHED, KILLED, FAILED = 0, 1, 2
"""Seeds: what becomes of each run."""
TRAINING = ("--jobs", "3", "--threads", "1", "--checkpoint-seconds", "0")
RESULT = ("spec", "spec_digest", "metrics", "per_class", "parameters", "losses", "confusion")
"""Keys of a record that have equal values for equal specs."""
UNCOMPARED = ("log", "batch", "state")
"""Keys of ``logs --list --json`` with a path of this test or with words for people."""


@dataclass
class OldRuns:
    """Two folders of runs, left by processes of the old code."""

    old: CodeFolder
    new: CodeFolder
    matrix: str
    undisturbed: Path
    """All three runs finished."""
    runs: Path
    """One run finished, one killed after a checkpoint, one failed."""
    status_before_kill: list[dict[str, Any]]
    """What the new code's ``status --json`` printed of `runs` while one run was alive."""

    def copy(self, folder: Path) -> Path:
        """A copy of `runs`, times of files included."""
        return Path(shutil.copytree(self.runs, folder, symlinks=True))


@pytest.fixture(scope="module")
def old_runs(tmp_path_factory: pytest.TempPathFactory) -> OldRuns:
    folder = tmp_path_factory.mktemp("old")
    old, new = CodeFolder(extract_old_code(folder / "code"), folder), CodeFolder(ROOT, folder)
    matrix = write_matrix(folder / "old_runs.yaml", [FINISHED, KILLED, FAILED])
    undisturbed, runs = folder / "undisturbed", folder / "runs"
    old.call(undisturbed, "sweep", matrix, *TRAINING)

    paused = folder / "paused"
    sweep = old.start(
        runs,
        *("sweep", matrix, *TRAINING),
        OLD_PAUSE=f"{KILLED} 6",
        OLD_PAUSED=str(paused),
        OLD_FAIL=f"{FAILED} 4",
    )
    try:
        wait_until(
            lambda: (
                paused.exists()
                and list(runs.glob(f"*-s{FINISHED}-*/record.json"))
                and list(runs.glob(f"*-s{FAILED}-*/attempts/0001/end.json"))
            ),
            "one run finished, one paused, one failed",
            logs=runs.glob("*/attempts/*/log.txt"),
        )
        status = new.read_json(runs, "status", matrix, status=1)["runs"]
    finally:
        # The sweep first: it would start the killed run again.
        os.killpg(sweep.pid, signal.SIGKILL)
        finish(sweep)
        if paused.exists():
            os.kill(int(paused.read_text()), signal.SIGKILL)
    pid = int(paused.read_text())
    wait_until(lambda: not is_alive(pid), "the end of the killed worker")
    return OldRuns(old, new, matrix, undisturbed, runs, status)


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def find_run(runs: Path, seed: int) -> Path:
    """The run folder of a seed."""
    (folder,) = runs.glob(f"*-s{seed}-*")
    return folder


def read_result(folder: Path) -> dict[str, Any]:
    """What the record and the counts of a run say of its result, and the digest of its weights."""
    record = json.loads((folder / "record.json").read_text())
    result = {key: record[key] for key in RESULT}
    result["state_sha256"] = record["provenance"]["state_sha256"]
    result["counts_sha256"] = hashlib.sha256((folder / "confusion.npz").read_bytes()).hexdigest()
    return result


def list_files(folder: Path) -> dict[str, tuple[str, int]]:
    """Path -> digest and time of change of every file of a run."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def list_names(folder: Path) -> set[str]:
    """The names of all files of a run; those of its attempts are left out."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in paths if path.parts[0] != "attempts"}


def read_states(runs: list[dict[str, Any]]) -> dict[int, tuple[str, str | None, int]]:
    """Seed -> state, reason, attempts, out of ``status --json``."""
    return {run["seed"]: (run["state"], run["reason"], run["attempts"]) for run in runs}


def read_attempts(code: CodeFolder, runs: Path, seed: int) -> list[dict[str, Any]]:
    """What ``logs --list --json`` prints of a run, without `UNCOMPARED`."""
    values = remove_sentences(code.read_json(runs, "logs", find_run(runs, seed).name, "--list"))
    return [{k: v for k, v in attempt.items() if k not in UNCOMPARED} for attempt in values]


def test_old_run_folders_read_as_the_old_code_reads_them(old_runs: OldRuns, tmp_path: Path) -> None:
    copies = {code: old_runs.copy(tmp_path / code) for code in ("old", "new")}
    codes = {"old": old_runs.old, "new": old_runs.new}
    answers = {}
    for name, runs in copies.items():
        # A failed run makes `status` fail.
        status = codes[name].read_json(runs, "status", old_runs.matrix, status=1)
        plan = codes[name].read_json(runs, "plan", old_runs.matrix)
        for later_key in ("changed_plugins", "recipe_notes", "power"):
            plan.pop(later_key, None)
        table = codes[name].read_json(runs, "tables", old_runs.matrix, "--out", str(runs / "out"))
        table.pop("comparisons", None)
        for files in table["written"].values():
            files[:] = sorted(path for path in files if "_comparisons" not in path)
        answers[name] = remove_sentences({"status": status, "plan": plan, "tables": table})
        answers[name]["attempts"] = [
            read_attempts(codes[name], runs, seed) for seed in (FINISHED, KILLED, FAILED)
        ]
    assert find_differences(answers["old"], answers["new"]) == []
    assert read_states(answers["new"]["status"]["runs"]) == {
        FINISHED: ("done", None, 1),
        KILLED: ("interrupted", "lost", 1),
        FAILED: ("failed", "code_error", 1),
    }


def test_a_live_worker_of_the_old_code_is_seen(old_runs: OldRuns) -> None:
    assert read_states(old_runs.status_before_kill) == {
        FINISHED: ("done", None, 1),
        KILLED: ("running", None, 1),
        FAILED: ("failed", "code_error", 1),
    }
    (running,) = (run for run in old_runs.status_before_kill if run["seed"] == KILLED)
    progress = json.loads((find_run(old_runs.runs, KILLED) / "progress.json").read_text())
    assert running["iteration"] == progress["iteration"] > 0


def test_old_run_folders_are_resumed_retried_and_left_alone(
    old_runs: OldRuns, tmp_path: Path
) -> None:
    runs, new = old_runs.copy(tmp_path / "runs"), old_runs.new
    finished, failed = find_run(runs, FINISHED), find_run(runs, FAILED)
    files = {folder: list_files(folder) for folder in (finished, failed)}

    first = new.read_json(runs, "sweep", old_runs.matrix, *TRAINING, status=1)
    assert first["trained"] == [find_run(runs, KILLED).name]
    assert {folder: list_files(folder) for folder in files} == files
    killed, resumed = read_attempts(new, runs, KILLED)
    assert (killed["reason"], killed["iteration"]) == ("lost", 0)
    assert killed["ended"], "the next worker closes the attempt that was killed"
    assert (resumed["reason"], resumed["iteration"]) == (None, 6)

    second = new.read_json(runs, "sweep", old_runs.matrix, *TRAINING, "--retry-failed")
    assert second["trained"] == [failed.name]
    assert list_files(finished) == files[finished]
    error, retried = read_attempts(new, runs, FAILED)
    assert (error["reason"], retried["reason"], retried["iteration"]) == ("code_error", None, 4)

    for seed in (FINISHED, KILLED, FAILED):
        expected = read_result(find_run(old_runs.undisturbed, seed))
        values = read_result(find_run(runs, seed))
        assert find_differences(expected, values) == []
        assert values == expected, "every bit"
        names = [list_names(find_run(folder, seed)) for folder in (old_runs.undisturbed, runs)]
        added = set() if seed == FINISHED else {"samples.npz"}  # the old code has no samples
        assert names[1] == names[0] | added
    states = read_states(new.read_json(runs, "status", old_runs.matrix)["runs"])
    assert {state for state, _, _ in states.values()} == {"done"}
    new.call(runs, "verify", old_runs.matrix)
