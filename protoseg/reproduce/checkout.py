"""Checks out the code of a recorded commit in a temporary git worktree."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from protoseg.errors import ProtosegError
from protoseg.training.provenance.source_code import Git, GitError

SECONDS = 300.0


@contextlib.contextmanager
def check_out(repository: Path, commit: str, diff: Path | None = None) -> Iterator[Path]:
    """Yield a temporary worktree of ``repository`` at ``commit``; it is removed at the end.

    Args:
        diff: uncommitted changes to apply on top of the commit.

    Raises:
        ProtosegError: no repository, no such commit in it, or a diff that does not apply.
    """
    if not (repository / ".git").exists():
        raise ProtosegError(
            f"{repository}: not a git checkout, so commit {commit[:10]} is not available. Install "
            "protoseg from a clone, or leave out --checkout to use the installed code."
        )
    git = Git(repository, SECONDS)
    try:
        git.run("cat-file", "-e", f"{commit}^{{commit}}")
    except GitError as error:
        raise ProtosegError(
            f"{repository}: has no commit {commit[:10]} ({error}). Fetch it (in a shallow clone: "
            "git fetch --unshallow), or leave out --checkout to use the installed code."
        ) from None
    temporary = Path(tempfile.mkdtemp(prefix="protoseg-"))
    code = temporary / "code"
    try:
        try:
            git.run("worktree", "add", "--detach", str(code), commit)
            if diff is not None:
                Git(code, SECONDS).run("apply", "--whitespace=nowarn", str(diff.absolute()))
        except GitError as error:
            raise ProtosegError(
                f"{repository}: commit {commit[:10]} cannot be checked out: {error}. Leave out "
                "--checkout to use the installed code."
            ) from None
        yield code
    finally:
        git.try_run("worktree", "remove", "--force", str(code))
        shutil.rmtree(temporary, ignore_errors=True)
        git.try_run("worktree", "prune")


def find_diff(record: Path, name: str | None, sha256: str | None) -> Path | None:
    """Find the diff of a record in the folder of the record; None if no digest matches.

    Args:
        record: the record file, in a run folder or in a folder of records.
        name: file name of the diff in the run folder.
        sha256: digest of the diff.
    """
    for path in (record.with_suffix(".diff"), record.with_name(name or "code.diff")):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if sha256 and hashlib.sha256(content).hexdigest() == sha256:
            return path
    return None
