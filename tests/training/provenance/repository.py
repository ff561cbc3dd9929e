"""git repositories for the provenance tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any


def git(folder: Path, *arguments: str, data: bytes | None = None) -> str:
    names = {f"GIT_{role}_{field}": "a@b" for role in ("AUTHOR", "COMMITTER") for field in
             ("NAME", "EMAIL")}  # fmt: skip
    environment = {**os.environ, **names, "GIT_CONFIG_GLOBAL": os.devnull}
    result = subprocess.run(
        ["git", "-C", str(folder), *arguments], input=data, capture_output=True, env=environment
    )
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode()


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def change_files(checkout: Path) -> None:
    """Make every kind of change to the working tree."""
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


def read_tree(folder: Path) -> dict[str, Any]:
    """Path -> mode and content of each code file."""
    tree: dict[str, Any] = {}
    for name in ("protoseg", "experiments", "slurm"):
        for path in (folder / name).rglob("*"):
            if path.is_symlink():
                tree[path.relative_to(folder).as_posix()] = ("link", os.readlink(path))
            elif path.is_file() and path.suffix != ".pyc":
                executable = bool(path.stat().st_mode & 0o100)
                tree[path.relative_to(folder).as_posix()] = (executable, path.read_bytes())
    return tree


def clone(checkout: Path, target: Path) -> Path:
    git(checkout, "clone", "-q", str(checkout), str(target))
    return target
