"""Reads a matrix file and expands it into runs.

    title: ...
    base:    {dataset: camvid, schedule.iterations: 300}     settings of all runs
    grid:    {method.num_prototypes: [1, 5, 10]}             all combinations
    zip:     {backbone: [a, b], decoder: [c, d]}             axes that advance together
    rows:    [{label: ..., method: parametric}, ...]         explicit rows
    exclude: [{method: parametric, method.num_prototypes: 5}]
    seeds:   [0, 1, 2]
    table:   {rows, columns, metrics, baseline, ...}
    tune:    {search, trials, select, ...}                   see `protoseg.config.tuning.block`

Rows, zip and grid multiply: each explicit row is combined with each step of the zip and each point
of the grid. Values are YAML, or a text in Hydra's sweep grammar (``1,5,10``).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from protoseg.config.compose import Composer
from protoseg.config.fields import build, convert
from protoseg.config.hierarchy.table_trees import read_trees
from protoseg.config.hydra.folders import ConfigFolders
from protoseg.config.hydra.hydra_errors import describe_read_error
from protoseg.config.matrix import LABEL, Matrix, PlannedRun, TableSpec, Tuning
from protoseg.config.matrix_bundles import find_matrix_file, list_matrices_and_bundles
from protoseg.config.overrides import Setting, parse_overrides, parse_sweep
from protoseg.config.schema import RunSpec
from protoseg.config.texts.matrix_text import type_of_key
from protoseg.config.texts.table_keys import check_table, resolve_names
from protoseg.config.texts.yaml_text import read_nodes, restore_texts
from protoseg.config.tuning.block import read_block
from protoseg.config.tuning.expand import RowSettings, make_tuning
from protoseg.config.validation import check_values
from protoseg.errors import UsageError, describe_unknown_name

KEYS = ("title", "base", "grid", "zip", "rows", "exclude", "seeds", "table", "tune")
SEED = "seed"


def list_matrices(experiments: ConfigFolders) -> list[str]:
    """List the matrices of the folders of experiments, sorted."""
    return list_matrices_and_bundles(experiments)[0]


def load_matrix(composer: Composer, name: str, overrides: Iterable[str] = ()) -> Matrix:
    """Read and expand a matrix.

    Args:
        composer: composes the specs from the config groups.
        name: name of a file in ``matrices/``, or path of a YAML file.
        overrides: in Hydra's grammar; they replace the values of the file. A sweep such as
            ``seed=0,1`` replaces the seeds; ``method.momentum=0.9,0.99`` adds an axis.

    Raises:
        UsageError: an unknown key or value, an empty list, or two rows that are the same run.
    """
    path, overrides = find_matrix_file(composer.folders, name), tuple(overrides)
    content = _read_file(path)
    where = path.name
    for key in content:
        if key not in KEYS:
            raise UsageError(describe_unknown_name("key", str(key), where, KEYS))
    fixed, axes, seeds = _read_overrides(overrides)
    file_grid = _read_axes(content.get("grid"), f"{where}: grid")
    grid = {**file_grid, **axes}
    zipped = _read_axes(content.get("zip"), f"{where}: zip")
    rows = _read_rows(content.get("rows"), where)
    if len({len(values) for values in zipped.values()}) > 1:
        lengths = ", ".join(f"{key} has {len(values)}" for key, values in zipped.items())
        raise UsageError(f"{where}: zip: all axes need the same number of values; {lengths}.")
    row_keys = list(dict.fromkeys(key for row in rows for key in row))
    names = list(dict.fromkeys([*row_keys, *zipped, *grid]))
    if len(names) < len(row_keys) + len(zipped) + len(grid):
        repeated = next(n for n in names if (n in row_keys) + (n in zipped) + (n in grid) > 1)
        raise UsageError(
            f"{where}: '{repeated}' is set in two of rows, zip, grid and overrides; keep one."
        )
    for setting in fixed:
        if setting.key in names:
            raise UsageError(
                f"override '{setting.key}': {where} sets it for each run; "
                "change it there, or write another matrix."
            )
    base = [
        Setting(str(k), v) for k, v in _check_mapping(content.get("base"), where, "base").items()
    ]
    if SEED in names or any(setting.key == SEED for setting in base):
        raise UsageError(f"{where}: 'seed' cannot be set here; list the seeds under 'seeds'.")
    seeds = seeds or _read_seeds(content.get("seeds"), f"{where}: seeds")
    patterns = _read_patterns(content.get("exclude"), where, names)
    all_points = list(_expand_points(rows, zipped, grid))
    # A name may also be of a value that an override replaces, or that is excluded.
    named_points = [*all_points, *({key: v} for key, values in file_grid.items() for v in values)]
    for pattern in patterns:
        if not any(_matches(point, pattern) for point in all_points):
            raise UsageError(
                f"{where}: exclude: {_describe(pattern)} matches no run; correct or remove it."
            )
    points = [p for p in all_points if not any(_matches(p, pattern) for pattern in patterns)]
    if not points:
        raise UsageError(f"{where}: every run is excluded; keep at least one.")
    axis_names = _list_table_axes(names, rows)
    tuning: Tuning | None = None
    runs: tuple[PlannedRun, ...] = ()
    if "tune" in content:
        block = read_block(content["tune"], f"{where}: tune")
        settings = RowSettings(composer, where, base, fixed, axis_names)
        tuning = make_tuning(settings, block, points, seeds)
    else:
        runs = _make_runs(composer, where, base, points, fixed, seeds, axis_names)
    table = build(TableSpec, content.get("table") or {}, f"{where}: table")
    check_table(table, axis_names, points, where)
    values = {name: [point[name] for point in named_points if name in point] for name in names}
    table = dataclasses.replace(
        table, names=resolve_names(table.names, values, f"{where}: table.names")
    )
    title = str(content.get("title") or path.stem)
    matrix = Matrix(path.stem, title, runs, table, axis_names, overrides, tuning)
    datasets = (spec.dataset for spec in matrix.list_specs())
    trees = read_trees(composer.hierarchies, matrix.list_metrics(), datasets, names, where)
    return dataclasses.replace(matrix, trees=trees)


def _make_runs(
    composer: Composer,
    where: str,
    base: list[Setting],
    points: list[dict[str, Any]],
    fixed: list[Setting],
    seeds: list[int],
    axis_names: tuple[str, ...],
) -> tuple[PlannedRun, ...]:
    runs: list[PlannedRun] = []
    seen: dict[str, dict[str, Any]] = {}
    for number, point in enumerate(points, 1):
        axes = [Setting(key, value) for key, value in point.items() if key != LABEL]
        run_name = f"{where}: {point.get(LABEL) or f'run {number}'}"
        spec = composer.spec([*base, *axes, *fixed], run_name)
        check_values(spec, run_name)
        table_axes = {name: point.get(name, "") for name in axis_names}
        for seed in seeds:
            run = PlannedRun(dataclasses.replace(spec, seed=seed), table_axes)
            if run.run_id in seen:
                raise UsageError(
                    f"{where}: {_describe(seen[run.run_id])} and {_describe(point)} are the same "
                    f"run ({run.run_id}); remove one, or make them differ."
                )
            seen[run.run_id] = point
            runs.append(run)
    return tuple(runs)


def _describe(point: Mapping[str, Any]) -> str:
    if point.get(LABEL):
        return f"'{point[LABEL]}'"
    return "{" + ", ".join(f"{key}: {value}" for key, value in point.items()) + "}"


def _read_file(path: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        content = restore_texts(content, read_nodes(path), type_of_key)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {describe_read_error(error)}") from error
    return {str(k): v for k, v in _check_mapping(content, path.name, "the file").items()}


def _check_mapping(value: Any, where: str, name: str) -> Mapping[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: {name}: expected keys and values, found {value!r}.")
    return value


def _read_axes(value: Any, where: str) -> dict[str, list[Any]]:
    axes: dict[str, list[Any]] = {}
    for key, entry in _check_mapping(value, where, "axes").items():
        values = parse_sweep(str(key), entry) if isinstance(entry, str) else entry
        if not isinstance(values, list):
            values = [values]
        if not values:
            raise UsageError(f"{where}.{key}: no values; give at least one, or remove the axis.")
        axes[str(key)] = values
    return axes


def _read_rows(value: Any, where: str) -> list[dict[str, Any]]:
    if value is None:
        return [{}]
    if not isinstance(value, list) or not value:
        raise UsageError(f"{where}: rows: expected a list of at least one row, found {value!r}.")
    rows = [{str(k): v for k, v in _check_mapping(row, where, "a row").items()} for row in value]
    labels = [row.get(LABEL) for row in rows]
    if any(label is None for label in labels):
        raise UsageError(f"{where}: rows: each row needs a label.")
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f"{where}: rows: the label '{label}' is used twice; rename one.")
    return rows


def _read_seeds(value: Any, where: str) -> list[int]:
    seeds = [0] if value is None else value
    if isinstance(seeds, int):
        seeds = [seeds]
    if not isinstance(seeds, list) or not seeds:
        raise UsageError(f"{where}: expected a list of whole numbers from 0, found {value!r}.")
    field = RunSpec.__dataclass_fields__[SEED]
    for index, seed in enumerate(seeds):
        convert(int, seed, f"{where}[{index}]", field.metadata)
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"{where}: {value} has a seed twice; remove one.")
    return list(seeds)


def _read_patterns(value: Any, where: str, names: list[str]) -> list[dict[str, Any]]:
    if value is None:
        return []
    patterns = value if isinstance(value, list) else [value]
    for pattern in patterns:
        for key in _check_mapping(pattern, where, "exclude"):
            if key not in names:
                raise UsageError(
                    describe_unknown_name("axis", str(key), f"{where}: exclude", names)
                )
    return [dict(pattern) for pattern in patterns if pattern]


def _matches(point: Mapping[str, Any], pattern: Mapping[str, Any]) -> bool:
    return all(
        point.get(key) in (value if isinstance(value, list) else [value])
        for key, value in pattern.items()
    )


def _read_overrides(
    texts: Iterable[str],
) -> tuple[list[Setting], dict[str, list[Any]], list[int]]:
    """Sort overrides into fixed settings, axes and seeds."""
    fixed: list[Setting] = []
    axes: dict[str, list[Any]] = {}
    seeds: list[int] = []
    for key, settings in parse_overrides(texts):
        values = [setting.value for setting in settings]
        if key == "seed":
            seeds = _read_seeds(values, "override seed")
        elif key == "tune" or key.startswith("tune."):
            raise UsageError(
                f"override '{key}': the search cannot be changed by an override, because trials "
                "would be unequal. Write another matrix."
            )
        elif len(settings) > 1:
            axes[key] = values
        else:
            fixed += settings
    return fixed, axes, seeds


def _expand_points(
    rows: list[dict[str, Any]], zipped: dict[str, list[Any]], grid: dict[str, list[Any]]
) -> Iterator[dict[str, Any]]:
    steps: list[dict[str, Any]] = [
        dict(zip(zipped, values, strict=True)) for values in zip(*zipped.values(), strict=True)
    ] or [{}]
    for row, step in itertools.product(rows, steps):
        for values in itertools.product(*grid.values()):
            yield {**row, **step, **dict(zip(grid, values, strict=True))}


def _list_table_axes(names: list[str], rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """List the axes of the table. The label of a row replaces the keys that the row sets."""
    row_keys = {key for row in rows for key in row if key != LABEL}
    return tuple(name for name in names if name not in row_keys)
