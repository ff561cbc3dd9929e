"""Pairs of settings: their classes and their code."""

from __future__ import annotations

from typing import Any

import pytest

from protoseg.report.metrics import METRICS, MIOU, MIOU_PRESENT
from protoseg.report.tables.pairing import (
    average_different_classes,
    choose_metric,
    pair_settings,
)
from protoseg.report.tables.samples import Samples, collect_records
from report.lab import COMMIT, make_record, make_spec, method
from report.tables.test_builder import A, B, per_class

MAIN = METRICS[MIOU]


def collect(name: str, mious: list[float], **changes: Any) -> Samples:
    """The samples of one setting; ``changes`` are those of all its records."""
    return collect_records(
        make_record(method(name, seed), miou, **changes) for seed, miou in enumerate(mious)
    )


def test_equal_classes_are_compared_as_in_mmseg() -> None:
    pair = pair_settings(collect(A, [70.0, 71.0]), collect(B, [69.0, 69.5]), MAIN)
    assert (pair.metric.key, pair.notes) == (MIOU, ())
    assert pair.pairs.differences == ((0, 1.0), (1, 1.5))


def test_different_classes_are_compared_over_those_with_ground_truth() -> None:
    # B predicts a class without ground truth, which lowers its mIoU from 60 to 40.
    ours = collect(B, [40.0, 42.0], per_class=per_class(60.0, 0.0))
    theirs = collect(A, [54.0, 54.0], per_class=per_class(54.0, None))
    pair = pair_settings(ours, theirs, MAIN)
    assert pair.metric.key == MIOU_PRESENT
    assert pair.pairs.differences == ((0, 6.0), (1, 6.0))
    assert pair.notes == (
        "Compared over the classes with ground truth (mIoU (present)): the mIoU of these runs "
        "averages 2 to 3 classes, as it counts each class that a run predicts.",
    )
    assert average_different_classes([ours, theirs])
    assert not average_different_classes([ours])


def test_only_miou_has_another_set_of_classes() -> None:
    ours = collect(B, [40.0], per_class=per_class(60.0, 0.0))
    theirs = collect(A, [54.0], per_class=per_class(54.0, None))
    assert choose_metric([ours, theirs], METRICS["macc"]).key == "macc"
    assert choose_metric([ours, theirs], MAIN).key == MIOU_PRESENT


def test_two_sets_of_equal_size_are_different() -> None:
    entries = per_class(60.0, 0.0)
    others = [{**entry, "name": "bus"} if entry["name"] == "car" else entry for entry in entries]
    sides = [collect(B, [40.0], per_class=entries), collect(A, [41.0], per_class=others)]
    assert choose_metric(sides, MAIN).key == MIOU_PRESENT
    (note,) = pair_settings(*sides, MAIN).notes
    assert "averages different sets of 3 classes" in note


def test_other_data_have_other_classes_without_a_note() -> None:
    wide = collect_records([make_record(make_spec(dataset={"name": "wide"}), 40.0,
                                        per_class=per_class(60.0, 0.0))])  # fmt: skip
    assert not average_different_classes(
        [collect(A, [70.0], per_class=per_class(54.0, None)), wide]
    )


OTHER = "f" * 40


@pytest.mark.parametrize(
    ("digests", "code"),
    [
        (("a" * 64, "a" * 64), "the digest of their code is the same"),
        (("a" * 64, "b" * 64), "the digests of their code differ"),
        (("", "b" * 64), "a record has no digest of its code"),
        (("", ""), "a record has no digest of its code"),
    ],
)
def test_different_commits_are_noted_with_the_digests_of_the_code(
    digests: tuple[str, str], code: str
) -> None:
    sides = [
        collect(name, [70.0, 71.0], provenance={"commit": commit, "code_sha256": digest})
        for name, commit, digest in zip((A, B), (COMMIT, OTHER), digests, strict=True)
    ]
    assert pair_settings(*sides, MAIN).notes == (
        f"The two sides were trained at different commits; {code}.",
    )


def test_the_number_of_seeds_with_different_commits_is_noted() -> None:
    ours = collect(A, [70.0, 71.0, 72.0])
    records = [
        make_record(method(B, seed), 70.0, provenance={"commit": OTHER if seed == 1 else COMMIT})
        for seed in range(3)
    ]
    (note,) = pair_settings(ours, collect_records(records), MAIN).notes
    assert note.startswith("The two sides were trained at different commits (1 seed);")
    assert pair_settings(ours, collect(B, [70.0, 71.0, 72.0]), MAIN).notes == ()
