"""Expands the block ``tune`` into the trials of each row, and chosen values into final runs.

A trial has the settings of the matrix and its row, then those of ``tune.base``, the values that are
tried, overrides, and the evaluation of ``tune.select``. A final run has the settings of the matrix
and its row, the chosen values, overrides, and a seed of the matrix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from protoseg.config.compose import Composer
from protoseg.config.fields import convert, field_types
from protoseg.config.holdout.settings import HOLDOUT
from protoseg.config.matrix import LABEL, Matrix, PlannedRun, Trial, TunedRow, Tuning
from protoseg.config.overrides import Setting
from protoseg.config.recipes.values import read_values
from protoseg.config.schema import RunSpec
from protoseg.config.tuning.block import TuneBlock, check_patterns
from protoseg.config.tuning.draw import draw_settings, list_grid
from protoseg.config.tuning.halving import check_halving, end_early
from protoseg.config.validation import check_values
from protoseg.errors import UsageError

TRIAL = "trial"
"""Axis of the number of a trial."""
BUDGET_KEYS = ("schedule.iterations", "schedule.batch_size")


@dataclass(frozen=True)
class RowSettings:
    """What the composition of the runs of a matrix needs, besides the values of its points."""

    composer: Composer
    where: str
    base: Sequence[Setting]
    fixed: Sequence[Setting]
    """Overrides."""
    axis_names: Sequence[str]
    """Axes of the table."""


def make_tuning(
    settings: RowSettings,
    block: TuneBlock,
    points: Iterable[Mapping[str, Any]],
    seeds: Iterable[int],
) -> Tuning:
    """Make the trials of each row.

    Args:
        settings: of the matrix.
        block: what is searched.
        points: axis -> value, for each row.
        seeds: of the final runs.

    Raises:
        UsageError: a pattern without a row, a key that a row or an override sets, or values that
            cannot be trained.
    """
    points = list(points)
    where = f"{settings.where}: tune"
    names = [_name_row(point, settings.axis_names) for point in points]
    check_patterns(block, names, where)
    rows = tuple(
        _make_row(settings, block, point, of_row)
        for point, of_row in zip(points, names, strict=True)
    )
    _refuse_unequal_overrides(settings, rows)
    return Tuning(block, rows, tuple(seeds))


def finalise(matrix: Matrix, choice: Mapping[str, Any]) -> Matrix:
    """Return the matrix with its final runs.

    Args:
        matrix: a matrix with a search.
        choice: the record of the choice, see `protoseg.runs.results.choice`.

    Raises:
        UsageError: chosen values that cannot be trained with the settings of the final runs.
    """
    assert matrix.tuning is not None
    runs: list[PlannedRun] = []
    for row, chosen in zip(matrix.tuning.rows, choice["rows"], strict=True):
        trial = next(trial for trial in row.trials if trial.number == chosen["chosen"])
        spec = row.make_final(trial.values)
        runs += [
            PlannedRun(dataclasses.replace(spec, seed=seed), row.axes)
            for seed in matrix.tuning.seeds
        ]
    promoted = {
        row["row"]: tuple(tuple(rung["promoted"]) for rung in row["rungs"])
        for row in choice["rows"]
        if "rungs" in row
    }
    tuning = dataclasses.replace(matrix.tuning, choice=choice, promoted=promoted)
    return dataclasses.replace(matrix, runs=tuple(runs), tuning=tuning)


def make_trial_matrix(matrix: Matrix) -> Matrix:
    """Return a matrix whose runs are the trials of another one, as far as they are known."""
    assert matrix.tuning is not None
    runs = tuple(matrix.tuning.list_trial_runs())
    title = f"trials of {matrix.title}"
    return dataclasses.replace(matrix, title=title, runs=runs, tuning=None)


def _name_row(point: Mapping[str, Any], axis_names: Sequence[str]) -> list[str]:
    """The names of a row that patterns may match: the whole one, and the label."""
    parts = [
        str(point[name]) if name == LABEL else f"{name}={point[name]}"
        for name in axis_names
        if point.get(name, "") != ""
    ]
    name = ", ".join(parts) or "the only run"
    return [name, str(point[LABEL])] if LABEL in point else [name]


def _make_settings(values: Mapping[str, Any]) -> list[Setting]:
    return [Setting(key, value) for key, value in values.items()]


def _make_row(
    settings: RowSettings, block: TuneBlock, point: Mapping[str, Any], names: Sequence[str]
) -> TunedRow:
    name, where = names[0], f"{settings.where}: tune: {names[0]}"
    spaces = block.list_spaces(names)
    overridden = {setting.key for setting in settings.fixed}
    for key in spaces:
        if key in overridden:
            raise UsageError(
                f"override '{key}': {settings.where} searches it. Remove the override, or write "
                "another matrix."
            )
        if key in point:
            raise UsageError(
                f"{where}: '{key}' is searched, but the row sets it. Remove one of the two."
            )
    of_row = [*settings.base, *_make_settings({k: v for k, v in point.items() if k != LABEL})]
    of_trials = _make_settings(block.base)
    evaluation = _make_settings(block.selection.settings)

    def compose_trial(values: Mapping[str, Any]) -> RunSpec:
        chosen = _make_settings(values)
        return settings.composer.spec(
            [*of_row, *of_trials, *chosen, *settings.fixed, *evaluation], where
        )

    def compose_final(values: Mapping[str, Any]) -> RunSpec:
        chosen = _make_settings(values)
        run_name = f"{settings.where}: {name}"
        spec = settings.composer.spec([*of_row, *chosen, *settings.fixed], run_name)
        check_values(spec, run_name)
        return spec

    if block.trials:
        drawn = draw_settings(spaces, block.trials, block.seed, where)
    else:
        drawn = list_grid(spaces, where)
    specs = _compose_trials(compose_trial, spaces, drawn, block.halving.rungs, where)
    _check_selection(specs[0], block, f"{settings.where}: tune.select")
    check_halving(block.halving, len(drawn), specs[0], where)
    budgets = {(spec.schedule.iterations, spec.schedule.batch_size) for spec in specs}
    if len(budgets) > 1:
        shown = " and ".join(f"{a} iterations of {b} images" for a, b in sorted(budgets)[:2])
        raise UsageError(
            f"{where}: the searched schedules have different budgets ({shown}). Set "
            "schedule.iterations and schedule.batch_size in tune.base."
        )
    axes = {name: point.get(name, "") for name in settings.axis_names}
    trials = tuple(
        _make_trial(number, values, spec, {**axes, TRIAL: number, **values}, block.halving.rungs)
        for number, (values, spec) in enumerate(zip(drawn, specs, strict=True), 1)
    )
    row = TunedRow(name, axes, spaces, trials, compose_final)
    # The final run is composed and checked too, before a trial is trained.
    for spec in (specs[0], row.example):
        _refuse_coupled_decay(spec, spaces, where)
    return row


def _make_trial(
    number: int,
    values: dict[str, Any],
    spec: RunSpec,
    axes: dict[str, Any],
    rungs: Sequence[int],
) -> Trial:
    starts = (0, *rungs)
    early = tuple(
        PlannedRun(end_early(spec, end), axes, start)
        for start, end in zip(starts, rungs, strict=False)
    )
    return Trial(number, values, PlannedRun(spec, axes, starts[-1]), early)


def _compose_trials(
    compose: Any,
    spaces: Mapping[str, Any],
    drawn: Sequence[dict[str, Any]],
    rungs: Sequence[int],
    where: str,
) -> list[RunSpec]:
    """Compose the trials of a row, and check the ends of each space too."""
    first = compose(drawn[0])
    keys = [key for key in spaces if _is_number_field(first, key)]
    # Composing takes milliseconds, and 1,000 trials are usual. Numbers are replaced directly, if
    # that gives the same spec: no other value may be derived from one of them.
    ends = {key: {**drawn[0], key: spaces[key].list_ends()[-1]} for key in keys}
    direct = {
        k for k, values in ends.items() if _replace(first, values, [k], where) == compose(values)
    }
    checked = [
        {**drawn[0], key: value} for key, space in spaces.items() for value in space.list_ends()
    ]
    bases: dict[str, RunSpec] = {}

    def make(values: dict[str, Any]) -> RunSpec:
        others = repr([(key, value) for key, value in values.items() if key not in direct])
        if others not in bases:
            bases[others] = compose(values)
        spec = _replace(bases[others], values, direct, where)
        check_values(spec, where)
        return spec

    for values in checked:
        spec = make(values)
        for rung in (r for r in rungs if r < spec.schedule.iterations):
            check_values(end_early(spec, rung), f"{where}: the rung {rung}")
    return [make(values) for values in drawn]


def _is_number_field(spec: RunSpec, key: str) -> bool:
    """Whether a key is a number in a part of a spec, which other parts do not depend on."""
    part, _, name = key.partition(".")
    cls: Any = type(getattr(spec, part, None))
    types = field_types(cls) if "." in key else {}
    # Contrast has values that are refused together with others.
    return part != "contrast" and types.get(name) in (int, float, bool)


def _replace(spec: RunSpec, values: Mapping[str, Any], keys: Iterable[str], where: str) -> RunSpec:
    """Replace numbers of a spec."""
    changes: dict[str, dict[str, Any]] = {}
    for key in keys:
        part, _, name = key.partition(".")
        cls: Any = type(getattr(spec, part))
        bounds = cls.__dataclass_fields__[name].metadata
        value = convert(field_types(cls)[name], values[key], f"{where}: {key}", bounds)
        changes.setdefault(part, {})[name] = value
    parts = {
        part: dataclasses.replace(getattr(spec, part), **fields) for part, fields in changes.items()
    }
    return dataclasses.replace(spec, **parts)


def _check_selection(spec: RunSpec, block: TuneBlock, where: str) -> None:
    on, train = block.selection.on, spec.dataset.train_split
    if on == train:
        raise UsageError(
            f"{where}.on: the trials are trained on {train}, so it cannot select settings. Set "
            f"{HOLDOUT}, or another split."
        )


def _refuse_coupled_decay(spec: RunSpec, spaces: Mapping[str, Any], where: str) -> None:
    """Refuse a multiplier of the head's learning rate that changes the decay of its norms too.

    mmengine uses one rule per parameter, and that of the head replaces that of the recipe's norms.
    """
    wrapper = read_values(spec, "schedule").get("optim_wrapper") or {}
    rules = (wrapper.get("paramwise_cfg") or {}).get("custom_keys") or {}
    is_coupled = "norm" in rules and spec.schedule.norm_decay == "recipe"
    if "schedule.head_lr_mult" in spaces and is_coupled:
        raise UsageError(
            f"{where}: schedule.head_lr_mult would change the weight decay of norms too, because "
            "schedule.norm_decay is recipe. Set schedule.norm_decay: never in base."
        )


def _refuse_unequal_overrides(settings: RowSettings, rows: Sequence[TunedRow]) -> None:
    """Refuse axes of overrides that give trials different budgets."""
    images = {row.budgets[1] for row in rows}
    if len(images) == 1:
        return
    axes = [key for key in BUDGET_KEYS if key in settings.axis_names]
    if axes:
        raise UsageError(
            f"{settings.where}: tune: the axis {axes[0]} gives the trials of some rows a larger "
            f"budget. Set {axes[0]} in tune.base, or remove the axis."
        )
