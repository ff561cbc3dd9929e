"""Checks out the code of a recorded commit in a temporary git worktree."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from protoseg.errors import ProtosegError

SECONDS = 300.0


@contextlib.contextmanager
def checked_out(repository: Path, commit: str, diff: Path | None = None) -> Iterator[Path]:
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
    missing = _git(repository, "cat-file", "-e", f"{commit}^{{commit}}")
    if missing is not None:
        raise ProtosegError(
            f"{repository}: has no commit {commit[:10]} ({missing}). Fetch it (in a shallow clone: "
            "git fetch --unshallow), or leave out --checkout to use the installed code."
        )
    temporary = Path(tempfile.mkdtemp(prefix="protoseg-"))
    code = temporary / "code"
    try:
        problem = _git(repository, "worktree", "add", "--detach", str(code), commit)
        if problem is None and diff is not None:
            problem = _git(code, "apply", "--whitespace=nowarn", str(diff.absolute()))
        if problem is not None:
            raise ProtosegError(
                f"{repository}: commit {commit[:10]} cannot be checked out: {problem}. Leave out "
                "--checkout to use the installed code."
            )
        yield code
    finally:
        _git(repository, "worktree", "remove", "--force", str(code))
        shutil.rmtree(temporary, ignore_errors=True)
        _git(repository, "worktree", "prune")


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


def _git(folder: Path, *arguments: str) -> str | None:
    """Run git in a folder; return its error message, or None if it succeeds."""
    # Inside a git hook or rebase, GIT_* variables name another repository.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    command = ["git", "-C", str(folder), "-c", f"core.hooksPath={os.devnull}", *arguments]
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if result.returncode == 0:
        return None
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"status {result.returncode}"
