"""Curves of one line."""

from __future__ import annotations

from protoseg.cli.views.sparkline import draw_sparkline


def test_the_lowest_and_the_highest_value_have_the_outer_levels() -> None:
    assert draw_sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert draw_sparkline([7.0, 0.0, 3.5], 8) == "█▁▅"
    assert draw_sparkline([-1.0, 1.0], 2) == "▁█"


def test_more_values_than_characters_are_means_of_groups() -> None:
    # The groups are (0, 0), (7, 7), (3, 4): means 0, 7, 3.5.
    assert draw_sparkline([0, 0, 7, 7, 3, 4], 3) == "▁█▅"
    # The whole curve is drawn, not its end; a single peak stays visible.
    assert draw_sparkline([0.0] * 50 + [1.0] + [0.0] * 149, 4) == "▁█▁▁"


def test_a_constant_curve_is_low_and_one_point_is_no_curve() -> None:
    assert draw_sparkline([2.5, 2.5, 2.5], 8) == "▁▁▁"
    assert draw_sparkline([2.5], 8) == ""
    assert draw_sparkline([], 8) == ""
    assert draw_sparkline([1.0, 2.0], 0) == ""
