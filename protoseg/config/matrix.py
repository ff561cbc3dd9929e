"""A matrix: which runs to make and which table they fill."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from protoseg.config.identity import run_id
from protoseg.config.schema import RunSpec


@dataclass(frozen=True)
class PublishedSpec:
    """Where the literature's numbers for a table stand, and how its rows match ours."""

    file: str
    """A YAML file in results/published, without ending."""
    part: str = ""
    """Key below ``parts`` (or ``rows``) of that file; empty for its ``rows``."""
    match: dict[str, str] = field(default_factory=dict)
    """Axis of our table -> field of a published row; all must be equal."""
    value: str = "miou"
    parameters: str = ""
    """Field with the published number of parameters, in millions; shown beside ours."""
    brackets: str = ""
    """Field with what the literature prints in brackets behind them."""
    labels: dict[str, str] = field(default_factory=dict)
    """Field -> title: the columns that name a row are taken from the published rows, and those
    that no run of ours matches are printed too, as references."""
    margin: float = 0.5
    """How near to a published value still counts as reproduced, in its unit."""


@dataclass(frozen=True)
class TableSpec:
    """How the runs of a matrix become a table.

    An axis is ``label`` (of explicit rows) or the override key that a grid or zip varies, such as
    ``method.num_prototypes``.
    """

    caption: str = ""
    rows: tuple[str, ...] = ()
    """Axes that make the rows; empty takes every axis that is not a column."""
    columns: tuple[str, ...] = ()
    """Axes that make the columns (a pivot); usually none."""
    metrics: tuple[str, ...] = ("miou",)
    """Shown in each column; the first is compared with the baseline and printed bold."""
    baseline: dict[str, Any] = field(default_factory=dict)
    """Axis -> value of the cell that Δ is taken against; the other axes stay as they are."""
    pairs: dict[str, str] = field(default_factory=dict)
    """Label -> label of the baseline of its own, where rows have different ones."""
    names: dict[str, str] = field(default_factory=dict)
    """Display name of an axis or of a value."""
    published: PublishedSpec | None = None
    note: str = ""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a matrix and where it stands in the table."""

    spec: RunSpec
    axes: dict[str, Any]
    """Axis -> value, without the seed."""

    @cached_property
    def run_id(self) -> str:
        """Name of its folder and record."""
        return run_id(self.spec)


@dataclass(frozen=True)
class Matrix:
    """A named set of runs, in the order in which the file lists them."""

    name: str
    title: str
    runs: tuple[PlannedRun, ...]
    table: TableSpec
    axes: tuple[str, ...]
    """All axes, in the order in which the file names them."""
    overrides: tuple[str, ...] = ()
    """Those of the call, in Hydra's grammar."""

    @property
    def changes(self) -> tuple[str, ...]:
        """The overrides that make it another matrix than the file; more seeds do not."""
        return tuple(word for word in self.overrides if word.partition("=")[0] != "seed")
