"""Pairs the values of two settings over their shared seeds, on the same set of classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from protoseg.config.hierarchy.table_trees import get_level, name_level_metric
from protoseg.report import wording
from protoseg.report.metrics import METRICS, MIOU, MIOU_PRESENT, Metric
from protoseg.report.statistics.significance import Paired, pair_by_seed
from protoseg.report.tables.samples import Protocol, Samples


@dataclass(frozen=True)
class SettingPair:
    """The differences of two settings in one metric."""

    pairs: Paired
    metric: Metric
    """The compared metric: `MIOU_PRESENT` in place of mIoU if the sets of classes differ."""
    notes: tuple[str, ...]
    """Sentences on the classes and the code of the two sides."""


def pair_settings(ours: Samples, theirs: Samples, metric: Metric) -> SettingPair:
    """Pair two settings over their shared seeds.

    The mIoU of two runs may average different classes, as a class without ground truth counts
    where it is predicted. If so, the pair is compared over the classes with ground truth.
    """
    notes = []
    used = choose_metric([ours, theirs], metric)
    if used is not metric:
        notes.append(describe_class_sets([ours, theirs], used))
    pairs = pair_by_seed(ours.values.get(used.key, {}), theirs.values.get(used.key, {}))
    notes += describe_code(ours, theirs, [seed for seed, _ in pairs.differences])
    return SettingPair(pairs, used, tuple(notes))


def choose_metric(settings: list[Samples], metric: Metric) -> Metric:
    """Return the metric that compares settings on the same classes, or groups of a level.

    It is `MIOU_PRESENT` for mIoU if two runs average different ones, else ``metric``.
    """
    level = get_level(metric.key)
    if metric.key != name_level_metric(MIOU, level) or len(_list_sets(settings, level)) < 2:
        return metric
    return METRICS[name_level_metric(MIOU_PRESENT, level)]


def _list_sets(settings: Iterable[Samples], level: int) -> set[frozenset[str]]:
    return {classes for s in settings for classes in s.averaged.get(level, {}).values()}


def average_different_classes(settings: Iterable[Samples], level: int = 1) -> bool:
    """Whether the mIoU of two runs with equal data and evaluation averages different classes."""
    first: list[tuple[Protocol, frozenset[str]]] = []  # protocols cannot be hashed
    for samples in settings:
        for classes in samples.averaged.get(level, {}).values():
            known = next((c for protocol, c in first if protocol == samples.protocol), None)
            if known is None:
                first.append((samples.protocol, classes))
            elif known != classes:
                return True
    return False


def describe_class_sets(settings: list[Samples], used: Metric) -> str:
    """Describe that the runs of settings average different numbers of classes.

    Args:
        settings: the compared settings.
        used: the metric over classes, or groups of a level, with ground truth.
    """
    level = get_level(used.key)
    many, one = ("classes", "class") if level == 1 else ("groups", "group")
    sizes = {len(classes) for classes in _list_sets(settings, level)}
    low, high = min(sizes), max(sizes)
    averaged = f"{low} to {high} {many}" if low < high else f"different sets of {low} {many}"
    return (
        f"Compared over the {many} with ground truth ({used.title}): the mIoU "
        f"of these runs averages {averaged}, as it counts each {one} that a run predicts."
    )


def describe_code(ours: Samples, theirs: Samples, seeds: list[int]) -> list[str]:
    """Describe that some seeds of two settings were trained by different commits."""
    differing = [seed for seed in seeds if ours.code[seed][0] != theirs.code[seed][0]]
    if not differing:
        return []
    digests = {(ours.code[seed][1], theirs.code[seed][1]) for seed in differing}
    if all(a == b != "" for a, b in digests):
        code = "the digest of their code is the same"
    elif all(a and b for a, b in digests):
        code = "the digests of their code differ"
    else:
        code = "a record has no digest of its code"
    of_all = "" if len(differing) == len(seeds) else f" ({wording.format_seeds(len(differing))})"
    return [f"The two sides were trained at different commits{of_all}; {code}."]
