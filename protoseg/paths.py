"""The folders on this machine: experiments, runs, records, data, weights, results, clusters."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import protoseg


@dataclass(frozen=True)
class Paths:
    """The folders that a command uses; not part of a run's identity."""

    experiments: Path
    """Matrices; PROTOSEG_EXPERIMENTS, or ``experiments`` in the checkout."""
    runs: Path
    """Run folders; PROTOSEG_RUNS, or ``runs`` in the checkout."""
    records: Path
    """Published records, ``records`` in ``results``; a run with a record is not trained again."""
    results: Path
    """PROTOSEG_RESULTS, or ``results`` in the checkout."""
    data: Path
    """Data sets, one folder each; PROTOSEG_DATA, or ``data`` in the checkout."""
    weights: Path
    """Pre-trained weights; PROTOSEG_WEIGHTS, or ``weights`` in the data folder."""
    clusters: Path
    """Cluster profiles; PROTOSEG_CLUSTERS, or ``slurm`` in the checkout."""
    shipped: tuple[Path, ...] = ()
    """Other folders of results that are read too; see `find_shipped_results`."""

    @property
    def published(self) -> tuple[Path, ...]:
        """Folders of published numbers, in the order of their search."""
        return tuple(folder / "published" for folder in (self.results, *self.shipped))

    @property
    def record_folders(self) -> tuple[Path, ...]:
        """Folders of committed records, in the order of their search."""
        return (self.records, *(folder / "records" for folder in self.shipped))


def find_checkout() -> Path:
    """Find the checkout: the one of the current folder, else the one protoseg is imported from."""
    current = Path.cwd()
    for folder in (current, *current.parents):
        if (folder / "experiments" / "run.yaml").is_file():
            return folder
    return find_package_folder()


def find_package_folder() -> Path:
    """Return the folder that ``protoseg`` is imported from: a checkout, or site-packages."""
    return Path(protoseg.__file__).resolve().parent.parent


def find_shipped_results() -> tuple[Path, ...]:
    """Return the folders of results that come with the program.

    Matrices name the published numbers in them, so they are read wherever PROTOSEG_RESULTS is.
    """
    roots = dict.fromkeys((find_checkout(), find_package_folder()))
    return tuple(root / "results" for root in roots)


def find_paths(
    *,
    experiments: str | None = None,
    runs: str | None = None,
    results: str | None = None,
    data: str | None = None,
    weights: str | None = None,
    clusters: str | None = None,
) -> Paths:
    """Choose the folders: an option first, then the environment variable, then the checkout."""
    root = find_checkout()

    def choose(option: str | None, variable: str, default: Path) -> Path:
        return Path(option or os.environ.get(variable) or default).expanduser().absolute()

    results_folder = choose(results, "PROTOSEG_RESULTS", root / "results")
    data_folder = choose(data, "PROTOSEG_DATA", root / "data")
    return Paths(
        experiments=choose(experiments, "PROTOSEG_EXPERIMENTS", root / "experiments"),
        runs=choose(runs, "PROTOSEG_RUNS", root / "runs"),
        records=results_folder / "records",
        results=results_folder,
        data=data_folder,
        weights=choose(weights, "PROTOSEG_WEIGHTS", data_folder / "weights"),
        clusters=choose(clusters, "PROTOSEG_CLUSTERS", root / "slurm"),
        shipped=tuple(f for f in find_shipped_results() if f != results_folder),
    )
