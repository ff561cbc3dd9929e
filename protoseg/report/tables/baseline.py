"""Finds the baseline of each setting, against which Δ is computed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from protoseg.config.matrix import Matrix
from protoseg.errors import UsageError
from protoseg.report import wording
from protoseg.report.tables.samples import Key, Samples, make_key

LABEL = "label"


class Baselines(Protocol):
    """The baselines of the settings of one table."""

    description: str
    """The baseline in the footnote of Δ."""
    arrows: bool
    """Whether differences are printed with arrows, as the paper prints them for pairs."""

    def find(self, samples: Samples) -> Samples | None:
        """Find the baseline of a setting; a baseline is its own. None if it is not planned."""
        ...


def make_baselines(matrix: Matrix, samples: Iterable[Samples]) -> Baselines | None:
    """Create the baselines declared in the table of a matrix; None if it declares none.

    Args:
        samples: all settings of the table.

    Raises:
        UsageError: no run of the matrix is such a baseline.
    """
    if matrix.table.pairs:
        return Pairs(matrix, samples)
    return OneBaseline(matrix, samples) if matrix.table.baseline else None


class OneBaseline:
    """Baseline with the axis values of ``table.baseline``; its other axes equal the setting's.

    Axes whose values follow from the baseline's axes (the other half of a zip) are ignored.
    """

    arrows = False

    def __init__(self, matrix: Matrix, samples: Iterable[Samples]) -> None:
        """Find the settings that are baselines.

        Raises:
            UsageError: no run of the matrix has the values of the baseline.
        """
        named = matrix.table.baseline
        settings = list(samples)
        axes = tuple(named)
        wanted = tuple(wording.format_value(value) for value in named.values())
        chosen = [s for s in settings if make_key(s.axes, axes) == wanted]
        if not chosen:
            known = {", ".join(_format_axes(s, axes)): None for s in settings}
            raise UsageError(
                f"{matrix.name}: table.baseline: no run has "
                f"{', '.join(f'{a}={w}' for a, w in zip(axes, wanted, strict=True))}. "
                f"Known: {'; '.join(known) or 'none'}."
            )
        names = matrix.table.names
        self.description = ", ".join(wording.name_group(a, v, names) for a, v in named.items())
        self.kept = tuple(
            a for a in matrix.axes if a not in named and not _follows(a, axes, settings)
        )
        # One setting per key: all other axes follow from those of the baseline.
        self.by_kept = {make_key(s.axes, self.kept): s for s in chosen}

    def find(self, samples: Samples) -> Samples | None:
        """Find the baseline of a setting; a baseline is its own. None if it is not planned."""
        return self.by_kept.get(make_key(samples.axes, self.kept))


class Pairs:
    """Baselines of ``table.pairs``: one label per label, with equal values of the other axes."""

    description = "the baseline it is paired with"
    arrows = True

    def __init__(self, matrix: Matrix, samples: Iterable[Samples]) -> None:
        """Index the settings by label.

        Raises:
            UsageError: no run has a label of ``table.pairs``.
        """
        self.pairs = matrix.table.pairs
        self.kept = tuple(axis for axis in matrix.axes if axis != LABEL)
        self.by_label = {self._key(s, str(s.axes.get(LABEL))): s for s in samples}
        labels = {label for label, _ in self.by_label}
        for label in [*self.pairs, *self.pairs.values()]:
            if label not in labels:
                raise UsageError(
                    f"{matrix.name}: table.pairs: no row is labelled '{label}'. "
                    f"Known: {', '.join(sorted(labels))}."
                )

    def _key(self, samples: Samples, label: str) -> tuple[str, Key]:
        return label, make_key(samples.axes, self.kept)

    def find(self, samples: Samples) -> Samples | None:
        """Find the baseline of a setting; itself without a pair. None if it is not planned."""
        label = str(samples.axes.get(LABEL))
        if label not in self.pairs:
            return samples
        return self.by_label.get(self._key(samples, self.pairs[label]))


def _follows(axis: str, axes: Key, settings: list[Samples]) -> bool:
    """Whether other axes determine the value of an axis."""
    values: dict[Key, Key] = {}
    for samples in settings:
        value = make_key(samples.axes, (axis,))
        if values.setdefault(make_key(samples.axes, axes), value) != value:
            return False
    return True


def _format_axes(samples: Samples, axes: Key) -> list[str]:
    return [f"{a}={v}" for a, v in zip(axes, make_key(samples.axes, axes), strict=True)]
