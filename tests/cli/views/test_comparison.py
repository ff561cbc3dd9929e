"""The comparison of two rows on a terminal."""

from __future__ import annotations

import pytest

from cli.views.printing import printed
from protoseg.cli.views.comparison import comparison_lines, render_comparison
from protoseg.report.comparison import Comparison


def comparison(seeds: int, *, p: float | None = 0.25) -> Comparison:
    """A comparison of two rows with this number of shared seeds."""
    return Comparison(
        ours="ours",
        theirs="theirs",
        units=("seeds", "images", "groups"),
        classes="as-mmseg",
        our_miou=60.0,
        their_miou=58.5,
        difference=1.5,
        our_runs=("a",) * max(seeds, 1),
        their_runs=("b",) * max(seeds, 1),
        seeds=tuple(range(seeds)),
        seed_interval=(-0.25, 3.25) if seeds > 2 else None,
        t_p=0.06 if seeds > 2 else None,
        detectable=2.75 if seeds > 2 else None,
        images=101,
        image_interval=(0.5, 2.5),
        groups=10,
        group_interval=(0.25, 2.75),
        group_rule="blocks of 10 consecutive images",
        draws=200,
        generator_seed=0,
        p=p,
        smallest_p=None if p is None else 2.0 ** (1 - seeds),
        left_out=("run-x: its seed is not shared.",),
        notes=("The two sides were trained at different commits.",),
    )


def test_a_comparison_shows_both_intervals_and_the_runs_left_out() -> None:
    text = printed(render_comparison(comparison(3)))
    for part in ("ours − theirs", "60.00 and 58.50", "+1.50", "−0.25 to +3.25", "run-x"):
        assert part in text
    assert "The two sides were trained at different commits." in text
    lines = {
        quantity: (value, method) for quantity, value, method in comparison_lines(comparison(3))
    }
    assert lines["mIoU"][0] == "60.00 and 58.50"
    assert lines["over images"][0] == "+0.50 to +2.50"
    assert lines["over groups"] == (
        "+0.25 to +2.75",
        "the same over 10 groups of images: blocks of 10 consecutive images",
    )
    assert lines["p (t)"][0] == "0.060"
    assert lines["detectable"][0] == "2.75"
    assert lines["p (signs)"] == (
        "0.25",
        "exact sign-flip test, two-sided; the smallest p of 3 seeds is 0.25",
    )


@pytest.mark.parametrize(
    ("seeds", "reason"),
    [
        (0, "no shared seed: the runs are not paired"),
        (1, "one shared seed has no spread"),
        (2, "two shared seeds: their 95% interval would be 12.7 standard errors"),
    ],
)
def test_a_comparison_gives_the_reason_for_an_unknown_interval(seeds: int, reason: str) -> None:
    (line,) = [line for line in comparison_lines(comparison(seeds)) if line[0] == "over seeds"]
    assert line[1] == "unknown"
    assert line[2].startswith(reason)


def test_p_is_unknown_with_more_seeds_than_the_exact_test_takes() -> None:
    line = ("p (signs)", "unknown", "the exact sign-flip test takes at most 20 shared seeds")
    assert line in comparison_lines(comparison(21, p=None))
