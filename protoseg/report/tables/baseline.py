"""Which setting a Δ is taken against."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from protoseg.config.matrix import Matrix
from protoseg.errors import UsageError
from protoseg.report import wording
from protoseg.report.tables.samples import Key, Samples, key_of

LABEL = "label"


class Baselines(Protocol):
    """Where a setting's baseline is looked up."""

    words: str
    """What it is called in a sentence."""
    arrows: bool
    """Whether differences are printed with arrows, as the paper prints those of pairs."""

    def of(self, samples: Samples) -> Samples | None:
        """The baseline of a setting (its own, where it is one); None where it was not planned."""
        ...


def baselines(matrix: Matrix, samples: Iterable[Samples]) -> Baselines | None:
    """The baselines that the table of a matrix names; None where it names none.

    Raises:
        UsageError: no run of the matrix is such a baseline.
    """
    if matrix.table.pairs:
        return Pairs(matrix, samples)
    return OneBaseline(matrix, samples) if matrix.table.baseline else None


class OneBaseline:
    """The baseline of each setting: the same setting, but for the axes that the baseline names.

    Axes that follow from the baseline's axes (the other half of a zip) move along with them.
    """

    arrows = False

    def __init__(self, matrix: Matrix, samples: Iterable[Samples]) -> None:
        """Look the baseline up once.

        Raises:
            UsageError: no run of the matrix has the baseline's values.
        """
        named = matrix.table.baseline
        settings = list(samples)
        axes = tuple(named)
        wanted = tuple(wording.plain_value(value) for value in named.values())
        chosen = [s for s in settings if key_of(s.axes, axes) == wanted]
        if not chosen:
            known = {", ".join(_pairs(s, axes)): None for s in settings}
            raise UsageError(
                f"{matrix.name}: table.baseline: nothing has "
                f"{', '.join(f'{a}={w}' for a, w in zip(axes, wanted, strict=True))}. "
                f"Known: {'; '.join(known) or 'none'}."
            )
        names = matrix.table.names
        self.words = ", ".join(wording.group_name(a, v, names) for a, v in named.items())
        self.kept = tuple(
            a for a in matrix.axes if a not in named and not _follows(a, axes, settings)
        )
        # One each: what is neither named nor kept follows from what is named.
        self.by_kept = {key_of(s.axes, self.kept): s for s in chosen}

    def of(self, samples: Samples) -> Samples | None:
        """The baseline of a setting (its own, where it is one); None where it was not planned."""
        return self.by_kept.get(key_of(samples.axes, self.kept))


class Pairs:
    """A baseline for each label, the other axes being the same; the rest have none."""

    words = "the baseline it is paired with"
    arrows = True

    def __init__(self, matrix: Matrix, samples: Iterable[Samples]) -> None:
        """Look all of them up once.

        Raises:
            UsageError: a label that no run has.
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
        return label, key_of(samples.axes, self.kept)

    def of(self, samples: Samples) -> Samples | None:
        """The baseline of a setting (itself, where it has none); None where it was not planned."""
        label = str(samples.axes.get(LABEL))
        if label not in self.pairs:
            return samples
        return self.by_label.get(self._key(samples, self.pairs[label]))


def _follows(axis: str, axes: Key, settings: list[Samples]) -> bool:
    """Whether an axis has one value only for each value of others."""
    values: dict[Key, Key] = {}
    return all(
        values.setdefault(key_of(s.axes, axes), key_of(s.axes, (axis,))) == key_of(s.axes, (axis,))
        for s in settings
    )


def _pairs(samples: Samples, axes: Key) -> list[str]:
    return [f"{a}={v}" for a, v in zip(axes, key_of(samples.axes, axes), strict=True)]
