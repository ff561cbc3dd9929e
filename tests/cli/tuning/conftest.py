"""A small matrix with a search, and records of its trials."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from cli.conftest import REPOSITORY, CommandLine
from protoseg.config.compose import Composer
from protoseg.config.load_matrix import load_matrix
from protoseg.config.matrix import Matrix, PlannedRun, TunedRow

FILE = Path(__file__).with_name("tuned.yaml")
COMPOSER = Composer(REPOSITORY / "experiments")


class Tuned:
    """The matrix in a temporary folder, whose text a test may change.

    Attributes:
        path: path of the matrix, an operand of verbs.
    """

    def __init__(self, protoseg: CommandLine, folder: Path) -> None:
        self.protoseg = protoseg
        self.path = str(shutil.copy(FILE, folder))
        self.choice = protoseg.lab.runs / "choices" / "tuned.json"
        self.committed = folder / "choices" / "tuned.json"

    def change(self, old: str, new: str) -> None:
        """Replace a text of the file."""
        text = Path(self.path).read_text()
        assert old in text
        Path(self.path).write_text(text.replace(old, new))

    def load(self, *overrides: str) -> Matrix:
        """Load the matrix."""
        return load_matrix(COMPOSER, self.path, overrides)

    def rows(self) -> tuple[TunedRow, ...]:
        """The rows of the search."""
        tuning = self.load().tuning
        assert tuning is not None
        return tuning.rows

    def trials(self) -> list[PlannedRun]:
        """All trials."""
        return [trial.run for row in self.rows() for trial in row.trials]

    def record_trials(self, values: Iterable[float | None], in_runs: bool = True) -> None:
        """Record the mIoU of the trials, in order; None: no record."""
        for run, miou in zip(self.trials(), values, strict=True):
            if miou is not None:
                self.protoseg.record(run, miou, in_runs)

    def record_finals(self, numbers: Iterable[int], miou: float = 50.0) -> list[PlannedRun]:
        """Record the final runs with the values of the chosen trials."""
        finals = self.list_finals(numbers)
        for run in finals:
            self.protoseg.record(run, miou, in_runs=True)
        return finals

    def list_finals(self, numbers: Iterable[int]) -> list[PlannedRun]:
        """The final runs with the values of these trials."""
        import dataclasses

        return [
            PlannedRun(
                dataclasses.replace(row.make_final(row.trials[number - 1].values), seed=seed), {}
            )
            for row, number in zip(self.rows(), numbers, strict=True)
            for seed in (0, 1)
        ]


@pytest.fixture
def tuned(protoseg: CommandLine, tmp_path: Path) -> Tuned:
    return Tuned(protoseg, tmp_path)
