"""Compares two runs, or two sets of runs: over their seeds and over the images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from protoseg.errors import ProtosegError
from protoseg.report import wording
from protoseg.report.statistics.significance import (
    EXACT_SEEDS,
    LEVEL,
    MIN_SEEDS,
    Paired,
    mean,
    pair_by_seed,
    sign_flip_p,
    smallest_p,
)
from protoseg.report.tables.samples import find_differing_fields
from protoseg.runs.record import verify_confusion
from protoseg.runs.store import RecordStore


@dataclass(frozen=True)
class Run:
    """A finished run: its record and the file of its confusion counts."""

    record: dict[str, Any]
    counts: Path

    @property
    def seed(self) -> int:
        """The seed of its spec."""
        return int(self.record["spec"]["seed"])

    @property
    def miou(self) -> float:
        """mIoU in percent."""
        return float(self.record["metrics"]["miou"])


@dataclass(frozen=True)
class Comparison:
    """One side minus the other, in percentage points of mIoU."""

    ours: str
    theirs: str
    our_miou: float
    their_miou: float
    difference: float
    our_runs: tuple[str, ...]
    their_runs: tuple[str, ...]
    seeds: tuple[int, ...]
    """Shared seeds; if empty, the runs are compared unpaired."""
    seed_interval: tuple[float, float] | None
    """95% Student t interval of the mean paired difference; None with fewer than `MIN_SEEDS`."""
    images: int
    image_interval: tuple[float, float]
    """95% percentile interval of a paired bootstrap over images with fixed models."""
    draws: int
    generator_seed: int
    p: float | None
    """Two-sided, exact sign-flip test over the shared seeds."""
    smallest_p: float | None
    """The smallest possible p with this number of seeds."""
    left_out: tuple[str, ...]
    """Runs that are not compared, each with the reason."""

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain data for JSON."""
        return asdict(self)


def find_runs(run_ids: Iterable[str], store: RecordStore) -> tuple[list[Run], list[str]]:
    """Find the finished runs.

    Returns:
        The finished runs; and for every other run a sentence with its state.

    Raises:
        ProtosegError: the confusion counts of a finished run are missing or damaged.
    """
    runs, missing = [], []
    for run_id in run_ids:
        result = store.find(run_id)
        if result.record is None or result.source is None:
            missing.append(f"{run_id}: {wording.describe_state(result)}.")
            continue
        # In a folder of records, the counts are named after the run.
        counts = result.source.with_suffix(".npz")
        if result.source.name == "record.json":
            counts = result.source.parent / result.record["confusion"]["file"]
        verify_confusion(result.record, counts)
        runs.append(Run(result.record, counts))
    return runs, missing


def compare_runs(
    ours: tuple[str, Sequence[Run]],
    theirs: tuple[str, Sequence[Run]],
    *,
    draws: int,
    generator_seed: int,
    missing: Sequence[str] = (),
) -> Comparison:
    """Compare two sides, on their shared seeds if there are any.

    Args:
        ours: name and runs of one side.
        theirs: name and runs of the other side, which is subtracted.
        draws: number of bootstrap draws.
        generator_seed: seed of the bootstrap.
        missing: sentences about runs without a result.

    Raises:
        ProtosegError: a side has no run, or the runs differ in data or evaluation.
    """
    for name, runs in (ours, theirs):
        if not runs:
            raise ProtosegError(
                f"compare: '{name}' has no finished run. {' '.join(missing)} "
                "Train it first with protoseg sweep."
            )
    _check_protocol([*ours[1], *theirs[1]])
    import numpy as np

    from protoseg.report.statistics import bootstrap
    from protoseg.report.statistics.counts import count_per_image, read_counts

    pairs = pair_by_seed(*({run.seed: run.miou for run in runs} for _, runs in (ours, theirs)))
    seeds = tuple(seed for seed, _ in pairs.differences)
    used = [[r for r in runs if not seeds or r.seed in seeds] for _, runs in (ours, theirs)]
    unused = [r for _, runs in (ours, theirs) for r in runs if seeds and r.seed not in seeds]
    counts = [[count_per_image(read_counts(run.counts)) for run in side] for side in used]
    generator = np.random.default_rng(generator_seed)
    drawn = bootstrap.bootstrap_differences(counts[0], counts[1], generator, draws)
    means = [mean(run.miou for run in side) for side in used]
    p, smallest = _compute_p(pairs)
    return Comparison(
        ours=ours[0],
        theirs=theirs[0],
        our_miou=means[0],
        their_miou=means[1],
        difference=means[0] - means[1],
        our_runs=tuple(run.record["run_id"] for run in used[0]),
        their_runs=tuple(run.record["run_id"] for run in used[1]),
        seeds=seeds,
        seed_interval=pairs.interval() if pairs.n >= MIN_SEEDS else None,
        images=len(counts[0][0].truth),
        image_interval=bootstrap.percentile_interval(drawn, LEVEL),
        draws=draws,
        generator_seed=generator_seed,
        p=p,
        smallest_p=smallest,
        left_out=(
            *missing,
            *(f"{r.record['run_id']}: its seed is not shared, left out." for r in unused),
        ),
    )


def _compute_p(pairs: Paired) -> tuple[float, float] | tuple[None, None]:
    if not 0 < pairs.n <= EXACT_SEEDS:
        return None, None
    return sign_flip_p([d for _, d in pairs.differences]), smallest_p(pairs.n)


def _check_protocol(runs: Sequence[Run]) -> None:
    first = runs[0].record
    for run in runs[1:]:
        fields = find_differing_fields(first["spec"], run.record["spec"])
        if fields:
            raise ProtosegError(
                f"compare: {first['run_id']} and {run.record['run_id']} have different "
                f"evaluations (they differ in {', '.join(fields)}). "
                "Compare runs of one data set and one evaluation."
            )
    if any(not math.isfinite(run.miou) for run in runs):
        raise ProtosegError("compare: the record of a run has no mIoU.")
