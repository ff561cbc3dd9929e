"""The state of the source code: commit, diff and digest; with real git repositories."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from protoseg.training.provenance import source_code
from protoseg.training.provenance.source_code import (
    CodeState,
    Git,
    GitError,
    read_code_state,
)
from training.provenance.repository import change_files, clone, git, read_tree, write

pytestmark = pytest.mark.install


def test_changes_outside_the_code_leave_the_tree_clean(checkout: Path) -> None:
    write(checkout / "results" / "note.md", "changed\n")
    write(checkout / "scratch.txt", "new\n")
    (checkout / "protoseg" / "__init__.py").touch()
    state = read_code_state(checkout)
    assert state == CodeState(git(checkout, "rev-parse", "HEAD").strip(), dirty=False)


def test_commit_and_diff_restore_the_working_tree(checkout: Path, tmp_path: Path) -> None:
    change_files(checkout)
    state = read_code_state(checkout)
    assert state.dirty is True
    assert state.diff is not None
    assert state.diff_sha256 == hashlib.sha256(state.diff).hexdigest()
    restored = clone(checkout, tmp_path / "restored")
    git(restored, "checkout", "-q", str(state.commit))
    assert read_tree(restored) != read_tree(checkout)
    git(restored, "apply", "--whitespace=nowarn", "-", data=state.diff)
    assert read_tree(restored) == read_tree(checkout)
    assert b"no code" not in state.diff


def test_the_diff_ignores_git_settings_and_does_not_change_the_repository(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_files(checkout)
    index = (checkout / ".git" / "index").read_bytes()
    objects = sorted((checkout / ".git" / "objects").rglob("*"))
    default_state = read_code_state(checkout)
    for setting in (
        *("color.ui=always", "diff.noprefix=true", "diff.context=9", "diff.renames=copies"),
        *("diff.external=false", "core.quotePath=false", "diff.algorithm=patience"),
    ):
        git(checkout, "config", *setting.split("="))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere/index")
    assert default_state.diff
    assert read_code_state(checkout) == default_state
    monkeypatch.undo()
    assert (checkout / ".git" / "index").read_bytes() == index
    assert sorted((checkout / ".git" / "objects").rglob("*")) == objects


def test_a_worktree_has_separate_changes(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "worktree", "add", "-q", str(tmp_path / "linked"))
    write(tmp_path / "linked" / "protoseg" / "new.py", "x = 1\n")
    state = read_code_state(tmp_path / "linked")
    assert state.diff is not None
    assert b"protoseg/new.py" in state.diff
    assert read_code_state(checkout).dirty is False


def test_a_diff_that_is_too_large_is_replaced_by_its_digest_and_a_note(checkout: Path) -> None:
    lines = "".join(hashlib.sha256(str(i).encode()).hexdigest() + "\n" for i in range(20_000))
    write(checkout / "protoseg" / "large.py", lines)
    state = read_code_state(checkout)
    assert (state.dirty, state.diff) == (True, None)
    assert state.diff_sha256 is not None
    assert state.note == "1.3 MiB, limit 1.0 MiB: only its digest is kept"


def test_very_large_changes_are_not_read(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_code, "LARGEST_CHANGE", 1000)
    write(checkout / "protoseg" / "weights.pth", bytes(2000))
    state = read_code_state(checkout)
    assert (state.dirty, state.diff, state.diff_sha256) == (True, None, None)
    assert "no diff made" in state.note


def test_the_state_without_a_repository_or_commit_is_unknown(tmp_path: Path) -> None:
    assert read_code_state(tmp_path) == CodeState()
    git(tmp_path, "init", "-q")
    write(tmp_path / "protoseg" / "a.py", "")
    assert read_code_state(tmp_path) == CodeState()  # no commit yet
    shutil.rmtree(tmp_path / ".git" / "refs")
    assert read_code_state(tmp_path) == CodeState()


def test_a_failed_git_command_raises_the_last_line_of_its_error(checkout: Path) -> None:
    with pytest.raises(GitError, match=r"^fatal: Needed a single revision$"):
        Git(checkout).run("rev-parse", "--verify", "no-such-commit")
    assert Git(checkout).try_run("cat-file", "-e", "no-such-commit") is None


def test_a_missing_git_raises_an_error(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(GitError, match="git"):
        Git(checkout).run("status")
