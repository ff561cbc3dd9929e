"""Tests of SLURM's notation for ids, array expressions, states and times."""

from __future__ import annotations

import pytest

from protoseg.slurm.jobs import (
    ACTIVE,
    ENDED,
    WAITING,
    Job,
    compress_ids,
    expand_ids,
    is_job_id,
    parse_slurm_time,
    parse_state,
)

ALL = [f"123_{n}" for n in range(1000)]


@pytest.mark.parametrize("id", ["1", "123_4", "67043328_1000"])
def test_is_job_id_accepts_ids(id: str) -> None:
    assert is_job_id(id)


@pytest.mark.parametrize(
    "id",
    ["", "_4", "123_", "123_[1]", "123.batch", "-1", "--all", "1;true", "1 2", "1\n", "1,2",
     "$(id)", "123_4_5", "²", "٣", "1" * 30, "12_" + "1" * 30],
)  # fmt: skip
def test_is_job_id_rejects_other_text(id: str) -> None:
    assert not is_job_id(id)


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
        ("123_[0-3,7,11,2", [0, 1, 2, 3, 7, 11]),  # cut inside of 21: task 2 is not included
        ("123_[0-3,7-1", [0, 1, 2, 3]),
        ("123_[5-4]", []),
        ("123_[0-9:0]", list(range(10))),
        ("124_[0-3]", []),
        ("123_[]", []),
        ("123", []),
        ("123_[0-4000000000]", list(range(1000))),
    ],
)
def test_expand_ids_expands_array_expressions(text: str, tasks: list[int]) -> None:
    assert sorted(expand_ids(text, ALL), key=ALL.index) == [f"123_{n}" for n in tasks]


def test_expand_ids_keeps_a_job_without_tasks() -> None:
    assert list(expand_ids("123", ["123", "123_4"])) == ["123"]


def test_compressed_ids_expand_to_the_same_jobs() -> None:
    ids = ["7", "123_5", "123_0", "123_1", "123_2", "9_4", "123_7", "7"]
    packed = compress_ids(ids)
    assert packed == ["7", "123_[0-2,5,7]", "9_4"]
    assert {id for text in packed for id in expand_ids(text, ids)} == set(ids)
    assert len(compress_ids(ALL)) == 1


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
def test_parse_state_gives_the_base_form(text: str, state: tuple[str, str]) -> None:
    assert parse_state(text) == state


def test_every_state_belongs_to_one_group() -> None:
    assert not WAITING & ACTIVE
    assert not (WAITING | ACTIVE) & ENDED
    for state in WAITING | ACTIVE | ENDED:
        job = Job("1", state)
        assert job.is_waiting + job.is_active + job.has_ended == 1
    strange = Job("1", "SOMETHING_NEW")
    assert [strange.is_waiting, strange.is_active, strange.has_ended] == [False] * 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-20T09:52:13", "2026-11-20T09:52:13+00:00"),
        ("Unknown", ""),
        ("N/A", ""),
        ("None", ""),
        ("", ""),
        ("Tomorr 12:00", ""),
    ],
)
def test_parse_slurm_time_gives_iso_8601(text: str, expected: str) -> None:
    assert parse_slurm_time(text) == expected
