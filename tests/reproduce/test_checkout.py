"""The code of a recorded commit in a temporary worktree, with and without its diff."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from training.provenance.repository import git

from protoseg.errors import ProtosegError
from protoseg.reproduce.checkout import check_out, find_diff


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two commits of one file."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    for content in ("one\n", "two\n"):
        (folder / "code.py").write_text(content)
        git(folder, "add", "-A")
        git(folder, "commit", "-qm", content)
    return folder


def first_commit(repository: Path) -> str:
    return git(repository, "rev-list", "--max-parents=0", "HEAD").strip()


def worktrees(repository: Path) -> int:
    return git(repository, "worktree", "list").count("\n")


def make_diff(repository: Path, path: Path, content: str) -> Path:
    """Write the diff from the first commit to this content of its file."""
    with check_out(repository, first_commit(repository)) as code:
        (code / "code.py").write_text(content)
        path.write_text(git(code, "diff"))
    return path


def test_the_code_of_a_commit_is_available_until_the_end(repository: Path) -> None:
    with check_out(repository, first_commit(repository)) as code:
        assert (code / "code.py").read_text() == "one\n"
        assert worktrees(repository) == 2
    assert not code.parent.exists()
    assert worktrees(repository) == 1
    assert (repository / "code.py").read_text() == "two\n"
    assert git(repository, "status", "--porcelain") == ""


def test_a_worktree_is_removed_after_an_error_inside(repository: Path) -> None:
    with pytest.raises(KeyboardInterrupt), check_out(repository, "HEAD") as code:
        raise KeyboardInterrupt
    assert not code.parent.exists()
    assert worktrees(repository) == 1


def test_a_diff_is_applied_to_the_commit_of_its_record(repository: Path, tmp_path: Path) -> None:
    diff = make_diff(repository, tmp_path / "code.diff", "one and  \n")
    with check_out(repository, first_commit(repository), diff) as code:
        assert (code / "code.py").read_text() == "one and  \n"


def test_a_diff_of_other_code_is_refused(repository: Path, tmp_path: Path) -> None:
    diff = make_diff(repository, tmp_path / "code.diff", "other\n")
    with (
        pytest.raises(ProtosegError, match=r"cannot be checked out: .*Leave out --checkout"),
        check_out(repository, "HEAD", diff),
    ):
        pytest.fail("the diff does not apply")
    assert worktrees(repository) == 1


def test_a_folder_without_git_and_an_unknown_commit_are_refused(
    repository: Path, tmp_path: Path
) -> None:
    with (
        pytest.raises(ProtosegError, match=r"not a git checkout, so commit 1234567890 is not"),
        check_out(tmp_path, "1234567890abcdef"),
    ):
        pytest.fail("there is no repository")
    with (
        pytest.raises(ProtosegError, match=r"has no commit 0{10} \(fatal: .*--unshallow"),
        check_out(repository, "0" * 40),
    ):
        pytest.fail("there is no such commit")


def test_the_diff_of_a_record_has_its_digest(tmp_path: Path) -> None:
    record, in_run_folder = tmp_path / "run.json", tmp_path / "code-12.diff"
    digests = {}
    for name in ("run.diff", "code.diff", "code-12.diff"):
        (tmp_path / name).write_text(name)
        digests[name] = hashlib.sha256(name.encode()).hexdigest()
    assert find_diff(record, None, digests["run.diff"]) == tmp_path / "run.diff"
    assert find_diff(record, "code-12.diff", digests["code-12.diff"]) == in_run_folder
    assert find_diff(record, None, digests["code.diff"]) == tmp_path / "code.diff"
    assert find_diff(record, "code-12.diff", digests["code.diff"]) is None
    assert find_diff(record, "missing.diff", digests["code-12.diff"]) is None
    assert find_diff(record, None, None) is None
    assert find_diff(record, None, "") is None
