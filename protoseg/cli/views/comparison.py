"""Shows the comparison of two rows or runs on a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from protoseg.report import wording
from protoseg.report.comparison import Comparison
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
    return Group(title, rendered, *(Text(sentence) for sentence in comparison.left_out))


def comparison_lines(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Return the lines of a comparison: (quantity, value, method)."""
    means = (comparison.our_miou, comparison.their_miou)
    counts = f"means of {len(comparison.our_runs)} and {len(comparison.their_runs)} runs, %"
    lines = [
        ("mIoU", " and ".join(wording.format_number(mean, 2) for mean in means), counts),
        ("difference", wording.format_difference(comparison.difference, 2), "points"),
    ]
    n = len(comparison.seeds)
    if comparison.seed_interval is None:
        lines.append(("over seeds", "unknown", _reason_without_seed_interval(n)))
    else:
        method = f"95% Student t interval of the paired differences, n = {wording.format_seeds(n)}"
        lines.append(("over seeds", _range(comparison.seed_interval), method))
    method = (
        f"95% percentile interval, paired bootstrap over {comparison.images} images, "
        f"{comparison.draws} draws, generator seed {comparison.generator_seed}; fixed models"
    )
    lines.append(("over images", _range(comparison.image_interval), method))
    if comparison.p is not None and comparison.smallest_p is not None:
        method = f"exact sign-flip test, two-sided; the smallest p of {wording.format_seeds(n)} is "
        lines.append(("p", f"{comparison.p:.3g}", f"{method}{comparison.smallest_p:.3g}"))
    elif n > EXACT_SEEDS:
        method = f"the exact sign-flip test takes at most {EXACT_SEEDS} shared seeds"
        lines.append(("p", "unknown", method))
    return lines


def _range(interval: tuple[float, float]) -> str:
    return " to ".join(wording.format_difference(end, 2) for end in interval)


def _reason_without_seed_interval(n: int) -> str:
    if n == 1:
        return "one shared seed has no spread"
    if n == 2:
        return "two shared seeds: their 95% interval would be 12.7 standard errors on each side"
    return "no shared seed: the runs are not paired, and the effect of the seed is unknown"
