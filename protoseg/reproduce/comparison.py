"""Two records of one spec, number by number: the same bits, close, or different, and from where on.

Numbers are compared as they stand in the records, without rounding; pixels through the confusion
counts of each image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from protoseg.errors import ProtosegError
from protoseg.runs.record import RecordError, verify_confusion

Verdict = Literal["bit-identical", "equal", "different"]
Cells = dict[tuple[int, int], int]
"""(image, ground truth · C + prediction) -> pixels."""

POINTS = 0.1
"""Percentage points that mIoU, mAcc and aAcc may be apart and still count as equal."""
CURVE = 0.01
"""How far apart, relatively, the loss may be at a point of the curve and still count as equal."""
METRICS = ("miou", "macc", "aacc")
NOT_COMPARED = ("attempts", "diff_file", "diff_note", "state_sha256")
"""Of the provenance: these tell of one training, not of what it was made with."""
MISSING = "not recorded"


@dataclass(frozen=True)
class CurveDifference:
    """A point of the loss curve at which two trainings are apart."""

    iteration: int
    equal_until: int
    """Iteration of the last point before the first difference, 0 where there is none."""
    name: str
    recorded: float
    again: float

    @property
    def relative(self) -> float:
        """|a - b| / max(|a|, |b|)."""
        return abs(self.recorded - self.again) / max(abs(self.recorded), abs(self.again), 1e-300)


@dataclass(frozen=True)
class Reproduction:
    """What came of training a recorded run again."""

    run_id: str
    verdict: Verdict
    points: float
    """The tolerance: percentage points of the metrics."""
    curve: float
    """The tolerance: relative, of the loss."""
    metrics: dict[str, tuple[float, float]]
    """Name -> recorded and again, in percent."""
    same_weights: bool | None
    """None where the record is from before the digest of the weights was kept."""
    curve_points: int
    first: CurveDifference | None
    """The first point where any loss differs; there, the total loss or else the one most apart."""
    largest: CurveDifference | None
    """The point where the total loss is most apart; None where it is the same everywhere."""
    pixels: int
    """Pixels that count in the evaluation."""
    pixels_changed: int
    """Pixels classified differently, at least: two that change places in one image are not seen."""
    images: int
    images_changed: int
    provenance: dict[str, tuple[Any, Any]]
    """Name -> recorded and now, of what differs."""

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self) | {
            "largest_relative_loss_difference": self.largest.relative if self.largest else 0.0,
            "miou_difference": self.metrics["miou"][1] - self.metrics["miou"][0],
        }


def read_counts(record: dict[str, Any], path: Path) -> Cells:
    """The confusion counts of a record's images, once their digest is found to be right.

    Raises:
        RecordError: gone, or not those of the record.
    """
    verify_confusion(record, path)
    try:
        with np.load(path, allow_pickle=False) as file:
            images, cells, counts = (file[name].tolist() for name in ("image", "cell", "count"))
    except (OSError, ValueError, KeyError) as error:
        raise RecordError(f"{path}: can not be read as confusion counts ({error}).") from error
    return {(i, c): n for i, c, n in zip(images, cells, counts, strict=True)}


def compare(
    recorded: dict[str, Any],
    again: dict[str, Any],
    recorded_counts: Cells,
    again_counts: Cells,
    points: float = POINTS,
    curve: float = CURVE,
) -> Reproduction:
    """Set the record of a run against that of its reproduction.

    Raises:
        ProtosegError: they are of two specs.
    """
    if recorded["spec_digest"] != again["spec_digest"]:
        raise ProtosegError(
            f"{again['run_id']}: this is a run of another spec than {recorded['run_id']}; only two "
            "runs of one spec can be compared."
        )
    digests = [record["provenance"].get("state_sha256") for record in (recorded, again)]
    same_weights = digests[0] == digests[1] if all(digests) else None
    first, largest = _curves(recorded["losses"], again["losses"])
    metrics = {m: (recorded["metrics"][m], again["metrics"][m]) for m in METRICS}
    keys = ("metrics", "per_class", "parameters", "losses")
    same = all(recorded[key] == again[key] for key in keys) and recorded_counts == again_counts
    close = (
        recorded["metrics"]["images"] == again["metrics"]["images"]
        and recorded["parameters"] == again["parameters"]
        and [point[0] for point in recorded["losses"]] == [point[0] for point in again["losses"]]
        and all(abs(a - b) <= points for a, b in metrics.values())
        and (largest is None or largest.relative <= curve)
    )
    verdict: Verdict = "equal" if close else "different"
    if same and same_weights is not False:
        verdict = "bit-identical"
    changed = _changed(recorded_counts, again_counts)
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
        provenance=differences(
            add_torch_build(recorded["provenance"]), add_torch_build(again["provenance"])
        ),
    )


def _curves(
    recorded: Sequence[Any], again: Sequence[Any]
) -> tuple[CurveDifference | None, CurveDifference | None]:
    """The first difference of two loss curves, and the largest one of the total loss."""
    first: CurveDifference | None = None
    largest: CurveDifference | None = None
    equal_until = 0
    others = dict(again)
    for iteration, losses in recorded:
        other = others.get(iteration, {})
        names = [n for n in losses if n in other and losses[n] != other[n]]
        found = [CurveDifference(iteration, equal_until, n, losses[n], other[n]) for n in names]
        if not found and first is None:
            equal_until = iteration
        total = next((d for d in found if d.name == "loss"), None)
        if found and first is None:
            first = total or max(found, key=lambda d: d.relative)
        if total is not None and (largest is None or total.relative > largest.relative):
            largest = dataclasses.replace(total, equal_until=first.equal_until if first else 0)
    return first, largest


def _changed(recorded: Cells, again: Cells) -> dict[int, int]:
    """Image -> the fewest pixels whose class must have changed, of the images with any."""
    moved: dict[int, int] = {}
    for key in {*recorded, *again}:
        apart = abs(recorded.get(key, 0) - again.get(key, 0))
        if apart:
            moved[key[0]] = moved.get(key[0], 0) + apart
    # A pixel that changes its class leaves one cell and enters another.
    return {image: (apart + 1) // 2 for image, apart in moved.items()}


def add_torch_build(provenance: Mapping[str, Any]) -> Mapping[str, Any]:
    """Complete ``packages.torch`` (``2.13.0``) with the build of the last attempt (``+cu130``).

    Records of earlier versions of protoseg may have the build in ``attempts`` only.
    """
    packages, attempts = provenance.get("packages"), provenance.get("attempts")
    if not isinstance(packages, Mapping) or not isinstance(attempts, list) or not attempts:
        return provenance
    version = attempts[-1].get("torch") if isinstance(attempts[-1], Mapping) else None
    if version is None or version.partition("+")[0] != packages.get("torch"):
        return provenance
    return {**provenance, "packages": {**packages, "torch": version}}


def differences(
    recorded: Mapping[str, Any], again: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """What differs between two nested mappings: dotted name -> both values."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*recorded, *again]):
        if not prefix and key in NOT_COMPARED:
            continue
        a, b = recorded.get(key, MISSING), again.get(key, MISSING)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found[f"{prefix}{key}"] = (a, b)
    return found
