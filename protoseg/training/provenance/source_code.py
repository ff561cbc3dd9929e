"""Which code is running: the commit, and what the working tree changes of it, as a diff.

The diff is what `git apply` takes: tracked changes, deletions, modes and binary files, and as new
files those untracked ones that git does not ignore. It is made with an index and an object store of
its own, so that nothing of the user's repository is touched, however many runs start at once.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

CODE = (
    *("protoseg", "experiments", "slurm", "pyproject.toml"),
    *("requirements.lock", "requirements-mm.lock"),
)
"""What decides a result: a table written under results/ makes none doubtful."""
LARGEST_DIFF = 2**20
"""Bytes; of a larger diff only the digest is kept."""
LARGEST_CHANGE = 2**26
"""Bytes of changed files beyond which no diff is made at all."""
SECONDS = 60.0
# A hook or a rebase around us names its own repository.
_FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY")


@dataclass(frozen=True)
class CodeState:
    """Commit, and how the working tree differs from it; None is not known."""

    commit: str | None = None
    dirty: bool | None = None
    diff: bytes | None = None
    """The changes, where there are some and they are not too large."""
    diff_sha256: str | None = None
    note: str = ""
    """Why there are changes and no text of them."""


class _Git:
    """Calls of git in one checkout; each gives the output, or None where git fails."""

    def __init__(self, checkout: Path, **environment: str) -> None:
        self.checkout = checkout
        self.environment = {k: v for k, v in os.environ.items() if k not in _FOREIGN}
        # Readers that refresh the index would lock it, and other processes of the user fail.
        self.environment |= {"GIT_OPTIONAL_LOCKS": "0", **environment}

    def __call__(self, *words: str, data: bytes | None = None) -> bytes | None:
        try:
            result = subprocess.run(
                ["git", "-C", str(self.checkout), "-c", "core.quotePath=true", *words],
                input=data,
                stdin=subprocess.DEVNULL if data is None else None,
                capture_output=True,
                env=self.environment,
                timeout=SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return result.stdout if result.returncode == 0 else None


def code_state(checkout: Path) -> CodeState:
    """The state of the code in ``checkout``; all unknown where that is no git repository."""
    if not (checkout / ".git").exists():
        return CodeState()
    git = _Git(checkout)
    head = git("rev-parse", "HEAD")
    # Plumbing: the user's settings (colours, prefixes, context) do not reach it.
    changed = git("diff-index", "--name-only", "--no-renames", "-z", "HEAD", "--", *CODE)
    new = git("ls-files", "--others", "--exclude-standard", "-z", "--", *CODE)
    if head is None or changed is None or new is None:
        return CodeState(commit=head.decode().strip() if head else None)
    commit = head.decode().strip()
    # A name that ends in '/' is a repository inside this one, which a diff can not hold.
    names = sorted(n for n in {*changed.split(b"\0"), *new.split(b"\0")} if n and n[-1:] != b"/")
    if not names:
        return CodeState(commit, dirty=False)
    size = sum(_size(checkout / os.fsdecode(name)) for name in names)
    if size > LARGEST_CHANGE:
        return CodeState(commit, True, note=f"{_mib(size)} of changed files: no diff was made")
    diff = _difference(checkout, git, names)
    if diff is None:
        return CodeState(commit, True, note="git could not make a diff")
    if not diff:  # touched, and as it was
        return CodeState(commit, dirty=False)
    sha256 = hashlib.sha256(diff).hexdigest()
    if len(diff) > LARGEST_DIFF:
        note = f"{_mib(len(diff))}, more than {_mib(LARGEST_DIFF)}: only its digest is kept"
        return CodeState(commit, True, diff_sha256=sha256, note=note)
    return CodeState(commit, True, diff, sha256)


def _difference(checkout: Path, git: _Git, names: list[bytes]) -> bytes | None:
    objects = git("rev-parse", "--git-path", "objects")
    if objects is None:
        return None
    known = [str(checkout / os.fsdecode(objects).rstrip("\n"))]
    known += [k for k in [os.environ.get("GIT_ALTERNATE_OBJECT_DIRECTORIES", "")] if k]
    with tempfile.TemporaryDirectory() as place:
        os.mkdir(f"{place}/objects")  # without it git sees no repository
        own = _Git(
            checkout,
            GIT_INDEX_FILE=f"{place}/index",
            GIT_OBJECT_DIRECTORY=f"{place}/objects",
            GIT_ALTERNATE_OBJECT_DIRECTORIES=os.pathsep.join(known),
        )
        listed = b"".join(name + b"\0" for name in names)
        update = ("update-index", "--add", "--remove", "--replace", "-z", "--stdin")
        if own("read-tree", "HEAD") is None or own(*update, data=listed) is None:
            return None
        form = ("--patch", "--binary", "--full-index", "--no-renames", "--no-textconv")
        return own("diff-index", "--cached", "--no-ext-diff", *form, "HEAD", "--", *CODE)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def code_digest(*places: Path) -> str:
    """SHA-256 over the names and contents of a package's modules, with or without a repository.

    Args:
        places: the folder of a package, or its folders; or the file of a module.
    """
    found = hashlib.sha256()
    for place in places:
        inside = [place] if place.is_file() else place.rglob("*.py")
        root = place.parent if place.is_file() else place
        for path in sorted(inside, key=lambda path: path.relative_to(root).parts):
            content = path.read_bytes()
            name = path.relative_to(root).as_posix()
            found.update(f"{name}\0{len(content)}\0".encode() + content)
    return found.hexdigest()
