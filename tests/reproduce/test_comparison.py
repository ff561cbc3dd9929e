"""Comparison of two records of one spec: verdict, differences, and their text."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report.lab import make_record, make_spec

from protoseg.cli.views.reproduction import lines
from protoseg.errors import ProtosegError
from protoseg.reproduce.comparison import (
    Cells,
    compare_provenance,
    compare_records,
    read_verified_counts,
)
from protoseg.runs.sealed import RecordError

CURVE = [[i, {"loss": 2.0 / i, "loss_ce": 1.5 / i, "acc_seg": 40.0 + i}] for i in range(1, 11)]
COUNTS: Cells = {(0, 0): 90, (0, 1): 10, (1, 4): 100}


def record(**changes: Any) -> dict[str, Any]:
    base = {"losses": CURVE, "provenance": {"state_sha256": "a" * 64, "threads": 1}}
    return make_record(make_spec(), 50.0, **{**base, **changes})


def curve(at: int, name: str, factor: float) -> list[Any]:
    changed = copy.deepcopy(CURVE)
    changed[at - 1][1][name] *= factor
    return changed


def test_equal_records_are_bit_identical() -> None:
    result = compare_records(record(), record(cost={"seconds": 9.0}), COUNTS, dict(COUNTS))
    assert result.verdict == "bit-identical"
    assert result.same_weights is True
    assert (result.first, result.largest, result.pixels_changed) == (None, None, 0)
    assert lines(result)[0] == (
        "bit-identical: weights, the counts of 101 images, metrics, 10 points of the loss curve"
    )


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({"provenance": {"state_sha256": "b" * 64}}, COUNTS),
        ({"losses": curve(7, "acc_seg", 1 + 2**-50)}, COUNTS),
        ({"metrics": {"aacc": 70.0 + 2**-40}}, COUNTS),
        ({}, {**COUNTS, (1, 4): 99, (1, 3): 1}),
    ],
    ids=["weights", "curve", "metric", "pixel"],
)
def test_one_changed_bit_is_not_bit_identical(changes: dict[str, Any], counts: Cells) -> None:
    assert compare_records(record(), record(**changes), COUNTS, counts).verdict == "equal"


def test_without_a_digest_of_the_weights_all_other_values_decide() -> None:
    old = record(provenance={"threads": 1})
    result = compare_records(old, record(), COUNTS, dict(COUNTS))
    assert (result.verdict, result.same_weights) == ("bit-identical", None)
    assert not lines(result)[0].startswith("bit-identical: weights")
    assert any("has no digest of its weights" in line for line in lines(result))


def test_the_first_and_the_largest_difference_of_the_curve_are_named() -> None:
    changed = curve(4, "loss_ce", 1.001)
    for at, factor in ((6, 1.002), (8, 1.008), (9, 0.999)):
        changed[at - 1][1]["loss"] *= factor
    result = compare_records(record(), record(losses=changed), COUNTS, COUNTS)
    assert result.verdict == "equal"
    assert result.first is not None
    assert (result.first.iteration, result.first.name) == (4, "loss_ce")
    assert result.first.equal_until == 3
    assert result.first.relative == pytest.approx(0.001 / 1.001)
    assert result.largest is not None
    assert (result.largest.iteration, result.largest.name) == (8, "loss")
    assert result.largest.relative == pytest.approx(0.008 / 1.008)
    assert result.to_dict()["largest_relative_loss_difference"] == result.largest.relative
    text = "\n".join(lines(result))
    assert (
        "first differs at iteration 4: loss_ce 0.375 → 0.375375 (0.1%); identical until 3" in text
    )
    assert "largest difference at iteration 8: loss 0.25 → 0.252 (0.79%)" in text


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"metrics": {"miou": 50.09}}, "equal"),
        ({"metrics": {"miou": 50.11}}, "different"),
        ({"metrics": {"macc": 57.8}}, "different"),
        ({"metrics": {"images": 100}}, "different"),
        ({"losses": curve(5, "loss", 1.009)}, "equal"),
        ({"losses": curve(5, "loss", 1.02)}, "different"),
        ({"losses": CURVE[:9]}, "different"),
        ({"parameters": {"learnable": 1}}, "different"),
    ],
)
def test_values_within_the_tolerance_are_equal(changes: dict[str, Any], verdict: str) -> None:
    assert compare_records(record(), record(**changes), COUNTS, COUNTS).verdict == verdict
    wide = compare_records(record(), record(**changes), COUNTS, COUNTS, points=1.0, curve=0.05)
    only_far = "metrics" in changes and "images" not in changes["metrics"]
    only_far |= len(changes.get("losses", ())) == 10
    assert wide.verdict == ("equal" if only_far else "different")


def test_changed_pixels_are_counted_per_image() -> None:
    # Five pixels of image 0 change to class 1, and two of image 1 to other classes.
    changed = {(0, 0): 85, (0, 1): 15, (1, 4): 98, (1, 5): 1, (1, 3): 1}
    result = compare_records(record(), record(), COUNTS, changed)
    assert (result.pixels, result.pixels_changed, result.images_changed) == (200, 7, 2)
    assert "at least 7 of 200 (3.5%) have another class, in 2 of 101 images" in "\n".join(
        lines(result)
    )


def test_differences_in_provenance_are_listed() -> None:
    old = {"commit": "1" * 40, "packages": {"torch": "2.12", "numpy": "2"}, "threads": 1}
    new = {"commit": "1" * 40, "packages": {"torch": "2.13", "numpy": "2"}, "dirty": None}
    own = {"state_sha256": "x", "attempts": [1], "diff_file": "code.diff"}
    assert compare_provenance(old, new | own) == {
        "packages.torch": ("2.12", "2.13"),
        "threads": (1, "not recorded"),
        "dirty": ("not recorded", None),
    }


def test_the_torch_build_of_an_old_record_comes_from_its_attempts() -> None:
    attempts = [{"torch": None}, {"torch": "2.13.0+cu130"}]
    old = {"packages": {"torch": "2.13.0"}, "attempts": attempts}
    for version, differing in (
        ("2.13.0+cu130", {}),
        ("2.13.0+cpu", {"packages.torch": ("2.13.0+cu130", "2.13.0+cpu")}),
        ("2.14.0", {"packages.torch": ("2.13.0+cu130", "2.14.0")}),
    ):
        new = {"packages": {"torch": version}, "attempts": [{"torch": version}]}
        result = compare_records(record(provenance=old), record(provenance=new), COUNTS, COUNTS)
        assert result.provenance == differing
    unknown = {"packages": {"torch": "2.13.0"}}
    new = {"packages": {"torch": "2.13.0+cpu"}}
    result = compare_records(record(provenance=unknown), record(provenance=new), COUNTS, COUNTS)
    assert result.provenance == {"packages.torch": ("2.13.0", "2.13.0+cpu")}
    assert old["packages"] == {"torch": "2.13.0"}, "the record itself is unchanged"


def test_provenance_missing_in_an_old_record_is_one_line() -> None:
    old = record(provenance={"packages": {"torch": "2.12"}, "threads": 1})
    new = record(provenance={"packages": {"torch": "2.13"}, "threads": 1, "a": {"b": 1}, "c": None})
    text = lines(compare_records(old, new, COUNTS, COUNTS))
    assert text[-3:] == [
        "made with   recorded → now",
        "  packages.torch  2.12 → 2.13",
        "missing     in the record: a, c",
    ]


def test_records_of_two_specs_are_refused() -> None:
    other = make_record(make_spec(seed=1), 50.0)
    with pytest.raises(ProtosegError, match="its spec differs from that of"):
        compare_records(record(), other, COUNTS, COUNTS)


def test_counts_are_read_after_their_digest_is_checked(tmp_path: Path) -> None:
    import hashlib

    buffer = io.BytesIO()
    np.savez(
        buffer, image=[0, 0, 1], cell=[0, 1, 4], count=[90, 10, 100], num_classes=3, num_images=2
    )
    path = tmp_path / "counts.npz"
    path.write_bytes(buffer.getvalue())
    sound = record(confusion={"sha256": hashlib.sha256(buffer.getvalue()).hexdigest()})
    assert read_verified_counts(sound, path) == COUNTS
    with pytest.raises(RecordError, match="do not match"):
        read_verified_counts(record(), path)
    path.write_bytes(b"no archive")
    torn = record(confusion={"sha256": hashlib.sha256(b"no archive").hexdigest()})
    with pytest.raises(RecordError, match="not a file of confusion counts"):
        read_verified_counts(torn, path)
