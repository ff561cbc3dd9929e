"""The project's experiments, and a copy of them to write matrices and config files into."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from protoseg.config.compose import Composer
from protoseg.config.load_matrix import load_matrix
from protoseg.config.matrix import Matrix

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture(scope="session")
def composer() -> Composer:
    """Of the experiments in the repository."""
    return Composer(EXPERIMENTS)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """An experiments folder of the user's own."""
    folder = tmp_path / "my experiments ü"
    shutil.copytree(EXPERIMENTS, folder)
    return folder


@pytest.fixture
def expand(composer: Composer, tmp_path: Path) -> Callable[..., Matrix]:
    """Expand a matrix given as YAML text, called ``m.yaml``."""

    def read(text: str, *overrides: str) -> Matrix:
        path = tmp_path / "m.yaml"
        path.write_text(text, encoding="utf-8")
        return load_matrix(composer, str(path), overrides)

    return read
