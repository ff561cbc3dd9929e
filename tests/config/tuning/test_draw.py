"""Points of the Sobol sequence, spaces, and the settings that are drawn from them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import qmc

from protoseg.config.tuning.draw import draw_settings, list_grid
from protoseg.config.tuning.search_space import Choice, Range, read_space
from protoseg.config.tuning.sobol import DIMENSIONS, list_points
from protoseg.errors import UsageError


def test_the_points_without_scrambling_are_those_of_scipy() -> None:
    ours = np.array(list_points(256, None))
    theirs = qmc.Sobol(DIMENSIONS, scramble=False, bits=30).random_base2(8)
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_scrambled_points_are_balanced_in_each_dimension(seed: int) -> None:
    points = np.array(list_points(64, seed))
    for column in points.T:
        assert sorted((column * 64).astype(int)) == list(range(64))
    plane = {(int(x * 8), int(y * 8)) for x, y in points[:, :2]}
    assert len(plane) == 64, "each cell of the first two dimensions has one point"


def test_a_seed_gives_the_same_points_everywhere() -> None:
    # These numbers are part of run ids.
    first = [[round(x, 9) for x in point[:3]] for point in list_points(3, 0)]
    assert first == [
        [0.714676709, 0.285722775, 0.847667978],
        [0.115979807, 0.901564372, 0.011153635],
        [0.315253478, 0.04935741, 0.734012146],
    ]
    assert list_points(3, 1)[0] != list_points(3, 0)[0]


def test_more_trials_extend_the_first_ones() -> None:
    spaces = {"a": Range(1e-4, 1e-2, "log_uniform"), "b": Choice((1, 3, 10))}
    many = draw_settings(spaces, 50, 7, "m")
    for number in (1, 2, 12, 49):
        assert draw_settings(spaces, number, 7, "m") == many[:number]


def test_rows_with_more_keys_try_the_same_values_of_shared_keys() -> None:
    spaces = {"a": Range(0, 1, "uniform"), "b": Choice(("x", "y"))}
    shared = draw_settings(spaces, 20, 0, "m")
    more = draw_settings({**spaces, "c": Range(1, 5, "int")}, 20, 0, "m")
    assert [{key: values[key] for key in "ab"} for values in more] == shared


def test_drawn_values_have_three_digits_and_stay_in_their_range() -> None:
    spaces = {"a": Range(3e-4, 1e-2, "log_uniform"), "n": Range(1, 4, "int")}
    drawn = draw_settings(spaces, 200, 0, "m")
    assert all(
        3e-4 <= each["a"] <= 1e-2 and float(f"{each['a']:.3g}") == each["a"] for each in drawn
    )
    assert {each["n"] for each in drawn} == {1, 2, 3, 4}
    below = sum(each["a"] < (3e-4 * 1e-2) ** 0.5 for each in drawn)
    assert 98 <= below <= 102, "half of a logarithmic range is below its geometric mean"


def test_a_row_without_a_space_has_equal_trials() -> None:
    assert draw_settings({}, 3, 0, "m") == [{}, {}, {}]


def test_too_many_keys_are_refused() -> None:
    spaces = {str(number): Choice((0, 1)) for number in range(DIMENSIONS + 1)}
    with pytest.raises(UsageError, match="17 keys are searched at once; at most 16"):
        draw_settings(spaces, 2, 0, "m")


def test_a_grid_has_all_combinations() -> None:
    spaces = {"a": Choice((1, 2)), "b": Choice(("x", "y"))}
    assert list_grid(spaces, "m") == [
        {"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"},
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"m\.c: a grid needs a list of values; 0 to 1 is a range"):
        list_grid({"c": Range(0, 1, "uniform")}, "m")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "the list is empty"),
        ([3], "has one value, so nothing is searched"),
        ([1, 2, 1], "has a value twice"),
        (0.1, "expected a list of values, or one of uniform"),
        ({"log": [1, 2]}, "unknown range 'log'"),
        ({"uniform": [1]}, "expected two ends"),
        ({"uniform": [2, 1]}, r"[2, 1] is empty. Put the smaller number first"),
        ({"uniform": [1, 1]}, "is empty"),
        ({"uniform": [1, 1.0001]}, "has one value of 3 digits"),
        ({"uniform": ["a", 1]}, "expected a number, found 'a'"),
        ({"uniform": [0, float("inf")]}, "expected a number, found inf"),
        ({"log_uniform": [0, 1]}, "0 has no logarithm. Use ends above 0"),
        ({"int": [1, 2.5]}, "are no whole numbers"),
    ],
)
def test_a_bad_space_is_refused(value: object, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_space(value, "m: tune.search.a")
    assert message in str(caught.value)
    assert str(caught.value).startswith("m: tune.search.a")


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    assert read_space(["1e-3", 3], "m") == Choice((1e-3, 3))
    assert read_space({"log_uniform": ["3e-4", "1e-2"]}, "m") == Range(3e-4, 1e-2, "log_uniform")
    assert read_space(["tiny", "mit_b0"], "m") == Choice(("tiny", "mit_b0"))


@pytest.mark.parametrize(
    ("space", "inside", "edges"),
    [
        (Choice((1, 3, 10)), [3], [1, 10]),
        (Choice((1, 3)), [1, 3], []),
        (Choice(("a", "b", "c")), ["a", "b"], []),
        (Range(0, 1, "uniform"), [0.1, 0.5, 0.9], [0.05, 0.95]),
        (Range(1e-4, 1e-2, "log_uniform"), [2e-4, 1e-3, 6e-3], [1e-4, 1.5e-4, 8e-3]),
        (Range(1, 5, "int"), [2, 4], [1, 5]),
    ],
)
def test_an_edge_of_a_space(space: Choice | Range, inside: list[float], edges: list[float]) -> None:
    assert not any(space.is_at_edge(value) for value in inside)
    assert all(space.is_at_edge(value) for value in edges)
