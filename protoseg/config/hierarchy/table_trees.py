"""Metrics on the levels of a tree of classes: their names, and the trees that a matrix needs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

from protoseg.config.hierarchy.files import HierarchyReader
from protoseg.config.hierarchy.parse import MAX_LEVELS
from protoseg.config.hierarchy.tree import Hierarchy
from protoseg.config.schema import DatasetSpec
from protoseg.errors import UsageError

DataKey = tuple[str, tuple[str, ...]]
"""Name and classes of a data set."""
LEVELS = range(2, MAX_LEVELS + 1)
"""The levels whose metrics have a suffix. Level 1 has the classes."""
LEVEL_METRICS = ("miou", "miou_present", "macc", "aacc")
"""The metrics that exist on each level."""
MISTAKE_DISTANCE = "mistake_distance"
KEY = "dataset.hierarchy"


def name_level_metric(metric: str, level: int) -> str:
    """Name a metric on a level of the tree: ``miou@2``; ``miou`` on level 1."""
    return metric if level == 1 else f"{metric}@{level}"


def get_level(metric: str) -> int:
    """Get the level of a metric; 1 for a metric of the classes."""
    named = re.fullmatch(rf"(?:{'|'.join(LEVEL_METRICS)})@([{LEVELS[0]}-{LEVELS[-1]}])", metric)
    return int(named[1]) if named else 1


def needs_tree(metric: str) -> bool:
    """Whether a metric is computed with a tree of classes."""
    return metric == MISTAKE_DISTANCE or get_level(metric) > 1


def read_trees(
    reader: HierarchyReader,
    metrics: Iterable[tuple[str, str]],
    datasets: Iterable[DatasetSpec],
    axes: Collection[str],
    where: str,
) -> dict[DataKey, Hierarchy]:
    """Read the trees that the metrics of a matrix need; none without such a metric.

    Args:
        reader: of the composer that composed the data sets.
        metrics: (key of the matrix, metric).
        datasets: the data sets of all runs.
        axes: the keys that differ between runs.
        where: place named in error messages.

    Returns:
        Name and classes of a data set -> its tree.

    Raises:
        UsageError: a data set has no tree, two trees, or too few levels; or a tree does not fit.
    """
    needed = [(key, metric) for key, metric in metrics if needs_tree(metric)]
    trees: dict[DataKey, Hierarchy] = {}
    for dataset in datasets if needed else ():
        key, metric = needed[0]
        name = dataset.name, dataset.classes
        if name not in trees:
            parsed = reader.find_tree(dataset.classes, dataset.name)
            if parsed is None:
                raise UsageError(
                    f"{where}: {key}: {metric} needs a tree of classes, and the data set "
                    f"{dataset.name} has none. Set {KEY} to a file of experiments/hierarchy, or "
                    "remove the metric."
                )
            trees[name] = parsed.hierarchy
        if KEY in axes or dataset.hierarchy not in ((), trees[name].paths):
            raise UsageError(
                f"{where}: {key}: {metric} needs one tree for each data set, and rows differ in "
                f"{KEY}. Set it in base, or make one matrix for each tree."
            )
        for each, of_level in needed:
            if get_level(of_level) > trees[name].num_levels:
                raise UsageError(
                    f"{where}: {each}: {of_level}: the tree of {dataset.name} has levels 1 to "
                    f"{trees[name].num_levels}. Name one of these levels, or remove the metric."
                )
    return trees


def describe_short_branches(name: str, tree: Hierarchy) -> Iterator[str]:
    """Yield a sentence for the classes of a data set that are their own groups, if there are any.

    Args:
        name: of the data set.
        tree: its tree. Its paths repeat a class on the levels that a short branch skips.
    """
    levels: dict[tuple[int, ...], list[str]] = {}
    for path in tree.paths:
        repeated = tuple(i for i in range(2, len(path) + 1) if path[-i] == path[-1])
        if repeated:
            levels.setdefault(repeated, []).append(path[-1])
    for repeated, classes in levels.items():
        verb = "is its own group" if len(classes) == 1 else "are their own groups"
        shown = f"level {repeated[0]}"
        if len(repeated) > 1:
            shown = f"levels {repeated[0]} to {repeated[-1]}"
        yield f"{name}: {', '.join(classes)} {verb} on {shown}."
