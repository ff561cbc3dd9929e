"""The sampler: each epoch is a permutation, independent of the number of processes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from protoseg.datasets import sampler
from protoseg.datasets.sampler import SampleRequest, StatelessSampler, permutation


def list_requests(size: int, **changes: Any) -> list[SampleRequest]:
    """All sample requests of a training with ``size`` images."""
    settings = {"seed": 3, "batch_size": 4, "iterations": 20, **changes}
    return list(StatelessSampler(range(size), **settings))


def test_each_epoch_is_a_permutation() -> None:
    images = [request.image for request in list_requests(10)]
    epochs = [images[i : i + 10] for i in range(0, 80, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 8
    assert len({request.number for request in list_requests(10)}) == 80


def test_permutations_have_pinned_values() -> None:
    """Another order would change the results of every training."""
    assert permutation(0, 0, 8).tolist() == [1, 6, 5, 3, 0, 4, 7, 2]
    assert permutation(7, 2, 5).tolist() == [4, 0, 3, 1, 2]


def test_a_batch_may_be_larger_than_the_data_set() -> None:
    requests = list_requests(3, batch_size=6, iterations=2)
    assert Counter(request.image for request in requests) == {0: 4, 1: 4, 2: 4}


@pytest.mark.parametrize("start", [0, 7])
def test_two_processes_share_the_requests_of_one_process(
    monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    single = list_requests(10, start=start)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(sampler, "get_dist_info", lambda rank=rank: (rank, 2))
        share = StatelessSampler(range(10), 3, 4, 20, start)
        shares.append(list(share))
        assert len(share) == len(shares[-1]) == (20 - start) * 2
    first, second = ([request.number for request in share] for share in shares)
    assert not set(first) & set(second)
    merged = []
    for i in range(0, len(first), 2):
        merged += shares[0][i : i + 2] + shares[1][i : i + 2]
    assert merged == single
