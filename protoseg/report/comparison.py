"""Compares two runs, or two sets of runs: over seeds, images, and groups of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from protoseg.config.hierarchy.table_trees import needs_tree
from protoseg.config.matrix import ImageGroupsSpec
from protoseg.errors import ProtosegError
from protoseg.report import wording
from protoseg.report.image_groups import group_images
from protoseg.report.metrics import METRICS, MIOU, MIOU_PRESENT, Metric, read_metric
from protoseg.report.statistics.power import smallest_detectable
from protoseg.report.statistics.significance import (
    EXACT_SEEDS,
    LEVEL,
    Paired,
    mean,
    pair_by_seed,
    paired_t_p,
    sign_flip_p,
    smallest_p,
)
from protoseg.report.tables.pairing import choose_metric, describe_class_sets, describe_code
from protoseg.report.tables.samples import collect_records, find_differing_fields
from protoseg.runs.record import locate_counts, verify_confusion
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


UNITS = ("seeds", "images", "groups")
"""The units that an interval may be over."""
AS_MMSEG, PRESENT = "as-mmseg", "present"
CLASS_SETS = {AS_MMSEG: METRICS[MIOU], PRESENT: METRICS[MIOU_PRESENT]}


@dataclass(frozen=True)
class Options:
    """How two sides are compared."""

    draws: int = 10_000
    generator_seed: int = 0
    units: tuple[str, ...] = UNITS
    """The units of the intervals, of `UNITS`."""
    classes: str | None = None
    """Key of `CLASS_SETS`; None for the classes with ground truth if the runs average different
    classes, else for those of mmseg, which then are the same."""
    groups: ImageGroupsSpec | None = None
    """Groups of images; None for no interval over groups."""
    column: str = ""
    """Metric of the named column, for a note if it is of a level; empty for two runs."""
    list_names: Callable[[dict[str, Any], int], Sequence[str]] | None = None
    """Lists the file names of the images of a record, given their number; for groups by pattern."""


@dataclass(frozen=True)
class Comparison:
    """One side minus the other, in percentage points of mIoU."""

    ours: str
    theirs: str
    units: tuple[str, ...]
    """The units of the intervals, of `UNITS`."""
    classes: str
    """The averaged classes, a key of `CLASS_SETS`."""
    our_miou: float
    their_miou: float
    difference: float
    our_runs: tuple[str, ...]
    their_runs: tuple[str, ...]
    seeds: tuple[int, ...]
    """Shared seeds; if empty, the runs are compared unpaired."""
    seed_interval: tuple[float, float] | None
    """95% Student t interval of the mean paired difference; None with fewer than `MIN_SEEDS`, and
    without spread."""
    t_p: float | None
    """Two-sided p of the paired t test over the shared seeds."""
    detectable: float | None
    """Smallest true difference that the t test finds with 80% probability, for this spread."""
    images: int
    image_interval: tuple[float, float] | None
    """95% percentile interval of a paired bootstrap over images with fixed models."""
    groups: int | None
    group_interval: tuple[float, float] | None
    """The same over groups of images."""
    group_rule: str
    """How images are grouped."""
    draws: int
    generator_seed: int
    p: float | None
    """Two-sided, exact sign-flip test over the shared seeds."""
    smallest_p: float | None
    """The smallest possible p with this number of seeds."""
    left_out: tuple[str, ...]
    """Runs that are not compared, each with the reason."""
    notes: tuple[str, ...]
    """Sentences on the classes and the code of the two sides."""

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
        counts = locate_counts(result.record, result.source)
        verify_confusion(result.record, counts)
        runs.append(Run(result.record, counts))
    return runs, missing


def compare_runs(
    ours: tuple[str, Sequence[Run]],
    theirs: tuple[str, Sequence[Run]],
    options: Options,
    missing: Sequence[str] = (),
) -> Comparison:
    """Compare two sides, on their shared seeds if there are any.

    Args:
        ours: name and runs of one side.
        theirs: name and runs of the other side, which is subtracted.
        options: units, classes and bootstrap.
        missing: sentences about runs without a result.

    Raises:
        ProtosegError: a side has no run, the runs differ in data or evaluation, or images cannot
            be grouped.
    """
    for name, runs in (ours, theirs):
        if not runs:
            raise ProtosegError(
                f"compare: '{name}' has no finished run. {' '.join(missing)} "
                "Train it first with protoseg sweep."
            )
    _check_protocol([*ours[1], *theirs[1]])
    sides = [collect_records(run.record for run in runs) for _, runs in (ours, theirs)]
    suited = choose_metric(sides, METRICS[MIOU])
    classes = options.classes or (AS_MMSEG if suited.key == MIOU else PRESENT)
    metric = CLASS_SETS[classes]
    _check_metric([*ours[1], *theirs[1]], metric)
    pairs = pair_by_seed(*(side.values.get(metric.key, {}) for side in sides))
    seeds = tuple(seed for seed, _ in pairs.differences)
    used = [[r for r in runs if not seeds or r.seed in seeds] for _, runs in (ours, theirs)]
    unused = [r for _, runs in (ours, theirs) for r in runs if seeds and r.seed not in seeds]
    means = [mean(read_metric(run.record, metric) or 0.0 for run in side) for side in used]
    is_tested = "seeds" in options.units and pairs.is_testable
    p, smallest = _compute_p(pairs) if "seeds" in options.units else (None, None)
    drawn = _draw(used, options, classes)
    is_suited = suited.key != MIOU and classes == PRESENT
    notes = [describe_class_sets(sides, suited)] if is_suited else []
    if needs_tree(options.column):
        notes.append(
            f"The mIoU of the classes is compared, not the column {METRICS[options.column].title}. "
            "protoseg tables tests a metric of a level if table.metrics names it first."
        )
    if suited.key != MIOU and classes == AS_MMSEG:
        notes.append("The two sides average different classes. Compare with --classes present.")
    return Comparison(
        ours=ours[0],
        theirs=theirs[0],
        units=options.units,
        classes=classes,
        our_miou=means[0],
        their_miou=means[1],
        difference=means[0] - means[1],
        our_runs=tuple(run.record["run_id"] for run in used[0]),
        their_runs=tuple(run.record["run_id"] for run in used[1]),
        seeds=seeds,
        seed_interval=pairs.interval() if is_tested else None,
        t_p=paired_t_p(pairs.values) if is_tested else None,
        detectable=smallest_detectable(pairs.std, pairs.n) if is_tested else None,
        **drawn,
        draws=options.draws,
        generator_seed=options.generator_seed,
        p=p,
        smallest_p=smallest,
        left_out=(
            *missing,
            *(f"{r.record['run_id']}: its seed is not shared, left out." for r in unused),
        ),
        notes=(*notes, *describe_code(sides[0], sides[1], list(seeds))),
    )


def _draw(used: Sequence[Sequence[Run]], options: Options, classes: str) -> dict[str, Any]:
    """Compute the bootstrap intervals over images and over groups, as fields of `Comparison`."""
    import numpy as np

    from protoseg.report.statistics import bootstrap
    from protoseg.report.statistics.counts import count_per_image, read_counts

    counts = [[count_per_image(read_counts(run.counts)) for run in side] for side in used]
    mask = counts[0][0].present_classes if classes == PRESENT else None
    images = len(counts[0][0].truth)

    def draw(groups: Any) -> tuple[float, float]:
        generator = np.random.default_rng(options.generator_seed)
        drawn = bootstrap.bootstrap_differences(
            counts[0], counts[1], generator, options.draws, groups=groups, classes=mask
        )
        return bootstrap.percentile_interval(drawn, LEVEL)

    groups, rule = None, ""
    if options.groups is not None and "groups" in options.units:
        groups, rule = group_images(
            options.groups, images, lambda: _list_names(options, used[0][0].record, images)
        )
    return {
        "images": images,
        "image_interval": draw(None) if "images" in options.units else None,
        "groups": None if groups is None else int(groups.max()) + 1,
        "group_interval": None if groups is None else draw(groups),
        "group_rule": rule,
    }


def _list_names(options: Options, record: dict[str, Any], images: int) -> Sequence[str]:
    if options.list_names is None:
        raise ProtosegError("compare: groups by pattern need file names. Use blocks of images.")
    return options.list_names(record, images)


def _compute_p(pairs: Paired) -> tuple[float, float] | tuple[None, None]:
    if not 0 < pairs.n <= EXACT_SEEDS:
        return None, None
    return sign_flip_p(pairs.values), smallest_p(pairs.n)


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


def _check_metric(runs: Sequence[Run], metric: Metric) -> None:
    for run in runs:
        if read_metric(run.record, metric) is None:
            raise ProtosegError(
                f"compare: the record of {run.record['run_id']} has no {metric.title}. "
                "Compare runs with this metric."
            )
