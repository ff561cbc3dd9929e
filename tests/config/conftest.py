"""Fixtures: the experiments of the repository, and a copy that tests can change."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from protoseg.config.compose import Composer
from protoseg.config.load_matrix import load_matrix
from protoseg.config.matrix import Matrix
from protoseg.config.schema import RunSpec

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture(scope="session")
def composer() -> Composer:
    """A composer for the experiments of the repository."""
    return Composer(EXPERIMENTS)


@pytest.fixture(scope="session")
def spec(composer: Composer) -> RunSpec:
    """The spec of a run without overrides."""
    return composer.spec([], "test")


@pytest.fixture
def copied_experiments(tmp_path: Path) -> Path:
    """A copy of the experiments, in a folder whose name has a space and an umlaut."""
    folder = tmp_path / "my experiments ü"
    shutil.copytree(EXPERIMENTS, folder)
    return folder


@pytest.fixture
def expand(composer: Composer, tmp_path: Path) -> Callable[..., Matrix]:
    """Expand YAML text as the matrix ``m.yaml``, with overrides."""

    def expand_text(text: str, *overrides: str) -> Matrix:
        path = tmp_path / "m.yaml"
        path.write_text(text, encoding="utf-8")
        return load_matrix(composer, str(path), overrides)

    return expand_text
