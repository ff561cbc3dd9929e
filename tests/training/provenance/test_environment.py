"""What a record says of its code, lock, device and kernels; in real repositories."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from protoseg import files
from protoseg.runs.folder import RunFolder
from protoseg.training.provenance import environment as provenance
from protoseg.training.provenance import source_code as code

pytestmark = pytest.mark.install


def git(folder: Path, *words: str, data: bytes | None = None) -> str:
    names = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in
             ("NAME", "EMAIL")}  # fmt: skip
    environment = {**os.environ, **names, "GIT_CONFIG_GLOBAL": os.devnull}
    result = subprocess.run(
        ["git", "-C", str(folder), *words], input=data, capture_output=True, env=environment
    )
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode()


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit and nothing else."""
    place = tmp_path / "checkout"
    place.mkdir()
    git(place, "init", "-q")
    write(place / "protoseg" / "__init__.py", "version = 1\n")
    write(place / "protoseg" / "core" / "a.py", "".join(f"line {i}\n" for i in range(30)))
    write(place / "protoseg" / "old name é.py", "gone soon\n")
    write(place / "experiments" / "run.yaml", "a: 1\n")
    write(place / "results" / "note.md", "no code\n")
    write(place / ".gitignore", "*.pyc\n")
    git(place, "add", "-A")
    git(place, "commit", "-qm", "first")
    return place


def change(checkout: Path) -> None:
    """Everything that can happen to a tree."""
    text = (checkout / "protoseg" / "core" / "a.py").read_text()
    write(checkout / "protoseg" / "core" / "a.py", text.replace("line 7\n", "Zeile 7\n"))
    (checkout / "protoseg" / "old name é.py").rename(checkout / "protoseg" / "new name.py")
    write(checkout / "protoseg" / "data.bin", bytes(range(256)) * 4)
    write(checkout / "protoseg" / "empty.py", "")
    write(checkout / "protoseg" / "no end.py", "no new line at its end")
    write(checkout / "protoseg" / "ignored.pyc", "x")
    write(checkout / "slurm" / "deep" / "site.yaml", "partition: gpu\r\n")
    (checkout / "protoseg" / "__init__.py").chmod(0o755)
    (checkout / "protoseg" / "link.py").symlink_to("core/a.py")
    write(checkout / "experiments" / "run.yaml", "a: 2\n")
    git(checkout, "add", "experiments/run.yaml")  # staged, and changed again
    write(checkout / "experiments" / "run.yaml", "a: 3\n")
    write(checkout / "results" / "note.md", "still no code\n")


def tree(folder: Path) -> dict[str, Any]:
    """Path -> mode and content of the code."""
    found: dict[str, Any] = {}
    for name in ("protoseg", "experiments", "slurm"):
        for path in (folder / name).rglob("*"):
            if path.is_symlink():
                found[path.relative_to(folder).as_posix()] = ("link", os.readlink(path))
            elif path.is_file() and path.suffix != ".pyc":
                executable = bool(path.stat().st_mode & 0o100)
                found[path.relative_to(folder).as_posix()] = (executable, path.read_bytes())
    return found


def clone(checkout: Path, place: Path) -> Path:
    git(checkout, "clone", "-q", str(checkout), str(place))
    return place


def test_a_clean_tree_is_clean_whatever_lies_outside_the_code(checkout: Path) -> None:
    write(checkout / "results" / "note.md", "changed\n")
    write(checkout / "scratch.txt", "new\n")
    (checkout / "protoseg" / "__init__.py").touch()
    state = code.code_state(checkout)
    assert state == code.CodeState(git(checkout, "rev-parse", "HEAD").strip(), dirty=False)


def test_the_diff_on_the_recorded_commit_is_the_tree_that_ran(
    checkout: Path, tmp_path: Path
) -> None:
    change(checkout)
    state = code.code_state(checkout)
    assert state.dirty is True
    assert state.diff is not None
    assert state.diff_sha256 == hashlib.sha256(state.diff).hexdigest()
    again = clone(checkout, tmp_path / "again")
    git(again, "checkout", "-q", str(state.commit))
    assert tree(again) != tree(checkout)
    git(again, "apply", "--whitespace=nowarn", "-", data=state.diff)
    assert tree(again) == tree(checkout)
    assert b"no code" not in state.diff


def test_the_diff_is_the_same_bytes_under_other_settings_and_touches_nothing(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(checkout)
    index = (checkout / ".git" / "index").read_bytes()
    objects = sorted((checkout / ".git" / "objects").rglob("*"))
    plain = code.code_state(checkout)
    for setting in (
        *("color.ui=always", "diff.noprefix=true", "diff.context=9", "diff.renames=copies"),
        *("diff.external=false", "core.quotePath=false", "diff.algorithm=patience"),
    ):
        git(checkout, "config", *setting.split("="))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere/index")
    assert plain.diff
    assert code.code_state(checkout) == plain
    monkeypatch.undo()
    assert (checkout / ".git" / "index").read_bytes() == index
    assert sorted((checkout / ".git" / "objects").rglob("*")) == objects


def test_a_linked_worktree_has_its_own_changes(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "worktree", "add", "-q", str(tmp_path / "linked"))
    write(tmp_path / "linked" / "protoseg" / "new.py", "x = 1\n")
    state = code.code_state(tmp_path / "linked")
    assert state.diff is not None
    assert b"protoseg/new.py" in state.diff
    assert code.code_state(checkout).dirty is False


def test_a_diff_that_is_too_large_leaves_its_digest_and_a_note(checkout: Path) -> None:
    lines = "".join(hashlib.sha256(str(i).encode()).hexdigest() + "\n" for i in range(20_000))
    write(checkout / "protoseg" / "large.py", lines)
    state = code.code_state(checkout)
    assert (state.dirty, state.diff) == (True, None)
    assert state.diff_sha256 is not None
    assert state.note == "1.3 MiB, more than 1.0 MiB: only its digest is kept"


def test_gigabytes_of_untracked_files_are_not_read(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code, "LARGEST_CHANGE", 1000)
    write(checkout / "protoseg" / "weights.pth", bytes(2000))
    state = code.code_state(checkout)
    assert (state.dirty, state.diff, state.diff_sha256) == (True, None, None)
    assert "no diff was made" in state.note


def test_no_repository_no_commit_and_a_broken_one_are_not_known(tmp_path: Path) -> None:
    assert code.code_state(tmp_path) == code.CodeState()
    git(tmp_path, "init", "-q")
    write(tmp_path / "protoseg" / "a.py", "")
    assert code.code_state(tmp_path) == code.CodeState()  # no commit yet
    shutil.rmtree(tmp_path / ".git" / "refs")
    assert code.code_state(tmp_path) == code.CodeState()


def test_the_code_digest_needs_no_repository(checkout: Path) -> None:
    package = checkout / "protoseg"
    before = code.code_digest(package)
    write(package / "ignored.pyc", "x")
    assert code.code_digest(package) == before
    write(package / "core" / "a.py", "other\n")
    changed = code.code_digest(package)
    (package / "core" / "a.py").rename(package / "core" / "b.py")
    assert len({before, changed, code.code_digest(package)}) == 3


# The attempts of one run


@pytest.fixture
def run(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run whose code is the checkout."""
    monkeypatch.setattr(provenance, "_checkout", lambda: checkout)
    folder = RunFolder(tmp_path / "runs" / "one-0123456789")
    folder.create({}, {})
    return folder


def attempt(run: RunFolder, iteration: int = 0, *outside: str) -> dict[str, Any]:
    run.start_attempt({"iteration": iteration})
    return provenance.begin(run, outside)


def test_an_attempt_on_a_clean_tree(run: RunFolder) -> None:
    found = attempt(run)
    assert (found["dirty"], found["diff_file"], found["diff_sha256"]) == (False, None, None)
    assert [(e["first"], e["last"]) for e in found["attempts"]] == [(1, 1)]
    assert not list(run.path.glob("*.diff"))
    json.dumps(found, allow_nan=False)


def test_attempts_with_the_same_code_are_one_entry(run: RunFolder, checkout: Path) -> None:
    change(checkout)
    attempt(run)
    found = attempt(run, 5)
    (entry,) = found["attempts"]
    assert (entry["first"], entry["last"], entry["diff_file"]) == (1, 2, "code.diff")
    assert files.file_digest(run.path / "code.diff") == found["diff_sha256"]


def test_a_run_resumed_with_other_code_says_so_and_keeps_both_diffs(
    run: RunFolder, checkout: Path
) -> None:
    change(checkout)
    first = attempt(run)
    one = (run.path / "code.diff").read_bytes()
    write(checkout / "protoseg" / "another.py", "x = 2\n")
    second = attempt(run, 5)
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "second")
    found = attempt(run, 9)
    entries = found["attempts"]
    assert [(e["first"], e["last"], e["dirty"]) for e in entries] == [
        (1, 1, True), (2, 2, True), (3, 3, False)]  # fmt: skip
    assert [e["commit"] for e in entries] == [p["commit"] for p in (first, second, found)]
    assert entries[0]["commit"] == entries[1]["commit"] != entries[2]["commit"]
    assert found["diff_file"] is None
    assert not (run.path / "code.diff").exists(), "the last attempt had none"
    for entry, made in zip(entries, (first, second), strict=False):
        assert entry["diff_file"] == provenance.other_diff(made["diff_sha256"])
        assert files.file_digest(run.path / entry["diff_file"]) == made["diff_sha256"]
    assert (run.path / entries[0]["diff_file"]).read_bytes() == one


def test_an_attempt_of_an_older_protoseg_is_not_known_and_a_lost_one_is_none(
    run: RunFolder,
) -> None:
    run.start_attempt({"iteration": 0})  # trained up to 5, and says nothing of its code
    run.start_attempt({"iteration": 5})  # lost before it trained anything
    found = attempt(run, 5)
    assert [(e["first"], e["commit"] is None) for e in found["attempts"]] == [(1, True), (3, False)]


# Lock, device, kernels


def test_a_package_from_elsewhere_is_named_with_its_source(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "mine" / "outsider" / "net.py", "a = 1\n")
    monkeypatch.syspath_prepend(tmp_path / "mine")
    assert "outside" not in attempt(run)
    attempt(run, 3, "outsider")
    write(tmp_path / "mine" / "outsider" / "net.py", "a = 2\n")
    found = attempt(run, 5, "outsider")
    sources = [entry.get("outside", {}).get("outsider") for entry in found["attempts"]]
    assert [source and source["version"] for source in sources] == [None, None, None]
    first, last = (str(source["sha256"]) for source in sources if source)
    assert first != last == found["outside"]["outsider"]["sha256"]
    expected = hashlib.sha256(b"net.py\x006\x00a = 2\n").hexdigest()
    assert last == expected
    metadata = tmp_path / "mine" / "outsider-0.3.dist-info" / "METADATA"
    write(metadata, "Metadata-Version: 2.1\nName: outsider\nVersion: 0.3\n")
    assert provenance.outside_code("outsider") == {"version": "0.3", "sha256": expected}
    assert provenance.outside_code("nowhere_at_all") == {"version": None, "sha256": None}


def test_packages_that_are_not_what_the_lock_says(tmp_path: Path) -> None:
    build = torch.__version__.split("+")[0]
    write(
        tmp_path / "a.lock",
        f"# torch==0.0\ntorch=={build}\nNumPy==0.0.1  # old\npytest-nowhere==1.0\n",
    )
    write(tmp_path / "b.lock", f"torch=={build}+nobuild\n")
    differing = provenance.lock_differs([tmp_path / "a.lock", tmp_path / "none.lock"])
    assert differing is not None
    assert differing.keys() == {"NumPy", "pytest-nowhere"}
    assert differing["NumPy"][0] == "0.0.1"
    assert differing["pytest-nowhere"] == ["1.0", None]
    assert provenance.lock_differs([tmp_path / "b.lock"]) == {
        "torch": [f"{build}+nobuild", torch.__version__]
    }
    write(tmp_path / "exact.lock", f"torch=={torch.__version__}\n")
    assert provenance.lock_differs([tmp_path / "exact.lock"]) == {}
    assert provenance.lock_differs([tmp_path / "none.lock"]) is None


@pytest.mark.parametrize("metadata", ["2.13.0", "2.13.0+cpu"])
def test_the_build_of_torch_is_recorded_whatever_its_metadata_say(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metadata: str
) -> None:
    """PyPI's torch 2.13.0+cu130 calls itself 2.13.0 in its metadata."""
    read_version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: {"torch": metadata}.get(name, read_version)
    )
    monkeypatch.setattr(torch, "__version__", "2.13.0+cu130")
    provenance_now = attempt(run)
    assert provenance_now["packages"]["torch"] == "2.13.0+cu130"
    assert [entry["torch"] for entry in provenance_now["attempts"]] == ["2.13.0+cu130"]
    for name, content, differing in (
        ("release", "torch==2.13.0\n", {}),
        ("build", "torch==2.13.0+cu130\n", {}),
        ("other_build", "torch==2.13.0+cpu\n", {"torch": ["2.13.0+cpu", "2.13.0+cu130"]}),
        ("other_release", "torch==2.12.0\n", {"torch": ["2.12.0", "2.13.0+cu130"]}),
    ):
        write(tmp_path / name, content)
        assert provenance.lock_differs([tmp_path / name]) == differing, name


def test_the_kernels_settings_are_those_of_this_moment() -> None:
    before = provenance.kernels()
    assert before["threads"] == torch.get_num_threads()
    assert before["float32_matmul_precision"] == "highest"
    assert before["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    try:
        torch.use_deterministic_algorithms(True)
        torch.set_float32_matmul_precision("high")
        after = provenance.kernels()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision("highest")
    assert after["deterministic_algorithms"] is True
    assert after["float32_matmul_precision"] == "high"
    assert provenance.kernels() == before


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\n", "550.54.15"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release Build\n",
            "570.86.10",
        ),
        ("something else", None),
    ],
)
def test_the_drivers_version(tmp_path: Path, text: str, version: str | None) -> None:
    write(tmp_path / "version", text)
    assert provenance.driver_version(tmp_path / "version") == version
    assert provenance.driver_version(tmp_path / "nowhere") is None
