"""Reads the published numbers of a table; they are never mixed with measured values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from protoseg.config.matrix import Matrix, PublishedSpec
from protoseg.errors import ProtosegError, UsageError, describe_unknown_name
from protoseg.report import wording
from protoseg.report.metrics import METRICS


@dataclass(frozen=True)
class PublishedNumbers:
    """The rows of a published table that a matrix is compared with."""

    spec: PublishedSpec
    path: Path
    source: str
    data: str
    """Data set and split of the numbers, as named in the file; may be empty."""
    rows: tuple[dict[str, Any], ...]
    names: Mapping[str, str]
    measured_as: frozenset[str]
    """Our names of that data set and split; other runs get no verdict."""

    def title(self, main: str) -> str:
        """Return the title of the column of published values.

        Args:
            main: the main metric of the table; another metric is named in the title.
        """
        value = self.spec.value
        if value == main:
            return "Published"
        metric = METRICS[value].title if value in METRICS else wording.clean_text(value)
        return f"Published {metric}"

    def find(self, axes: Mapping[str, Any]) -> dict[str, Any] | None:
        """Find the published row of a setting; None without one.

        Raises:
            UsageError: several rows with different values match.
        """
        fitting = [row for row in self.rows if self._fits(row, axes)]
        if len({wording.format_value(row.get(self.spec.value)) for row in fitting}) > 1:
            fields = sorted({key for row in fitting for key in row} - {self.spec.value})
            values = ", ".join(f"{key}={wording.format_value(axes[key])}" for key in axes)
            raise UsageError(
                f"{self.path}: {len(fitting)} published rows match {values or 'a cell'}. "
                f"Add a field to table.published.match; fields: {', '.join(fields)}."
            )
        return fitting[0] if fitting else None

    def parameters(self, axes: Mapping[str, Any]) -> float | None:
        """Return the published number of parameters of a setting, in millions; None without one."""
        row = self.find(axes) if self.spec.parameters else None
        parsed = parse_printed(row.get(self.spec.parameters)) if row is not None else None
        return None if parsed is None else parsed[1]

    def references(self, measured: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """List the published rows without a measured setting; empty if rows have no labels."""
        if not self.spec.labels:
            return []
        settings = list(measured)
        return [row for row in self.rows if not any(self._fits(row, axes) for axes in settings)]

    def labels(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the texts of the label columns of a row."""
        return tuple(_label(row.get(field)) for field in self.spec.labels)

    def _fits(self, row: dict[str, Any], axes: Mapping[str, Any]) -> bool:
        for axis, field in self.spec.match.items():
            if axis not in axes or field not in row:
                return False
            value, name = axes[axis], wording.name_value(axis, axes[axis], self.names)
            ours = {wording.format_value(value).casefold(), name.casefold()}
            if wording.format_value(row[field]).casefold() not in ours:
                return False
        return True


def parse_printed(value: Any) -> tuple[str, float] | None:
    """Return a published number as printed and as a value; None if it is not a number.

    A number that the file quotes as text keeps its trailing zeros.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return (str(value).replace("-", wording.MINUS), number) if math.isfinite(number) else None


def count_decimals(value: Any) -> int:
    """Count the printed decimals of a published number."""
    return len(str(value).partition(".")[2])


def _label(value: Any) -> str:
    if isinstance(value, bool):
        return wording.TICK if value else ""
    return wording.clean_text(wording.format_value(value))


def find_published_file(folders: Sequence[Path], name: str) -> Path:
    """Find a file of published numbers; its path in the first folder if no folder has it."""
    paths = [folder / name for folder in folders]
    return next((path for path in paths if path.is_file()), paths[0])


def load_published(matrix: Matrix, folders: Sequence[Path]) -> PublishedNumbers | None:
    """Read the published numbers of a matrix; None if its table has no ``published``.

    Args:
        folders: folders of published numbers; the first that has the file.

    Raises:
        UsageError: no such file, part, field or axis.
        ProtosegError: the content of the file is wrong.
    """
    spec = matrix.table.published
    if spec is None:
        return None
    where = f"{matrix.name}: table.published"
    path = find_published_file(folders, f"{spec.file}.yaml")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        known = {p.stem for folder in folders for p in folder.glob("*.yaml")}
        raise UsageError(describe_unknown_name("file", spec.file, where, known)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProtosegError(f"{path}: not valid YAML ({error}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("source"), str):
        raise ProtosegError(f"{path}: has no 'source'. Name the publication of its numbers.")
    rows = _rows(content, spec, where, path)
    fields = {key for row in rows for key in row}
    for axis, field in spec.match.items():
        if axis not in matrix.axes:
            raise UsageError(describe_unknown_name("axis", axis, f"{where}.match", matrix.axes))
        if field not in fields:
            raise UsageError(describe_unknown_name("field", field, f"{where}.match.{axis}", fields))
    for key in ("value", "parameters", "brackets"):
        field = getattr(spec, key)
        if field and field not in fields:
            raise UsageError(describe_unknown_name("field", field, f"{where}.{key}", fields))
    for field in spec.labels:
        if field not in fields:
            raise UsageError(describe_unknown_name("field", field, f"{where}.labels", fields))
    for number, row in enumerate(rows, 1):
        for field in filter(None, (spec.value, spec.parameters, spec.brackets)):
            if row.get(field) is not None and parse_printed(row[field]) is None:
                raise ProtosegError(
                    f"{path}: row {number}: {field}: expected a number, or null for an unknown "
                    f"value, found '{wording.clean_text(str(row[field]))}'."
                )
    data = " ".join(str(content[key]) for key in ("dataset", "split") if content.get(key))
    return PublishedNumbers(
        spec,
        path,
        wording.clean_text(content["source"]),
        wording.clean_text(data),
        rows,
        matrix.table.names,
        _measured_as(content, path) or frozenset([data]),
    )


def _measured_as(content: dict[str, Any], path: Path) -> frozenset[str]:
    names = content.get("measured_as") or []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ProtosegError(
            f"{path}: measured_as: expected data sets with their split, e.g. "
            f"[ade20k validation], found {names!r}."
        )
    return frozenset(names)


def _rows(
    content: dict[str, Any], spec: PublishedSpec, where: str, path: Path
) -> tuple[dict[str, Any], ...]:
    parts = content.get("parts") or {}
    if not isinstance(parts, dict) or not all(
        isinstance(rows, list | None) for rows in (content.get("rows"), *parts.values())
    ):
        raise ProtosegError(f"{path}: expected 'rows' with a list, or 'parts' with a list each.")
    parts = {**parts, "": content.get("rows")}
    if spec.part == "rows":
        parts["rows"] = content.get("rows")
    rows = parts.get(spec.part)
    if not isinstance(rows, list):
        known = [part for part in parts if part]
        raise UsageError(describe_unknown_name("part", spec.part, f"{where}.part", known))
    return tuple(row for row in rows if isinstance(row, dict))
