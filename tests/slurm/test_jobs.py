"""Ids, array expressions, states and times as SLURM writes them."""

from __future__ import annotations

import pytest

from protoseg.slurm.jobs import (
    ACTIVE,
    ENDED,
    WAITING,
    Job,
    base_state,
    compress,
    expand,
    is_id,
    moment,
)

ALL = [f"123_{n}" for n in range(1000)]


@pytest.mark.parametrize("id", ["1", "123_4", "67043328_1000"])
def test_ids(id: str) -> None:
    assert is_id(id)


@pytest.mark.parametrize(
    "id",
    ["", "_4", "123_", "123_[1]", "123.batch", "-1", "--all", "1;true", "1 2", "1\n", "1,2",
     "$(id)", "123_4_5", "²", "٣", "1" * 30, "12_" + "1" * 30],
)  # fmt: skip
def test_what_is_no_id(id: str) -> None:
    assert not is_id(id)


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("123_4", [4]),
        ("123_[4]", [4]),
        ("123_[0-3,7-9%4]", [0, 1, 2, 3, 7, 8, 9]),
        ("123_[0-10:5]", [0, 5, 10]),
        ("123_[0-3,7,...]", [0, 1, 2, 3, 7]),
        ("123_[0-3,7,4...]", [0, 1, 2, 3, 7]),
        ("123_[0-3,7,...%2]", [0, 1, 2, 3, 7]),
        ("123_[0-3,7,11,2", [0, 1, 2, 3, 7, 11]),  # cut in the middle of 21: not task 2
        ("123_[0-3,7-1", [0, 1, 2, 3]),
        ("123_[5-4]", []),
        ("123_[0-9:0]", list(range(10))),
        ("124_[0-3]", []),
        ("123_[]", []),
        ("123", []),
        ("123_[0-4000000000]", list(range(1000))),
    ],
)
def test_array_expressions(text: str, tasks: list[int]) -> None:
    assert sorted(expand(text, ALL), key=ALL.index) == [f"123_{n}" for n in tasks]


def test_a_job_that_is_no_array() -> None:
    assert list(expand("123", ["123", "123_4"])) == ["123"]


def test_compressed_ids_stand_for_the_same_jobs() -> None:
    ids = ["7", "123_5", "123_0", "123_1", "123_2", "9_4", "123_7", "7"]
    packed = compress(ids)
    assert packed == ["7", "123_[0-2,5,7]", "9_4"]
    assert {id for text in packed for id in expand(text, ids)} == set(ids)
    assert len(compress(ALL)) == 1


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("CANCELLED by 1000", ("CANCELLED", "1000")),
        ("CANCELLED+", ("CANCELLED", "")),
        ("COMPLETED", ("COMPLETED", "")),
        ("running", ("RUNNING", "")),
        ("", ("", "")),
    ],
)
def test_states(text: str, state: tuple[str, str]) -> None:
    assert base_state(text) == state


def test_every_state_is_one_thing() -> None:
    assert not WAITING & ACTIVE
    assert not (WAITING | ACTIVE) & ENDED
    for state in WAITING | ACTIVE | ENDED:
        job = Job("1", state)
        assert job.waiting + job.active + job.ended == 1
    strange = Job("1", "SOMETHING_NEW")
    assert [strange.waiting, strange.active, strange.ended] == [False] * 3


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2026-11-20T09:52:13", "2026-11-20T09:52:13+00:00"),
        ("Unknown", ""),
        ("N/A", ""),
        ("None", ""),
        ("", ""),
        ("Tomorr 12:00", ""),
    ],
)
def test_times(text: str, found: str) -> None:
    assert moment(text) == found
