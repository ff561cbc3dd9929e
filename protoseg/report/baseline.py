"""Which setting a Δ is taken against."""

from __future__ import annotations

from collections.abc import Iterable

from protoseg.errors import UsageError
from protoseg.report import text
from protoseg.report.samples import Key, Samples, key_of
from protoseg.spec.matrix import Matrix


class Baselines:
    """The baseline of each setting: the same setting, but for the axes that the baseline names.

    Axes that follow from the baseline's axes (the other half of a zip) move along with them.
    """

    def __init__(self, matrix: Matrix, samples: Iterable[Samples]) -> None:
        """Look the baseline up once.

        Raises:
            UsageError: no run of the matrix has the baseline's values.
        """
        named = matrix.table.baseline
        settings = list(samples)
        axes = tuple(named)
        wanted = tuple(text.plain_value(value) for value in named.values())
        chosen = [s for s in settings if key_of(s.axes, axes) == wanted]
        if not chosen:
            known = {", ".join(_pairs(s, axes)): None for s in settings}
            raise UsageError(
                f"{matrix.name}: table.baseline: nothing has "
                f"{', '.join(f'{a}={w}' for a, w in zip(axes, wanted, strict=True))}. "
                f"Known: {'; '.join(known) or 'none'}."
            )
        names = matrix.table.names
        self.words = ", ".join(text.value_name(a, v, names) for a, v in named.items())
        self.kept = tuple(
            a for a in matrix.axes if a not in named and not _follows(a, axes, settings)
        )
        # One each: what is neither named nor kept follows from what is named.
        self.by_kept = {key_of(s.axes, self.kept): s for s in chosen}

    def of(self, samples: Samples) -> Samples | None:
        """The baseline of a setting (its own, where it is one); None where it was not planned."""
        return self.by_kept.get(key_of(samples.axes, self.kept))


def _follows(axis: str, axes: Key, settings: list[Samples]) -> bool:
    """Whether an axis has one value only for each value of others."""
    values: dict[Key, Key] = {}
    return all(
        values.setdefault(key_of(s.axes, axes), key_of(s.axes, (axis,))) == key_of(s.axes, (axis,))
        for s in settings
    )


def _pairs(samples: Samples, axes: Key) -> list[str]:
    return [f"{a}={v}" for a, v in zip(axes, key_of(samples.axes, axes), strict=True)]
