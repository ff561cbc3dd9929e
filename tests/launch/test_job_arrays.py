"""Tests of job arrays: groups of runs by resources, and the sizes of arrays."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.arrays import make_entries
from protoseg.errors import UsageError
from protoseg.launch import job_arrays as arrays_module
from protoseg.launch.job_arrays import cut_into_arrays
from protoseg.launch.profile.profile import ClusterProfile

RULES = (
    {"when": {"schedule.batch_size": 1}, "cpus": 2},
    {"when": {"schedule.batch_size": [2, 3]}, "cpus": 3},
    {"when": {"schedule.batch_size": 4, "precision": "fp32"}, "time": "60"},
)


@given(
    batches=st.lists(st.sampled_from([1, 2, 3, 4, 8]), max_size=40),
    array_size=st.integers(1, 12),
    max_array_size=st.none() | st.integers(1, 12),
    more=st.sets(st.integers(0, 39), max_size=4),
)
def test_arrays_contain_every_run_once_in_order_within_the_limit(
    batches: list[int], array_size: int, max_array_size: int | None, more: set[int]
) -> None:
    profile = ClusterProfile(array_size=array_size, memory="2G", rules=RULES)
    runs = make_entries(batches)
    memory = {e.run.run_id: 2.0 for i, e in enumerate(runs) if i in more}
    arrays = cut_into_arrays(runs, profile, max_array_size, memory)
    limit = min(array_size, max_array_size or array_size)
    assert sorted(i for a in arrays for i in a.run_ids) == sorted(e.run.run_id for e in runs)
    position = {entry.run.run_id: index for index, entry in enumerate(runs)}
    for array in arrays:
        assert 0 < len(array.entries) <= limit
        positions = [position[run_id] for run_id in array.run_ids]
        assert positions == sorted(positions)
        expected = {
            (expected_cpus(batches[index]), "4G" if index in more else "2G") for index in positions
        }
        assert expected == {(array.resources.cpus, array.resources.memory)}
    groups = [list(group) for _, group in itertools.groupby(arrays, lambda a: a.resources)]
    assert len(groups) == len({a.resources for a in arrays}), (
        "the arrays of a group follow each other"
    )
    for group in groups:
        positions = [position[run_id] for array in group for run_id in array.run_ids]
        assert positions == sorted(positions)
        assert all(len(array.entries) == limit for array in group[:-1]), (
            "the number of arrays is minimal"
        )
    firsts = [position[group[0].run_ids[0]] for group in groups]
    assert firsts == sorted(firsts), "groups are in the order of their first run"


def expected_cpus(batch: int) -> int:
    return {1: 2, 2: 3, 3: 3}.get(batch, 1)


def test_equal_resources_in_different_notations_share_an_array() -> None:
    rules = ({"when": {"seed": 1}, "time": "60", "processes": 1, "memory": "2048M"},)
    profile = ClusterProfile(time="1:00:00", memory="2G", rules=rules)
    assert len(cut_into_arrays(make_entries([8, 8, 8]), profile, None)) == 1


def test_arrays_are_as_large_as_max_array_size_allows() -> None:
    # MaxArraySize=1001 allows indices from 0 to 1000.
    arrays = cut_into_arrays(make_entries([8] * 1002), ClusterProfile(array_size=5000), 1001)
    assert [len(array.entries) for array in arrays] == [1001, 1]


def test_slice_tasks_splits_an_array() -> None:
    (array,) = cut_into_arrays(make_entries([8] * 5), ClusterProfile(), None)
    halves = [array.slice_tasks(0, 3), array.slice_tasks(3, None)]
    assert [len(half.entries) for half in halves] == [3, 2]
    assert halves[0].run_ids + halves[1].run_ids == array.run_ids
    assert halves[1].resources == array.resources


def test_processes_that_cannot_share_a_batch_are_an_error() -> None:
    profile = ClusterProfile(name="site", nodes=2, gpus=4)
    assert len(cut_into_arrays(make_entries([8, 16]), profile, None)) == 1
    runs = make_entries([8, 12])
    with pytest.raises(UsageError) as caught:
        cut_into_arrays(runs, profile, None)
    assert str(caught.value) == (
        f"cluster site: {runs[1].run.run_id}: 8 processes (2 nodes, 4 processes each) cannot share "
        "a batch of 12 equally. Change nodes, gpus or processes of the profile (or of a rule for "
        "such runs), or schedule.batch_size."
    )


@pytest.mark.parametrize("rules", [RULES, ()])
def test_cut_into_arrays_examines_each_run_once(
    monkeypatch: pytest.MonkeyPatch, rules: tuple[Any, ...]
) -> None:
    runs = make_entries([1, 2, 3, 4] * 100)
    calls = Counter[str]()
    for owner, name in ((arrays_module, "to_plain"), (ClusterProfile, "resources")):
        monkeypatch.setattr(owner, name, count_calls(calls, name, getattr(owner, name)))
    arrays = cut_into_arrays(
        runs, ClusterProfile(memory="2G", rules=rules), 101, {runs[0].run.run_id: 2.0}
    )
    assert sum(len(array.entries) for array in arrays) == 400
    # The conversion of specs takes most of the time; only rules need it.
    assert calls == Counter(to_plain=400 if rules else 0, resources=400)


def count_calls(calls: Counter[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*arguments: Any) -> Any:
        calls[name] += 1
        return function(*arguments)

    return counted
