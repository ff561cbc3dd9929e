"""Shows the comparison of two rows or runs on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from protoseg.report import wording
from protoseg.report.comparison import CLASS_SETS, Comparison
from protoseg.report.statistics.significance import EXACT_SEEDS


def render_comparison(comparison: Comparison) -> Group:
    """Return a comparison for a rich console."""
    rendered = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    rendered.add_column()
    rendered.add_column(no_wrap=True)
    rendered.add_column(style="dim")
    for line in comparison_lines(comparison):
        rendered.add_row(*map(Text, line))
    title = Text(f"{comparison.ours} − {comparison.theirs}", style="bold")
    return Group(title, rendered, *map(Text, (*comparison.notes, *comparison.left_out)))


def comparison_lines(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Return the lines of a comparison: (quantity, value, method)."""
    means = (comparison.our_miou, comparison.their_miou)
    counts = f"means of {len(comparison.our_runs)} and {len(comparison.their_runs)} runs, %"
    lines = [
        (
            CLASS_SETS[comparison.classes].title,
            " and ".join(wording.format_number(mean, 2) for mean in means),
            counts,
        ),
        ("difference", wording.format_difference(comparison.difference, 2), "points"),
    ]
    lines += _seed_lines(comparison) if "seeds" in comparison.units else []
    fixed = f"{comparison.draws} draws, generator seed {comparison.generator_seed}; fixed models"
    bootstrap = "95% percentile interval, paired bootstrap over"
    if comparison.image_interval is not None:
        method = f"{bootstrap} {comparison.images} images, {fixed}"
        lines.append(("over images", _range(comparison.image_interval), method))
    if comparison.group_interval is not None:
        groups = f"{comparison.groups} groups of images: {comparison.group_rule}"
        method = f"{bootstrap} {groups}; {fixed}"
        if comparison.image_interval is not None:
            method = f"the same over {groups}"
        lines.append(("over groups", _range(comparison.group_interval), method))
    return lines


def _seed_lines(comparison: Comparison) -> Iterator[tuple[str, str, str]]:
    n = len(comparison.seeds)
    if comparison.seed_interval is None:
        yield "over seeds", "unknown", _reason_without_seed_interval(n)
    else:
        method = f"95% Student t interval of the paired differences, n = {wording.format_seeds(n)}"
        yield "over seeds", _range(comparison.seed_interval), method
        p = wording.format_p(comparison.t_p)
        yield "p (t)", p, "paired t test, two-sided; one comparison, not corrected for others"
    if comparison.detectable is not None:
        shown = wording.format_number(comparison.detectable, 2)
        method = "points: the smallest true difference that this t test finds with 80% probability"
        yield "detectable", shown, method
    if comparison.p is not None and comparison.smallest_p is not None:
        method = f"exact sign-flip test, two-sided; the smallest p of {wording.format_seeds(n)} is "
        yield "p (signs)", f"{comparison.p:.3g}", f"{method}{comparison.smallest_p:.3g}"
    elif n > EXACT_SEEDS:
        method = f"the exact sign-flip test takes at most {EXACT_SEEDS} shared seeds"
        yield "p (signs)", "unknown", method


def _range(interval: tuple[float, float]) -> str:
    return " to ".join(wording.format_difference(end, 2) for end in interval)


def _reason_without_seed_interval(n: int) -> str:
    if n == 0:
        return "no shared seed: the runs are not paired, and the effect of the seed is unknown"
    if n == 1:
        return "one shared seed has no spread"
    if n == 2:
        return "two shared seeds: their 95% interval would be 12.7 standard errors on each side"
    return "the difference is the same for every seed, so it has no spread"
