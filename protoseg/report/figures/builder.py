"""Builds the figures of one matrix from its records: of its final runs, and of its trials."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from protoseg.config.matrix import Matrix, PlannedRun
from protoseg.errors import ProtosegError
from protoseg.report.figures.budget import has_budgets
from protoseg.report.figures.contents import Figure
from protoseg.report.figures.data import FigureInput, read_figure_input
from protoseg.report.figures.samples.plots import SampleOptions
from protoseg.report.figures.samples.types import SAMPLE_TYPES, build_sample_figure
from protoseg.report.figures.trial_types import TRIAL_TYPES, read_trial_input
from protoseg.report.figures.types import FIGURE_TYPES, build_figure, has_curves
from protoseg.runs.store import RecordStore

OF_SAMPLES = (*SAMPLE_TYPES, "confusion")
"""Figure types with `SampleOptions`."""
ALL_TYPES = (*FIGURE_TYPES, *OF_SAMPLES, *TRIAL_TYPES)
"""All figure types; the first one is the default."""


class FigureBuilder:
    """Builds figures of a matrix; the records of its final runs are read once."""

    def __init__(
        self, matrix: Matrix, store: RecordStore, published_folders: Sequence[Path]
    ) -> None:
        """Keep the sources; nothing is read yet.

        Args:
            matrix: the matrix.
            store: records of its runs and trials.
            published_folders: folders of published numbers.
        """
        self._matrix, self._store = matrix, store
        self._published_folders = published_folders

    @cached_property
    def _figure_input(self) -> FigureInput:
        return read_figure_input(self._matrix, self._store, self._published_folders)

    def build(self, figure_type: str, options: SampleOptions | None = None) -> Figure:
        """Build a figure.

        Args:
            figure_type: one of `ALL_TYPES`.
            options: of a type of `OF_SAMPLES`; other types ignore them.

        Raises:
            UsageError: the matrix cannot have a figure of this type.
            ProtosegError: no record has the data of the figure.
        """
        if figure_type in TRIAL_TYPES:
            trials = read_trial_input(self._matrix, self._store, figure_type)
            return TRIAL_TYPES[figure_type](trials)
        if figure_type in OF_SAMPLES:
            options = options or SampleOptions()
            return build_sample_figure(self._figure_input, self._store, options, figure_type)
        return build_figure(self._figure_input, figure_type)

    def list_default_types(self) -> list[str]:
        """List the types that are drawn if none is named: the metric, and what records have.

        Raises:
            ProtosegError: as `read_figure_input`.
        """
        of_trials = [name for name in TRIAL_TYPES if self._has_trials(name)]
        if of_trials and not any(map(self._is_recorded, self._matrix.runs)):
            return of_trials
        types = ["metric"]
        types += ["curves"] * has_curves(self._figure_input)
        types += ["budget"] * has_budgets(self._figure_input)
        return types + of_trials

    def _is_recorded(self, run: PlannedRun) -> bool:
        return self._store.find(run.run_id).record is not None

    def _has_trials(self, figure_type: str) -> bool:
        """Whether a trial has finished."""
        try:
            read_trial_input(self._matrix, self._store, figure_type)
        except ProtosegError:
            return False
        return True
