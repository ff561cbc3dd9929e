"""The code of a recorded commit, checked out beside the present one for a while."""

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
    """A folder with the code of ``commit``, a worktree of ``repository`` that goes away again.

    Args:
        diff: what the working tree had changed, to be applied on top.

    Raises:
        ProtosegError: no repository, no such commit in it, or a diff that does not fit.
    """
    if not (repository / ".git").exists():
        raise ProtosegError(
            f"{repository}: not a git checkout, so commit {commit[:10]} can not be had; install "
            "protoseg from a clone, or leave out --checkout to use the code that is here."
        )
    missing = _git(repository, "cat-file", "-e", f"{commit}^{{commit}}")
    if missing is not None:
        raise ProtosegError(
            f"{repository}: has no commit {commit[:10]} ({missing}); fetch it (in a shallow clone: "
            "git fetch --unshallow), or leave out --checkout to use the code that is here."
        )
    place = Path(tempfile.mkdtemp(prefix="protoseg-"))
    code = place / "code"
    try:
        problem = _git(repository, "worktree", "add", "--detach", str(code), commit)
        if problem is None and diff is not None:
            problem = _git(code, "apply", "--whitespace=nowarn", str(diff.absolute()))
        if problem is not None:
            raise ProtosegError(
                f"{repository}: commit {commit[:10]} can not be checked out: {problem}; leave out "
                "--checkout to use the code that is here."
            )
        yield code
    finally:
        _git(repository, "worktree", "remove", "--force", str(code))
        shutil.rmtree(place, ignore_errors=True)
        _git(repository, "worktree", "prune")


def find_diff(record: Path, name: str | None, sha256: str | None) -> Path | None:
    """The diff that a record was made with, beside it; None where none has the right digest.

    Args:
        record: the file, of a run folder or of a folder of records.
        name: what the diff is called in the run folder.
    """
    for path in (record.with_suffix(".diff"), record.with_name(name or "code.diff")):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if sha256 and hashlib.sha256(content).hexdigest() == sha256:
            return path
    return None


def _git(folder: Path, *words: str) -> str | None:
    """What git complains of; None where it does not."""
    # A hook or a rebase around this process names another repository.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    command = ["git", "-C", str(folder), "-c", f"core.hooksPath={os.devnull}", *words]
    try:
        done = subprocess.run(
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
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return None if done.returncode == 0 else (lines[-1] if lines else f"status {done.returncode}")
