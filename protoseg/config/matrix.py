"""Declares a matrix: its runs and the table that they fill."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from protoseg.config.fields import number
from protoseg.config.hierarchy.table_trees import DataKey
from protoseg.config.hierarchy.tree import Hierarchy
from protoseg.config.identity import run_id
from protoseg.config.schema import RunSpec
from protoseg.config.tuning.block import Selection, TuneBlock
from protoseg.config.tuning.search_space import Space

LABEL = "label"
"""The axis of explicit rows."""


@dataclass(frozen=True)
class PublishedSpec:
    """The published numbers for a table, and how their rows match ours."""

    file: str
    """Name of a YAML file in results/published, without its ending."""
    part: str = ""
    """Key in the ``parts`` of that file; empty or ``rows`` for its ``rows``."""
    match: dict[str, str] = field(default_factory=dict)
    """Axis of our table -> field of a published row; a row matches if all are equal."""
    value: str = "miou"
    """Field with the published metric."""
    parameters: str = ""
    """Field with the published number of parameters, in millions, shown beside ours."""
    brackets: str = ""
    """Field with the number that the literature prints in brackets after the parameters."""
    labels: dict[str, str] = field(default_factory=dict)
    """Field -> title. These fields of the published rows become the columns that name a row.
    Published rows without a run of ours are printed too, as references."""
    margin: float = 0.5
    """Largest difference to a published value that counts as reproduced, in its unit."""


@dataclass(frozen=True)
class FamilySpec:
    """The comparisons of a table whose p values are corrected together (Holm).

    One of both fields is set.
    """

    axis: str = ""
    """Compare all pairs of values of this axis; the other axes are equal in a pair."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Pairs of row labels; the second row is subtracted from the first."""


@dataclass(frozen=True)
class ImageGroupsSpec:
    """Groups of evaluated images that depend on each other, such as frames of one video.

    One of both fields is set.
    """

    block: int = number(0, low=0)
    """Number of consecutive images in a group."""
    pattern: str = ""
    """Regular expression; the group of an image is what its first parenthesis matches in the file
    name."""


@dataclass(frozen=True)
class ImportedSpec:
    """A row of a table with the evaluation of weights that protoseg did not train."""

    label: str
    """Its name in the table."""
    evaluation: str
    """Name of the evaluation, as `protoseg evaluate` prints it."""


@dataclass(frozen=True)
class TableSpec:
    """How the runs of a matrix become a table.

    An axis is ``label`` (of explicit rows), or a key that a grid or zip varies, such as
    ``method.num_prototypes``.
    """

    caption: str = ""
    """Caption of the table."""
    rows: tuple[str, ...] = ()
    """Axes that make the rows; empty for all axes that are not columns."""
    columns: tuple[str, ...] = ()
    """Axes that make the columns (a pivot table); usually none."""
    metrics: tuple[str, ...] = ("miou",)
    """Metrics of each column. The first is compared with the baseline."""
    baseline: dict[str, Any] = field(default_factory=dict)
    """Axis -> value of the baseline cell for Δ; the other axes keep the values of the row."""
    pairs: dict[str, str] = field(default_factory=dict)
    """Label -> label of its baseline, for rows with different baselines."""
    names: dict[str, str] = field(default_factory=dict)
    """Axis or value -> its display name."""
    published: PublishedSpec | None = None
    note: str = ""
    """Footnote of the table."""
    comparisons: FamilySpec | None = None
    """What is tested; None for every row against its baseline."""
    image_groups: ImageGroupsSpec | None = None
    """Groups of images that `protoseg compare` draws together; None for single images."""
    imported: tuple[ImportedSpec, ...] = ()
    """Rows of weights from elsewhere, above those of the runs."""
    expected_spread: float = number(0.0, low=0)
    """Sample standard deviation expected of paired differences in the first metric, in its unit,
    for the plan of the number of seeds; 0 to estimate it from the records of like runs."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a matrix and its position in the table."""

    spec: RunSpec
    axes: dict[str, Any]
    """Axis -> value; the seed is not an axis."""
    start: int = 0
    """Iterations of an earlier run that this one continues."""

    @cached_property
    def run_id(self) -> str:
        """Name of the run folder and of the record."""
        return run_id(self.spec)


@dataclass(frozen=True)
class Trial:
    """One setting of a search, trained as an ordinary run."""

    number: int
    """From 1."""
    values: dict[str, Any]
    """Searched key -> its value."""
    run: PlannedRun
    """It trains to the end of its schedule."""
    rungs: tuple[PlannedRun, ...] = ()
    """The same run, ended at each rung of a successive halving."""

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        """The runs of the rungs, then the one that trains to the end."""
        return (*self.rungs, self.run)


@dataclass(frozen=True)
class TunedRow:
    """A row whose settings are chosen among trials before its final runs are known."""

    name: str
    """Label and axis values."""
    axes: dict[str, Any]
    """Axis of the table -> value."""
    spaces: dict[str, Space]
    """Searched key -> its space."""
    trials: tuple[Trial, ...]
    make_final: Callable[[Mapping[str, Any]], RunSpec] = field(repr=False, compare=False)
    """Composes the final run, without its seed, from chosen values."""

    @cached_property
    def example(self) -> RunSpec:
        """A final run with the values of the first trial, to estimate the cost."""
        return self.make_final(self.trials[0].values)

    @property
    def budgets(self) -> tuple[int, int]:
        """Number of different trials, and training images of one that trains to the end."""
        schedule = self.trials[0].run.spec.schedule
        runs = {trial.run.run_id for trial in self.trials}
        return len(runs), schedule.iterations * schedule.batch_size


@dataclass(frozen=True)
class Tuning:
    """The search of a matrix: its trials, and the choice once it is made."""

    block: TuneBlock
    rows: tuple[TunedRow, ...]
    seeds: tuple[int, ...]
    """Seeds of the final runs."""
    choice: Mapping[str, Any] | None = None
    """The record of the choice, see `protoseg.runs.results.choice`; None before it is made."""
    promoted: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    """Row -> numbers of the trials that go on at each rung of a successive halving that is
    decided."""

    reported: str = ""
    """The split that a table reports, if it is not that of the final runs."""

    @property
    def selection(self) -> Selection:
        """How the best trial of a row is selected."""
        return self.block.selection

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the block, of the rows and of their trials, 64 hex digits."""
        rows = [[row.name, [trial.run.run_id for trial in row.trials]] for row in self.rows]
        text = json.dumps([self.block.content, rows], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def is_oracle(self) -> bool:
        """Whether settings are selected on images that the final runs report, or on ``test``."""
        reported = {self.reported or row.example.evaluation.split for row in self.rows}
        return self.selection.on == "test" or self.selection.on in reported

    def list_trial_runs(self) -> Iterator[PlannedRun]:
        """The runs of all trials, as far as it is decided which of them go on."""
        for row in self.rows:
            trials = {trial.number: trial for trial in row.trials}
            going_on = [tuple(trials), *self.promoted.get(row.name, ())]
            for rung, numbers in enumerate(going_on):
                yield from (trials[number].runs[rung] for number in numbers)

    def count_rungs(self, row: TunedRow) -> dict[int, int]:
        """Number of each trial of a row -> how often it has gone on."""
        going_on = self.promoted.get(row.name, ())
        return {trial.number: sum(trial.number in n for n in going_on) for trial in row.trials}

    def list_shared_trials(self) -> list[str]:
        """One sentence for each trial that is the same run as an earlier one."""
        first: dict[str, str] = {}
        sentences = []
        for row in self.rows:
            for trial in row.trials:
                name = f"trial {trial.number} of {row.name}"
                earlier = first.setdefault(trial.run.run_id, name)
                if earlier != name:
                    sentences.append(f"{name} is the same run as {earlier}; it is trained once.")
        return sentences


@dataclass(frozen=True)
class Matrix:
    """A named list of runs, in the order of the file."""

    name: str
    title: str
    runs: tuple[PlannedRun, ...]
    table: TableSpec
    axes: tuple[str, ...]
    """All axes, in the order of the file."""
    overrides: tuple[str, ...] = ()
    """Overrides from the command line, in Hydra's grammar."""
    tuning: Tuning | None = None
    """The search; ``runs`` is empty until settings are chosen."""
    trees: Mapping[DataKey, Hierarchy] = field(default_factory=dict)
    """Name and classes of a data set -> its tree, if a metric of the matrix needs it."""

    def list_specs(self) -> Iterator[RunSpec]:
        """The specs of the runs; of a row to be chosen, a trial and a final run."""
        yield from (run.spec for run in self.runs)
        for row in self.tuning.rows if self.tuning is not None else ():
            yield from (row.trials[0].run.spec, row.example)

    def list_metrics(self) -> Iterator[tuple[str, str]]:
        """The metrics of the matrix, each with the key that names it."""
        yield from (("table.metrics", metric) for metric in self.table.metrics)
        if self.tuning is not None:
            yield "tune.select.metric", self.tuning.selection.metric

    @property
    def changes(self) -> tuple[str, ...]:
        """Overrides that change the matrix, i.e. all except those of the seeds."""
        return tuple(text for text in self.overrides if text.partition("=")[0] != "seed")

    @property
    def choice_digest(self) -> str:
        """Digest of the choice of settings; empty without a search, and before the choice."""
        choice = self.tuning.choice if self.tuning is not None else None
        return "" if choice is None else str(choice["digest"])
