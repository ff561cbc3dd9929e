"""Puts the files that the program reads into the package, as ``protoseg/shipped``.

In a checkout these files stay where they are; see `protoseg.paths.find_packaged_files`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
SHIPPED = (
    *("experiments/**/*.yaml", "slurm/*.yaml", "results/published/*.yaml"),
    *("requirements.lock", "requirements-mm.lock"),
)
BUILD_FILE = "build.json"


def describe_source() -> str:
    """Return the commit that is built, as JSON; a source distribution has it in a file."""
    if not (ROOT / ".git").exists():
        path = ROOT / BUILD_FILE
        return path.read_text() if path.is_file() else json.dumps({"commit": None, "dirty": None})
    # In a container the repository often belongs to another user.
    git = ("git", "-C", str(ROOT), "-c", "safe.directory=*")
    paths = ("protoseg", "experiments", "slurm", "pyproject.toml")
    try:
        commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True)
        status = [*git, "status", "--porcelain", "--", *paths]
        changes = subprocess.check_output(status, text=True)
    except (OSError, subprocess.CalledProcessError):
        return json.dumps({"commit": None, "dirty": None})
    return json.dumps({"commit": commit.strip(), "dirty": bool(changes)})


class BuildWithFiles(build_py):
    """Copies the files into the package that is built."""

    def run(self) -> None:
        if self.editable_mode:
            super().run()
            return
        # Files of an earlier build, since deleted or renamed.
        shutil.rmtree(Path(self.build_lib) / "protoseg", ignore_errors=True)
        super().run()
        folder = Path(self.build_lib) / "protoseg" / "shipped"
        for pattern in SHIPPED:
            for path in ROOT.glob(pattern):
                target = folder / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        (folder / BUILD_FILE).write_text(describe_source())


class SourceWithCommit(sdist):
    """Keeps the commit in the source distribution."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        (Path(base_dir) / BUILD_FILE).write_text(describe_source())


setup(cmdclass={"build_py": BuildWithFiles, "sdist": SourceWithCommit})
