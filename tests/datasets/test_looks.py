"""The agreement of two groupings, against scikit-learn and against what it has to be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import normalized_mutual_info_score

from protoseg.datasets.looks import normalised_mutual_information as nmi

pairs = st.integers(1, 60).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 5), min_size=n, max_size=n)] * 2)
)


@settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(pairs)
def test_same_as_scikit_learn(groupings: tuple[list[int], list[int]]) -> None:
    a, b = groupings
    assert nmi(a, b) == pytest.approx(normalized_mutual_info_score(a, b), abs=1e-9)


def test_large_maps_of_small_integers() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 200, (300, 300), dtype=np.uint8)
    b = np.where(rng.random(a.shape) < 0.5, a, rng.integers(0, 200, a.shape)).astype(np.uint8)
    expected = normalized_mutual_info_score(a.ravel(), b.ravel())
    assert nmi(a, b) == pytest.approx(expected, abs=1e-9)
    assert 0.2 < expected < 0.8


def test_names_of_groups_do_not_matter() -> None:
    assert nmi([0, 0, 1, 2], [7, 7, 3, 255]) == pytest.approx(1.0)
    assert nmi([0, 0, 1, 1], [0, 1, 0, 1]) == 0.0


def test_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="found 2 and 3"):
        nmi([0, 1], [0, 1, 2])
    with pytest.raises(ValueError, match="found 0 and 0"):
        nmi([], [])
