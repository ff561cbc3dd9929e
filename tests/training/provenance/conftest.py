"""A git repository for the provenance tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.provenance.repository import git, write


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit and no changes."""
    repository = tmp_path / "checkout"
    repository.mkdir()
    git(repository, "init", "-q")
    write(repository / "protoseg" / "__init__.py", "version = 1\n")
    write(repository / "protoseg" / "core" / "a.py", "".join(f"line {i}\n" for i in range(30)))
    write(repository / "protoseg" / "old name é.py", "gone soon\n")
    write(repository / "experiments" / "run.yaml", "a: 1\n")
    write(repository / "results" / "note.md", "no code\n")
    write(repository / ".gitignore", "*.pyc\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "first")
    return repository
