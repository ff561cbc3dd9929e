"""Metrics on the levels of a tree, next to sklearn on single pixels, and on a committed record."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, jaccard_score, recall_score

from protoseg.config.hierarchy.tree import Hierarchy, make_hierarchy
from protoseg.report.metrics import AVERAGED, METRICS
from protoseg.report.statistics.counts import ConfusionCounts, read_counts
from protoseg.report.statistics.levels import compute_levels
from protoseg.report.verify import recount
from report.levels import Integers, count_edges, expand_pixels, pack

RECORDS = Path(__file__).resolve().parents[3] / "results" / "records"
RUN = "camvid-mobilenet_v2-segformer-parametric-k1-s1-c13d104cbb"
GROUPS = {
    "construction": {"building", "fence"},
    "object": {"pole", "sign"},
    "flat": {"road", "pavement"},
    "nature": {"tree"},
    "vehicle": {"car"},
    "human": {"pedestrian", "bicyclist"},
    "sky": {"sky"},
}
CAMVID = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car"),
    *("pedestrian", "bicyclist"),
)


@st.composite
def trees_and_counts(draw: st.DrawFn) -> tuple[Hierarchy, Integers]:
    """A tree of 2 to 7 classes with 2 to 4 levels, and a confusion matrix with empty classes."""
    size, levels = draw(st.integers(2, 7)), draw(st.integers(2, 4))
    numbers = draw(st.lists(st.lists(st.integers(0, 2), min_size=levels - 1, max_size=levels - 1),
                            min_size=size, max_size=size))  # fmt: skip
    # A name has the names above it, so that it names one node.
    paths = [
        (*("/".join(map(str, row[: i + 1])) for i in range(levels - 1)), f"class {number}")
        for number, row in enumerate(numbers)
    ]
    counts = draw(st.lists(st.integers(0, 6), min_size=size**2, max_size=size**2))
    matrix = np.array(counts, np.int64).reshape(size, size)
    for axis in draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, 1)), max_size=3)):
        matrix[axis[0] if axis[1] else slice(None), slice(None) if axis[1] else axis[0]] = 0
    return make_hierarchy(paths), matrix


def to_counts(matrix: Integers) -> ConfusionCounts:
    (cell,) = np.nonzero(matrix.ravel())
    image = np.arange(len(cell)) % 3
    return ConfusionCounts(image, cell, matrix.ravel()[cell], len(matrix), 3)


@settings(max_examples=50, deadline=None)
@given(trees_and_counts())
def test_levels_are_the_metrics_of_sklearn_on_groups_of_pixels(
    case: tuple[Hierarchy, Integers],
) -> None:
    tree, matrix = case
    computed = compute_levels(to_counts(matrix), tree)
    truth, guess = expand_pixels(matrix)
    assert computed.keys() - {AVERAGED} <= METRICS.keys()
    for level in range(2, tree.num_levels + 1):
        # A node is the path that leads to it.
        nodes = {c: path[: len(path) - level + 1] for c, path in enumerate(tree.paths)}
        names = sorted(set(nodes.values()))
        true, predicted = ([names.index(nodes[c]) for c in side] for side in (truth, guess))
        seen, present = sorted({*true, *predicted}), sorted({*true})
        assert len(computed[AVERAGED][level]) == len(seen)
        if not seen:
            assert computed[f"miou@{level}"] == computed[f"aacc@{level}"] == 0
            continue
        ious = dict(
            zip(
                seen,
                jaccard_score(true, predicted, labels=seen, average=None, zero_division=0),
                strict=True,
            )
        )
        recall = recall_score(true, predicted, labels=present, average="macro", zero_division=0)
        expected = {
            "miou": np.mean([ious[i] for i in seen]),
            "miou_present": np.mean([ious[i] for i in present]),
            "macc": recall,
            "aacc": accuracy_score(true, predicted),
        }
        for name, value in expected.items():
            assert computed[f"{name}@{level}"] == pytest.approx(100 * value, abs=1e-9)
    paths = dict(enumerate(tree.paths))
    edges = [count_edges(paths, a, b) for a, b in zip(truth, guess, strict=True) if a != b]
    distance = computed["mistake_distance"]
    assert distance == (pytest.approx(np.mean(edges)) if edges else None)


@settings(max_examples=20, deadline=None)
@given(trees_and_counts())
def test_the_second_program_of_verify_computes_the_same(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[Hierarchy, Integers]
) -> None:
    tree, matrix = case
    path = tmp_path_factory.mktemp("counts") / "counts.npz"
    path.write_bytes(pack([matrix, matrix.T]))
    shown = compute_levels(read_counts(path), tree)
    recomputed = recount.recount_levels(recount.read_counts(path)[0], tree.paths)
    assert recomputed.keys() == shown.keys() - {AVERAGED}
    assert recomputed == pytest.approx({key: shown[key] for key in recomputed}, abs=1e-9)


def test_a_group_that_is_only_predicted_has_an_iou_of_zero() -> None:
    tree = make_hierarchy([("a", "x"), ("a", "y"), ("b", "z")])
    # All pixels are x. 30 of 100 are predicted as y, in the same group, and 20 as z.
    matrix = np.array([[50, 30, 20], [0, 0, 0], [0, 0, 0]])
    computed = compute_levels(to_counts(matrix), tree)
    assert computed["miou@2"] == pytest.approx((80 + 0) / 2)
    assert (
        computed["miou_present@2"] == computed["macc@2"] == computed["aacc@2"] == pytest.approx(80)
    )
    assert computed["mistake_distance"] == pytest.approx((30 * 2 + 20 * 4) / 50)
    assert computed[AVERAGED] == {2: ["a", "b"]}


def test_a_camvid_record_has_the_miou_of_its_seven_groups() -> None:
    with np.load(RECORDS / f"{RUN}.npz") as file:
        cells, pixels, size = file["cell"], file["count"], int(file["num_classes"])
    assert size == len(CAMVID)
    group_of = {name: group for group, names in GROUPS.items() for name in names}
    hit: dict[str, int] = defaultdict(int)
    union: dict[str, int] = defaultdict(int)
    edges = wrong = 0
    for cell, count in zip(cells.tolist(), pixels.tolist(), strict=True):
        true, predicted = CAMVID[cell // size], CAMVID[cell % size]
        sides = {group_of[true], group_of[predicted]}
        for group in sides:
            union[group] += count
        if len(sides) == 1:
            hit[group_of[true]] += count
        if true != predicted:
            wrong += count
            edges += count * (2 if len(sides) == 1 else 4)
    paths = [(group_of[name], name) for name in CAMVID]
    computed = compute_levels(read_counts(RECORDS / f"{RUN}.npz"), make_hierarchy(paths))
    mious = [100 * hit[group] / union[group] for group in GROUPS]
    assert computed["miou@2"] == pytest.approx(sum(mious) / 7, abs=1e-9)
    assert computed["mistake_distance"] == pytest.approx(edges / wrong, abs=1e-12)
