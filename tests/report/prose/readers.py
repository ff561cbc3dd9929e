"""Readers of results for the tests of marked numbers."""

from __future__ import annotations

import functools
from pathlib import Path

from protoseg.config.compose import Composer
from protoseg.config.load_matrix import load_matrix
from protoseg.config.matrix import Matrix
from protoseg.report.prose.result_reader import ResultReader
from protoseg.runs.store import RecordStore
from report.lab import Lab

ROOT = Path(__file__).parents[3]


def make_reader(lab: Lab, *matrices: Matrix) -> ResultReader:
    """Make a reader of the records of a lab that loads these matrices by name."""
    by_name = {matrix.name: matrix for matrix in matrices}
    return ResultReader(by_name.__getitem__, lab.store, [lab.published])


@functools.cache
def read_committed() -> ResultReader:
    """Make a reader of the committed records and matrices."""
    composer = Composer(ROOT / "experiments")
    store = RecordStore([ROOT / "results" / "records"], None)
    load = functools.partial(load_matrix, composer)
    return ResultReader(load, store, [ROOT / "results" / "published"])
