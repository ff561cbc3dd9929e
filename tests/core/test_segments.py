"""Sums over the rows of each segment, against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.batches import convert_float64
from protoseg.core import segments
from protoseg.core.segments import CHUNK, sort_by_segment


def compute_expected_sums(values, labels, number, weights=None):
    values = values.astype(np.float64) * (1 if weights is None else weights[:, None])
    return np.stack([values[labels == s].sum(0) for s in range(number)])


def make_batch(sizes, channels, outside=0):
    rng = np.random.default_rng(len(sizes))
    labels = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), np.repeat(-1, outside)])
    labels = rng.permutation(labels.astype(np.int64))
    values = rng.normal(size=(len(labels), channels)).astype(np.float32)
    return values, labels, rng.random(len(labels)).astype(np.float32)


SIZES = {
    "even": [10, 10, 10],
    "one large": [5 * CHUNK + 3, 1, 0, 7],
    "whole chunks": [CHUNK, 2 * CHUNK, CHUNK],
    "off by one": [CHUNK - 1, CHUNK + 1, 1, CHUNK],
    "empty ends": [0, 0, 9, 0],
    "alone": [4 * CHUNK],
    "nothing": [0, 0, 0],
    "many": [3] * 900,
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_sums_equal_those_of_numpy(sizes):
    for outside in (0, 1, CHUNK, 700):
        values, labels, weights = make_batch(sizes, 5, outside)
        sorted_rows = sort_by_segment(torch.tensor(labels), len(sizes))
        rows = torch.tensor(values)
        in_order = rows[sorted_rows.order]
        weighted = sorted_rows.sum_sorted_rows(in_order, torch.tensor(weights)[sorted_rows.order])
        expected = compute_expected_sums(values, labels, len(sizes))
        for sums, expected_sum in (
            (sorted_rows.sum_rows(rows), expected),
            (sorted_rows.sum_sorted_rows(in_order), expected),
            (weighted, compute_expected_sums(values, labels, len(sizes), weights)),
        ):
            np.testing.assert_allclose(
                convert_float64(sums), expected_sum, rtol=0, atol=1e-4, err_msg=f"{outside} outside"
            )
        assert sorted_rows.counts.tolist() == sizes


@pytest.mark.parametrize("number", [32766, 32767, 32768, 40000])
def test_more_segments_than_16_bit_numbers_are_sorted(number):
    """For example 847 classes with 40 prototypes each."""
    labels = torch.tensor([number - 1, 0, -1, number, number - 1, 1])
    sorted_rows = sort_by_segment(labels, number)
    assert sorted_rows.order.tolist() == [1, 5, 0, 4, 2, 3]
    assert sorted_rows.segment.tolist() == [0, 1, number - 1, number - 1, number, number]
    counts = sorted_rows.counts
    assert counts.nonzero()[:, 0].tolist() == [0, 1, number - 1]
    assert counts[[0, 1, -1]].tolist() == [1, 1, 2]
    sums = sorted_rows.sum_rows(torch.arange(6.0)[:, None])
    assert sums[[0, 1, -1], 0].tolist() == [1.0, 5.0, 4.0]


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(st.integers(-3, 9), max_size=60), st.integers(1, 7), st.integers(2, 8))
def test_any_labels_give_the_right_sums(labels, number, chunk):
    labels = np.array(labels, dtype=np.int64)
    values = np.random.default_rng(0).normal(size=(len(labels), 2)).astype(np.float32)
    before, segments.CHUNK = segments.CHUNK, chunk
    try:
        sorted_rows = sort_by_segment(torch.tensor(labels), number)
    finally:
        segments.CHUNK = before
    expected = compute_expected_sums(values, labels, number)
    sums = convert_float64(sorted_rows.sum_rows(torch.tensor(values)))
    np.testing.assert_allclose(sums, expected, rtol=0, atol=1e-5)
    inside = labels[(labels >= 0) & (labels < number)]
    assert sorted_rows.counts.tolist() == np.bincount(inside, minlength=number).tolist()


def test_rows_of_a_segment_keep_their_order():
    labels = torch.tensor([2, 0, 5, 2, 0, -1, 2])
    sorted_rows = sort_by_segment(labels, 3)
    assert sorted_rows.order.tolist() == [1, 4, 0, 3, 6, 2, 5]
    assert sorted_rows.segment.tolist() == [0, 0, 2, 2, 2, 3, 3]
    assert sorted_rows.offsets.tolist() == [0, 2, 2, 5, 7]


def test_a_sum_over_a_million_rows_keeps_its_precision():
    values = np.full((1_000_000, 1), 0.1, dtype=np.float32)
    values[0] = 1e4
    sorted_rows = sort_by_segment(torch.zeros(len(values), dtype=torch.long), 1)
    total = sorted_rows.sum_rows(torch.tensor(values)).item()
    assert total == pytest.approx(values.sum(dtype=np.float64), rel=5e-6)


def test_rows_outside_all_segments_are_not_summed():
    labels = torch.tensor([0, 7, -1, 0])
    rows = torch.tensor([[1.0], [torch.inf], [torch.nan], [2.0]])
    sorted_rows = sort_by_segment(labels, 2)
    assert sorted_rows.sum_rows(rows).tolist() == [[3.0], [0.0]]


def test_sums_are_deterministic():
    values, labels, _ = make_batch([700, 3, 2000], 4)
    sorted_rows = sort_by_segment(torch.tensor(labels), 3)
    sums = [sorted_rows.sum_rows(torch.tensor(values)) for _ in range(5)]
    assert all(torch.equal(sums[0], each) for each in sums)
