"""The current plan of matrices: reads run folders and records, and queries SLURM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from protoseg.config.matrix import Matrix
from protoseg.launch.submission import SUBMISSIONS_FOLDER
from protoseg.planning.plan import Plan, make_plan
from protoseg.runs.store import all_records, read_statuses


def read_plan(
    matrices: Sequence[Matrix],
    runs_folder: Path,
    record_folders: Sequence[Path],
    *,
    fresh: bool = False,
) -> Plan:
    """Read the state of every run of some matrices, and make their plan.

    A run is done if its run folder or one of ``record_folders`` has a valid record of it. SLURM is
    queried about submitted runs that are neither done nor running.

    Args:
        matrices: the matrices to plan.
        runs_folder: parent of the run folders.
        record_folders: more folders with records, e.g. results/records.
        fresh: query SLURM even if there is a recent answer.
    """
    run_ids = dict.fromkeys(run.run_id for matrix in matrices for run in matrix.runs)
    statuses, problems = read_statuses(run_ids, runs_folder, record_folders)
    if (runs_folder / SUBMISSIONS_FOLDER).is_dir():
        # Imported here: most sweeps were never submitted.
        from protoseg.launch.queue import Queue

        statuses = Queue(runs_folder).apply(statuses, fresh=fresh)
    return make_plan(matrices, statuses, lambda: all_records(record_folders), problems)
