"""The records that tables and figures are compared with: committed ones, else those of run folders.

A table may be made before the records of its runs are committed. It is then compared with the
records that it was made from, and a note names the command that commits them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from protoseg.config.matrix import Matrix
from protoseg.report.verify.check import Check
from protoseg.report.verify.records import check_counts
from protoseg.runs.record import locate_counts
from protoseg.runs.store import LookupResult, RecordStore

Comparison = Callable[[RecordStore, Check], None]
"""Compares the files of a matrix with the records of a store; adds problems to the check."""


class Sources:
    """The records and published numbers for a folder of results.

    Args:
        results: the folder that contains ``records``.
        shipped: folders of results that come with the program; read, but not checked.
        runs: the run folders; None: only committed records count.
    """

    def __init__(self, results: Path, shipped: Sequence[Path] = (), runs: Path | None = None):
        self.results = results
        self.published = [folder / "published" for folder in (results, *shipped)]
        self.committed = RecordStore([results / "records"], None)
        folders = [folder / "records" for folder in (results, *shipped)]
        self.everywhere = RecordStore(folders, runs)
        """Records of all places."""
        self._used: dict[str, LookupResult] = {}

    def compare(self, matrix: Matrix, compare_files: Comparison, check: Check) -> None:
        """Compare with the committed records; if files differ, with those of other places too.

        The comparison with fewer problems is kept.
        """
        kept = Check(check.group, check.what)
        compare_files(self.committed, kept)
        uncommitted = self._find_uncommitted(matrix) if kept.problems else {}
        if uncommitted:
            wider = Check(check.group, check.what)
            compare_files(self.everywhere, wider)
            if len(wider.problems) < len(kept.problems):
                kept = wider
                if not uncommitted.keys() <= self._used.keys():  # one note for table and figures
                    kept.notes.append(_describe_uncommitted(matrix, uncommitted))
                self._used |= uncommitted
        check.count += kept.count
        check.problems += kept.problems
        check.notes += kept.notes

    def list_missing(self, matrix: Matrix) -> list[str]:
        """List the runs of a matrix without a record in any place that was used."""
        return [run_id for run_id in self._list_uncommitted(matrix) if run_id not in self._used]

    def check_used_runs(self) -> list[Check]:
        """Check the counts and metrics of the runs whose uncommitted records were used."""
        runs = Check("runs", "counts of runs whose records are not committed, by digest")
        numbers = Check("metrics", "numbers recomputed from these counts")
        for result in self._used.values():
            if result.record is not None and result.source is not None:
                path = locate_counts(result.record, result.source)
                check_counts(result.record, path, runs, numbers)
        return [runs, numbers] if runs.count else []

    def _list_uncommitted(self, matrix: Matrix) -> list[str]:
        folder = self.results / "records"
        run_ids = [run.run_id for run in matrix.runs]
        return [run_id for run_id in run_ids if not (folder / f"{run_id}.json").exists()]

    def _find_uncommitted(self, matrix: Matrix) -> dict[str, LookupResult]:
        run_ids = self._list_uncommitted(matrix)
        results = {run_id: self.everywhere.look_up(run_id) for run_id in run_ids}
        return {run_id: each for run_id, each in results.items() if each.record is not None}


def _describe_uncommitted(matrix: Matrix, uncommitted: dict[str, LookupResult]) -> str:
    in_run_folders = [
        run_id
        for run_id, each in uncommitted.items()
        if each.source is not None and each.source.name == "record.json"
    ]
    if not in_run_folders:
        return f"{matrix.name}: compared with records that come with the program"
    return (
        f"{matrix.name}: compared with {len(in_run_folders)} run folders; their records are not "
        f"published. To publish: protoseg tables {matrix.name} --keep-records"
    )
