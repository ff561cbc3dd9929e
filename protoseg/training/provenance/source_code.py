"""The source code that runs: its commit, and the changes of the working tree as a diff.

`git apply` accepts the diff. It holds tracked changes, deletions, file modes and binary files, and
as new files all untracked files that git does not ignore. It is made with a temporary index and
object store, so that the user's repository does not change, however many runs start at once.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from protoseg import files
from protoseg.paths import PROJECT_FILE, SHIPPED, find_paths

CODE = (
    *("protoseg", "experiments", "slurm", "pyproject.toml"),
    *("requirements.lock", "requirements-mm.lock"),
)
"""The paths that can change a result; a table in results/ cannot."""
BUILD_FILE = SHIPPED / "build.json"
"""Commit that a package was built from, beside ``protoseg``; `setup.py` writes it."""
LARGEST_DIFF = 2**20
"""Bytes; of a larger diff only the digest is kept."""
LARGEST_CHANGE = 2**26
"""Bytes of changed files; above this no diff is made."""
SECONDS = 60.0
_OTHER_REPOSITORY = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_PREFIX"),
    *("GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE", "GIT_QUARANTINE_PATH"),
)
"""Variables with which a git hook or a rebase selects its own repository."""


@dataclass(frozen=True)
class CodeState:
    """Commit, and how the working tree differs from it; None means unknown."""

    commit: str | None = None
    dirty: bool | None = None
    diff: bytes | None = None
    """The changes, unless there are none or they are too large."""
    diff_sha256: str | None = None
    note: str = ""
    """Why a changed working tree has no diff."""


class GitError(Exception):
    """git failed; the message is the last line of its standard error."""


class Git:
    """Runs git in one checkout, without hooks.

    Args:
        checkout: folder of the repository or of a worktree.
        seconds: time limit of each call.
        environment: variables to set.
    """

    def __init__(self, checkout: Path, seconds: float = SECONDS, **environment: str) -> None:
        self._command = ["git", "-C", str(checkout)]
        # In a container the repository often belongs to another user.
        own = ("core.quotePath=true", f"core.hooksPath={os.devnull}", "core.fsmonitor=false")
        for setting in (*own, "safe.directory=*"):
            self._command += ["-c", setting]
        self._seconds = seconds
        self._environment = {k: v for k, v in os.environ.items() if k not in _OTHER_REPOSITORY}
        # A command that refreshes the index would lock it, and other git processes would fail.
        self._environment |= {"GIT_OPTIONAL_LOCKS": "0", **environment}

    def run(self, *arguments: str, data: bytes | None = None) -> bytes:
        """Run a git command and return its standard output.

        Args:
            data: standard input.

        Raises:
            GitError: git is missing, failed, or exceeded the time limit.
        """
        try:
            result = subprocess.run(
                [*self._command, *arguments],
                input=data,
                stdin=subprocess.DEVNULL if data is None else None,
                capture_output=True,
                env=self._environment,
                timeout=self._seconds,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise GitError(str(error)) from error
        if result.returncode:
            text = result.stderr.decode(errors="replace")
            lines = [line for line in text.splitlines() if line.strip()]
            raise GitError(lines[-1] if lines else f"status {result.returncode}")
        return result.stdout

    def try_run(self, *arguments: str, data: bytes | None = None) -> bytes | None:
        """Run a git command and return its standard output, or None if it fails."""
        try:
            return self.run(*arguments, data=data)
        except GitError:
            return None


def read_code_state(checkout: Path) -> CodeState:
    """The state of the code in ``checkout``, or of an installed package as it was built.

    All is unknown if it is not a git repository and was not built from one.
    """
    if not (checkout / ".git").exists():
        built = files.read_json(checkout / BUILD_FILE)
        return CodeState(**built) if isinstance(built, dict) else CodeState()
    git = Git(checkout)
    head = git.try_run("rev-parse", "HEAD")
    # Plumbing commands ignore the user's settings (colours, prefixes, context).
    changed = git.try_run("diff-index", "--name-only", "--no-renames", "-z", "HEAD", "--", *CODE)
    new = git.try_run("ls-files", "--others", "--exclude-standard", "-z", "--", *CODE)
    if head is None or changed is None or new is None:
        return CodeState(commit=head.decode().strip() if head else None)
    commit = head.decode().strip()
    # A name that ends with '/' is a nested repository, which a diff cannot hold.
    names = sorted(n for n in {*changed.split(b"\0"), *new.split(b"\0")} if n and n[-1:] != b"/")
    if not names:
        return CodeState(commit, dirty=False)
    size = sum(_get_size(checkout / os.fsdecode(name)) for name in names)
    if size > LARGEST_CHANGE:
        return CodeState(commit, True, note=f"{_format_mib(size)} of changed files: no diff made")
    diff = _make_diff(checkout, git, names)
    if diff is None:
        return CodeState(commit, True, note="git could not make a diff")
    if not diff:  # new modification times, same content
        return CodeState(commit, dirty=False)
    sha256 = hashlib.sha256(diff).hexdigest()
    if len(diff) > LARGEST_DIFF:
        sizes = f"{_format_mib(len(diff))}, limit {_format_mib(LARGEST_DIFF)}"
        return CodeState(commit, True, diff_sha256=sha256, note=f"{sizes}: only its digest is kept")
    return CodeState(commit, True, diff, sha256)


def read_project_state(project: Path) -> CodeState | None:
    """The commit of a project's repository; None outside of git, or before the first commit.

    A project is dirty if its configs differ from the commit, and None if they are outside of its
    repository. There is no diff: the spec of a run has all values.
    """
    git = Git(project)
    head = git.try_run("rev-parse", "HEAD")
    if head is None:
        return None
    paths = find_paths(project)
    status = git.try_run(
        "status", "--porcelain", "--", PROJECT_FILE, str(paths.experiments), str(paths.clusters)
    )
    return CodeState(head.decode().strip(), dirty=None if status is None else bool(status.strip()))


def _make_diff(checkout: Path, git: Git, names: list[bytes]) -> bytes | None:
    """The diff of the code from HEAD to the working tree; None if git fails."""
    objects = git.try_run("rev-parse", "--git-path", "objects")
    if objects is None:
        return None
    stores = [str(checkout / os.fsdecode(objects).rstrip("\n"))]
    stores += [k for k in [os.environ.get("GIT_ALTERNATE_OBJECT_DIRECTORIES", "")] if k]
    with tempfile.TemporaryDirectory() as temporary:
        os.mkdir(f"{temporary}/objects")  # without it git does not recognise the repository
        isolated = Git(
            checkout,
            GIT_INDEX_FILE=f"{temporary}/index",
            GIT_OBJECT_DIRECTORY=f"{temporary}/objects",
            GIT_ALTERNATE_OBJECT_DIRECTORIES=os.pathsep.join(stores),
        )
        name_list = b"".join(name + b"\0" for name in names)
        update = ("update-index", "--add", "--remove", "--replace", "-z", "--stdin")
        options = ("--patch", "--binary", "--full-index", "--no-renames", "--no-textconv")
        try:
            isolated.run("read-tree", "HEAD")
            isolated.run(*update, data=name_list)
            return isolated.run(
                "diff-index", "--cached", "--no-ext-diff", *options, "HEAD", "--", *CODE
            )
        except GitError:
            return None


def _get_size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _format_mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
