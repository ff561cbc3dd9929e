"""Checks the settings of a holdout that need no data, before a run is queued."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from protoseg.config.holdout.draw import WHERE, draw_holdout
from protoseg.config.holdout.settings import HOLDOUT, HoldoutSpec
from protoseg.errors import UsageError

if TYPE_CHECKING:
    from protoseg.config.schema import DatasetSpec, EvaluationSpec

EXAMPLE = "{share: 0.2, blocks: 30, gap: 10}"


def find_holdout_problems(dataset: DatasetSpec, evaluation: EvaluationSpec) -> Iterator[str]:
    """Describe the contradictions between a holdout, the split and the data set.

    Names that do not fit a pattern or a list are found when the data are read.
    """
    holdout, split = evaluation.holdout, evaluation.split
    has_own_split = HOLDOUT in (dataset.counts or dataset.split_files)
    if not holdout.is_set:
        if split == HOLDOUT and not has_own_split:
            yield (
                f"evaluation.split: {HOLDOUT} needs settings of the holdout. Set {WHERE}, e.g. "
                f"{EXAMPLE}, or another split."
            )
        return
    if split != HOLDOUT:
        yield (
            f"{WHERE}: holds out images, but evaluation.split is {split}. Set "
            f"evaluation.split={HOLDOUT}, or remove {WHERE}."
        )
    elif has_own_split:
        yield (
            f"{WHERE}: {dataset.name} has a split '{HOLDOUT}' in its files, so the name is "
            f"ambiguous. Rename that split, or remove {WHERE}."
        )
    problems = list(_find_rule_problems(holdout))
    yield from problems
    count = dataset.counts.get(dataset.train_split, 0)
    # Without a pattern, the draw depends on the number of images only, not on their names.
    if count and holdout.blocks and not holdout.pattern and not problems:
        yield from filter(None, [_find_draw_problem(count, holdout)])


def _find_rule_problems(holdout: HoldoutSpec) -> Iterator[str]:
    if holdout.list:
        keys = ("share", "blocks", "gap", "pattern", "seed")
        unused = [key for key in keys if getattr(holdout, key) != getattr(HoldoutSpec(), key)]
        if unused:
            yield (
                f"{WHERE}: list names the images, so {' and '.join(unused)} would have no effect. "
                f"Remove list, or {' and '.join(unused)}."
            )
        return
    if not 0 < holdout.share < 1:
        yield (
            f"{WHERE}.share: {holdout.share!r} is out of range; allowed: greater than 0 and less "
            "than 1."
        )
    if not holdout.blocks and not holdout.pattern:
        yield (
            f"{WHERE}: needs a rule that groups the images. Set blocks, e.g. blocks=30, or "
            "pattern, or list."
        )
    if holdout.gap and not holdout.blocks:
        yield f"{WHERE}.gap: has no effect without blocks. Set blocks, or remove it."
    if holdout.pattern:
        yield from _find_pattern_problem(holdout.pattern)


def _find_pattern_problem(pattern: str) -> Iterator[str]:
    try:
        has_group = re.compile(pattern).groups > 0
    except re.error as error:
        yield f"{WHERE}.pattern: '{pattern}' is no regular expression ({error}). Correct it."
        return
    if not has_group:
        yield (
            f"{WHERE}.pattern: '{pattern}' has no group. Put the part of the name that images "
            "have in common in parentheses, e.g. ^([^_]+)_."
        )


@functools.lru_cache(maxsize=64)
def _find_draw_problem(count: int, holdout: HoldoutSpec) -> str:
    """The error of a draw from ``count`` images; empty if there is none."""
    try:
        draw_holdout([f"{number:09}" for number in range(count)], holdout)
    except UsageError as error:
        return str(error)
    return ""
