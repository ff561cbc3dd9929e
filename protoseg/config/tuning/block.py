"""Reads the block ``tune`` of a matrix: what is searched, how often, and how settings are selected.

tune:
  search: {schedule.learning_rate: {log_uniform: [3e-4, 1e-2]}}   # for every row
  rows:   {"ProtoSeg*": {method.momentum: [0.9, 0.99, 0.999]}}    # for some rows only
  trials: 12                                    # of each row; or grid: true
  halving: {rungs: [250, 500], factor: 2}       # end trials early; without it all train to the end
  base:   {schedule.iterations: 1000, seed: 100}        # settings of the trials only
  select: {metric: miou, on: holdout, share: 0.2, blocks: 30, gap: 10}
  seed:   0                                             # of the search
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from protoseg.config.holdout.settings import HOLDOUT
from protoseg.config.tuning.halving import Halving, read_halving
from protoseg.config.tuning.search_space import Space, read_space
from protoseg.errors import UsageError, describe_unknown_name, join_names

KEYS = ("search", "rows", "trials", "grid", "halving", "base", "select", "seed")
HOLDOUT_KEYS = ("share", "blocks", "gap", "pattern", "list", "list_sha256", "seed")
SELECT_KEYS = ("metric", "on", *HOLDOUT_KEYS)
MOST_TRIALS = 10_000
FIXED_KEYS = {
    "evaluation": "belongs to the evaluation, which tune.select sets",
    "dataset": "belongs to the data set, which all trials share",
    "seed": "is the seed; tune.base sets the one of all trials, and seeds those of the final runs",
    "schedule.iterations": "is the budget, which is equal for all trials",
    "schedule.batch_size": "is a part of the budget, which is equal for all trials",
    "schedule.stop_after": "is the budget, which tune.halving sets",
    "method.scales": "belongs to the evaluation of pseudo-masks",
    "method.flip": "belongs to the evaluation of pseudo-masks",
}
"""Key, or group of keys, that must not be searched -> why."""


@dataclass(frozen=True)
class Selection:
    """How the best trial of a row is selected."""

    metric: str = "miou"
    on: str = HOLDOUT
    """``holdout``, or the name of a split."""
    holdout: tuple[tuple[str, Any], ...] = ()
    """Settings of the holdout, see `protoseg.config.holdout`."""

    @property
    def settings(self) -> dict[str, Any]:
        """Key -> value of the evaluation of a trial."""
        return {"evaluation.split": self.on, "evaluation.holdout": dict(self.holdout)}


@dataclass(frozen=True)
class TuneBlock:
    """The block ``tune`` of a matrix."""

    search: dict[str, Space]
    """Key -> its space in every row."""
    rows: dict[str, dict[str, Space]]
    """Pattern of row names -> key -> its space in these rows."""
    trials: int
    """Trials of each row; 0 for a full grid."""
    base: dict[str, Any]
    """Key -> value of the trials, in place of those of the row."""
    selection: Selection
    seed: int
    content: dict[str, Any]
    """The block as plain data."""
    halving: Halving
    """Which trials end early."""

    def list_spaces(self, names: Iterable[str]) -> dict[str, Space]:
        """List the spaces of a row: those of every row, then those of matching patterns.

        Args:
            names: of the row; a pattern matches if it matches one of them.
        """
        names, spaces = list(names), dict(self.search)
        for pattern, of_rows in self.rows.items():
            if any(fnmatchcase(name, pattern) for name in names):
                spaces |= of_rows
        return spaces


def read_block(value: Any, where: str) -> TuneBlock:
    """Read the block ``tune``.

    Args:
        value: plain data of the file.
        where: place named in error messages.

    Raises:
        UsageError: an unknown key, an empty search, or a value out of range.
    """
    block = _check_mapping(value, where, "settings of the search")
    if isinstance(block.get("select"), Mapping):
        block["select"] = _check_mapping(block["select"], f"{where}.select", "settings")
    for key in block:
        if key not in KEYS:
            raise UsageError(describe_unknown_name("key", key, where, KEYS))
    search = _read_spaces(block.get("search"), f"{where}.search")
    patterns = _check_mapping(block.get("rows") or {}, f"{where}.rows", "patterns of row names")
    rows = {
        name: _read_spaces(of_rows, f"{where}.rows.{name}") for name, of_rows in patterns.items()
    }
    if not search and not any(rows.values()):
        raise UsageError(
            f"{where}: no key is searched. Add search, e.g. "
            "{schedule.learning_rate: {log_uniform: [1e-4, 1e-2]}}."
        )
    return TuneBlock(
        search=search,
        rows=rows,
        trials=_read_trials(block, where),
        base=_read_base(block.get("base"), {*search, *_list_keys(rows)}, f"{where}.base"),
        selection=_read_selection(block.get("select"), f"{where}.select"),
        seed=_read_whole_number(block.get("seed", 0), f"{where}.seed", 0, 2**31 - 1),
        content=block,
        halving=read_halving(block.get("halving"), f"{where}.halving"),
    )


def check_patterns(block: TuneBlock, rows: Iterable[Iterable[str]], where: str) -> None:
    """Check that each pattern of the block matches a row.

    Args:
        block: the block.
        rows: the names of each row.
        where: place named in error messages.

    Raises:
        UsageError: a pattern matches no row.
    """
    names = [list(of_row) for of_row in rows]
    for pattern in block.rows:
        if not any(fnmatchcase(name, pattern) for of_row in names for name in of_row):
            known = join_names(of_row[0] for of_row in names)
            raise UsageError(
                f"{where}.rows: the pattern '{pattern}' matches no row. Rows: {known}. Correct or "
                "remove it."
            )


def _check_mapping(value: Any, where: str, content: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: expected {content}, found {value!r}.")
    # YAML 1.1 reads the key `on` as true.
    return {"on" if key is True else str(key): item for key, item in value.items()}


def _read_spaces(value: Any, where: str) -> dict[str, Space]:
    spaces = _check_mapping({} if value is None else value, where, "keys and their spaces")
    for key in spaces:
        reason = _find_reason(key)
        if reason:
            raise UsageError(f"{where}: '{key}' cannot be searched: it {reason}. Remove it.")
    return {key: read_space(space, f"{where}.{key}") for key, space in spaces.items()}


def _find_reason(key: str) -> str:
    """Why a key must not be searched; empty if it may be."""
    return FIXED_KEYS.get(key) or FIXED_KEYS.get(key.partition(".")[0], "")


def _list_keys(rows: Mapping[str, Mapping[str, Space]]) -> Iterator[str]:
    for spaces in rows.values():
        yield from spaces


def _read_trials(block: Mapping[str, Any], where: str) -> int:
    is_grid = block.get("grid", False)
    if not isinstance(is_grid, bool):
        raise UsageError(f"{where}.grid: expected true or false, found {is_grid!r}.")
    if is_grid and "trials" in block:
        raise UsageError(
            f"{where}: grid tries every combination, so trials has no effect. Keep one of the two."
        )
    if is_grid:
        return 0
    if "trials" not in block:
        raise UsageError(f"{where}: the number of trials is missing. Set trials, or grid: true.")
    return _read_whole_number(block["trials"], f"{where}.trials", 1, MOST_TRIALS)


def _read_base(value: Any, searched: set[str], where: str) -> dict[str, Any]:
    base = _check_mapping({} if value is None else value, where, "keys and values")
    for key in base:
        if key in searched:
            raise UsageError(f"{where}: '{key}' is searched too. Remove it here, or from search.")
        if key == "schedule.stop_after" or key.partition(".")[0] in ("evaluation", "dataset"):
            reason = _find_reason(key)
            raise UsageError(f"{where}: '{key}' cannot be set: it {reason}. Remove it.")
    return base


def _read_selection(value: Any, where: str) -> Selection:
    select = {**_check_mapping({} if value is None else value, where, "metric, split and holdout")}
    for key in select:
        if key not in SELECT_KEYS:
            raise UsageError(describe_unknown_name("key", key, where, SELECT_KEYS))
    metric, on = select.pop("metric", "miou"), select.pop("on", HOLDOUT)
    for name, text in (("metric", metric), ("on", on)):
        if not isinstance(text, str) or not text:
            raise UsageError(f"{where}.{name}: expected a name, found {text!r}.")
    if select and on != HOLDOUT:
        raise UsageError(
            f"{where}: {' and '.join(select)} would have no effect, because on is {on}. Set "
            f"on: {HOLDOUT}, or remove {'it' if len(select) == 1 else 'them'}."
        )
    if not select and on == HOLDOUT:
        raise UsageError(
            f"{where}: {HOLDOUT} needs a rule that groups the images. Add e.g. share: 0.2 and "
            "blocks: 30, or set on to the name of a split."
        )
    return Selection(metric, on, tuple(select.items()))


def _read_whole_number(value: Any, where: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UsageError(f"{where}: expected a whole number from {low} to {high}, found {value!r}.")
    return value
