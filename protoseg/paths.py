"""Where things lie on this machine: experiments, runs, records, data, weights, results,
cluster profiles."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import protoseg


@dataclass(frozen=True)
class Paths:
    """Folders that a command works with. None of them is part of a run's identity."""

    experiments: Path
    runs: Path
    """Run folders; PROTOSEG_RUNS, or ``runs`` in the checkout."""
    records: Path
    """Committed records, ``results/records``; a run recorded there is not trained again."""
    results: Path
    data: Path
    """Data sets, one folder each; PROTOSEG_DATA, or ``data`` in the checkout."""
    weights: Path
    """Pre-trained weights; PROTOSEG_WEIGHTS, or ``weights`` inside the data folder."""
    clusters: Path
    """Cluster profiles; PROTOSEG_CLUSTERS, or ``slurm`` in the checkout."""


def home() -> Path:
    """The checkout one stands in, or else the one that protoseg was installed from."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "experiments" / "run.yaml").is_file():
            return folder
    return code()


def code() -> Path:
    """The folder that the package ``protoseg`` is imported from: a checkout, or site-packages."""
    return Path(protoseg.__file__).resolve().parent.parent


def places(
    *,
    experiments: str | None = None,
    runs: str | None = None,
    results: str | None = None,
    data: str | None = None,
    weights: str | None = None,
    clusters: str | None = None,
) -> Paths:
    """The folders of this call: an option wins over the environment, that over the checkout."""
    root = home()

    def choose(given: str | None, variable: str, default: Path) -> Path:
        return Path(given or os.environ.get(variable) or default).expanduser().absolute()

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
    )
