"""Compares two records of one spec: bit-identical, equal within a tolerance, or different.

Numbers are compared unrounded, as the records hold them. Pixels are compared through the confusion
counts of each image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from protoseg.errors import ProtosegError
from protoseg.report.statistics import counts
from protoseg.runs.record import add_torch_build, verify_confusion

Verdict = Literal["bit-identical", "equal", "different"]
Cells = dict[tuple[int, int], int]
"""(image, ground truth · C + prediction) -> pixels."""

POINTS = 0.1
"""Tolerance of mIoU, mAcc and aAcc for the verdict "equal", in percentage points."""
CURVE = 0.01
"""Relative tolerance of the loss at each point of the curve for the verdict "equal"."""
METRICS = ("miou", "macc", "aacc")
NOT_COMPARED = ("attempts", "diff_file", "diff_note", "state_sha256")
"""Provenance keys that describe one training, not its code, packages or device."""
MISSING = "not recorded"


@dataclass(frozen=True)
class CurveDifference:
    """A point of the loss curve at which two trainings differ."""

    iteration: int
    equal_until: int
    """Iteration of the last point before the first difference; 0 if there is no such point."""
    name: str
    recorded: float
    again: float

    @property
    def relative(self) -> float:
        """|a - b| / max(|a|, |b|)."""
        return abs(self.recorded - self.again) / max(abs(self.recorded), abs(self.again), 1e-300)


@dataclass(frozen=True)
class Reproduction:
    """The result of training a recorded run again."""

    run_id: str
    verdict: Verdict
    points: float
    """Tolerance of the metrics, in percentage points."""
    curve: float
    """Relative tolerance of the loss."""
    metrics: dict[str, tuple[float, float]]
    """Name -> (recorded value, new value), in percent."""
    same_weights: bool | None
    """None if a record has no digest of its weights (records of older versions)."""
    curve_points: int
    first: CurveDifference | None
    """The first point where a loss differs: the total loss, else the loss that differs most."""
    largest: CurveDifference | None
    """The point where the total loss differs most; None if it never differs."""
    pixels: int
    """Number of evaluated pixels."""
    pixels_changed: int
    """Lower bound of the pixels classified differently: swaps within an image cancel."""
    images: int
    images_changed: int
    provenance: dict[str, tuple[Any, Any]]
    """Name -> (recorded value, new value), of the entries that differ."""

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data for JSON."""
        return dataclasses.asdict(self) | {
            "largest_relative_loss_difference": self.largest.relative if self.largest else 0.0,
            "miou_difference": self.metrics["miou"][1] - self.metrics["miou"][0],
        }


def read_verified_counts(record: dict[str, Any], path: Path) -> Cells:
    """Check the digest of a record's confusion counts, then read them.

    Raises:
        RecordError: the file is missing, is not that of the record, or is damaged.
    """
    verify_confusion(record, path)
    confusion = counts.read_counts(path)
    columns = (confusion.image, confusion.cell, confusion.pixels)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return {(image, cell): pixels for image, cell, pixels in rows}


def compare_records(
    recorded: dict[str, Any],
    again: dict[str, Any],
    recorded_counts: Cells,
    again_counts: Cells,
    points: float = POINTS,
    curve: float = CURVE,
) -> Reproduction:
    """Compare the record of a run with the record of its reproduction.

    Args:
        points: tolerance of mIoU, mAcc and aAcc, in percentage points.
        curve: relative tolerance of the loss.

    Raises:
        ProtosegError: the two records have different specs.
    """
    if recorded["spec_digest"] != again["spec_digest"]:
        raise ProtosegError(
            f"{again['run_id']}: its spec differs from that of {recorded['run_id']}. Only two runs "
            "of one spec can be compared."
        )
    digests = [record["provenance"].get("state_sha256") for record in (recorded, again)]
    same_weights = digests[0] == digests[1] if all(digests) else None
    first, largest = _compare_curves(recorded["losses"], again["losses"])
    metrics = {m: (recorded["metrics"][m], again["metrics"][m]) for m in METRICS}
    keys = ("metrics", "per_class", "parameters", "losses")
    identical = all(recorded[key] == again[key] for key in keys)
    identical = identical and recorded.get("curve") == again.get("curve")
    identical = identical and recorded_counts == again_counts
    equal = (
        recorded["metrics"]["images"] == again["metrics"]["images"]
        and recorded["parameters"] == again["parameters"]
        and [point[0] for point in recorded["losses"]] == [point[0] for point in again["losses"]]
        and all(abs(a - b) <= points for a, b in metrics.values())
        and (largest is None or largest.relative <= curve)
    )
    verdict: Verdict = "equal" if equal else "different"
    if identical and same_weights is not False:
        verdict = "bit-identical"
    changed = _count_changed_pixels(recorded_counts, again_counts)
    return Reproduction(
        run_id=recorded["run_id"],
        verdict=verdict,
        points=points,
        curve=curve,
        metrics=metrics,
        same_weights=same_weights,
        curve_points=len(recorded["losses"]),
        first=first,
        largest=largest,
        pixels=sum(recorded_counts.values()),
        pixels_changed=sum(changed.values()),
        images=recorded["metrics"]["images"],
        images_changed=len(changed),
        provenance=compare_provenance(
            add_torch_build(recorded["provenance"]), add_torch_build(again["provenance"])
        ),
    )


def _compare_curves(
    recorded: Sequence[Any], again: Sequence[Any]
) -> tuple[CurveDifference | None, CurveDifference | None]:
    """Find the first difference of two loss curves, and the largest one of the total loss."""
    first: CurveDifference | None = None
    largest: CurveDifference | None = None
    equal_until = 0
    others = dict(again)
    for iteration, losses in recorded:
        other = others.get(iteration, {})
        names = [n for n in losses if n in other and losses[n] != other[n]]
        apart = [CurveDifference(iteration, equal_until, n, losses[n], other[n]) for n in names]
        if not apart and first is None:
            equal_until = iteration
        total = next((d for d in apart if d.name == "loss"), None)
        if apart and first is None:
            first = total or max(apart, key=lambda d: d.relative)
        if total is not None and (largest is None or total.relative > largest.relative):
            largest = dataclasses.replace(total, equal_until=first.equal_until if first else 0)
    return first, largest


def _count_changed_pixels(recorded: Cells, again: Cells) -> dict[int, int]:
    """Image -> the least number of pixels whose predicted class changed, if any changed."""
    differences: dict[int, int] = {}
    for image, cell in {*recorded, *again}:
        key = (image, cell)
        difference = abs(recorded.get(key, 0) - again.get(key, 0))
        if difference:
            differences[image] = differences.get(image, 0) + difference
    # A pixel that changes its class leaves one cell and enters another.
    return {image: (difference + 1) // 2 for image, difference in differences.items()}


def compare_provenance(
    recorded: Mapping[str, Any], again: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Compare two nested mappings: dotted name -> (recorded, new value), where they differ."""
    differences: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*recorded, *again]):
        if not prefix and key in NOT_COMPARED:
            continue
        a, b = recorded.get(key, MISSING), again.get(key, MISSING)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            differences |= compare_provenance(a, b, f"{prefix}{key}.")
        elif a != b:
            differences[f"{prefix}{key}"] = (a, b)
    return differences
