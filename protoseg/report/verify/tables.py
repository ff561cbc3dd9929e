"""Committed tables against the records: each is made anew in memory and compared cell by cell."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from protoseg.config.matrix import Matrix
from protoseg.errors import ProtosegError
from protoseg.report.formats.files import contents
from protoseg.report.tables.benchmarks import latency_contents, read_run
from protoseg.report.tables.builder import build_table
from protoseg.report.verify import table_diff
from protoseg.report.verify.check import Check
from protoseg.report.verify.records import KEPT, some
from protoseg.runs.store import RecordStore

PER_CLASS = "_per_class"


def check_tables(
    results: Path, matrices: Mapping[str, Matrix], broken: Mapping[str, str], all_of_it: bool
) -> list[Check]:
    """Rebuild the tables of matrices from ``results/records`` alone, and compare.

    Args:
        matrices: name -> matrix.
        broken: name -> why a matrix could not be read.
        all_of_it: also look at the tables that no matrix here explains, and at benchmarks.
    """
    tables = Check("tables", "files rebuilt from the records alone")
    folder = results / "tables"
    committed = kept_files(folder)
    named: dict[str, list[Path]] = {}
    for path in committed:
        named.setdefault(_table_name(path, matrices), []).append(path)
    for name, matrix in matrices.items():
        if name in named:
            _check_table(results, matrix, named.pop(name), tables)
        elif not all_of_it:
            tables.notes.append(f"{name}: no table of it lies in results/tables")
    if not all_of_it:
        return [tables]
    for name, paths in named.items():
        files = ", ".join(path.name for path in paths)
        if name in broken:
            tables.problem(f"tables/{name}", f"can not be rebuilt: {broken[name]}")
        elif paths[0].suffix in table_diff.READERS:
            tables.problem(f"tables/{name}", f"no matrix of this name makes it ({files}).")
        else:
            tables.notes.append(f"not a table: {files}")
    others = [path.name for path in sorted(folder.glob("*/"))]
    if others:
        tables.notes.append(f"not looked at: {some(others)} (tables of changed matrices)")
    return [tables, _check_benchmarks(results / "benchmarks")]


def _check_table(results: Path, matrix: Matrix, paths: list[Path], check: Check) -> None:
    store = RecordStore([results / "records"], None)
    try:
        table = build_table(matrix, store, results / "published")
        per_class = any(path.stem.endswith(PER_CLASS) for path in paths)
        made = contents(table, per_class)
    except ProtosegError as error:
        check.problem(f"tables/{matrix.name}", f"can not be rebuilt: {error}")
        return
    labels = sum(column.kind == "label" for column in table.header)
    _compare(results / "tables", {path.name for path in paths}, made, labels, check)
    folder = results / "records"
    absent = [r.run_id for r in matrix.runs if not (folder / f"{r.run_id}.json").exists()]
    if absent:
        check.notes.append(
            f"{matrix.name}: {len(absent)} of its runs have no record: {some(absent)}"
        )


def _check_benchmarks(folder: Path) -> Check:
    check = Check("benchmarks", "files rebuilt from the saved runs")
    left = {path.name for path in kept_files(folder) if path.suffix in table_diff.READERS}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_bytes())
            if not isinstance(content, dict) or "cases" not in content:
                check.notes.append(f"{path.name}: no saved run of `make bench`, not rebuilt")
                left -= {f"{path.stem}{ending}" for ending in table_diff.READERS}
                continue
            made = latency_contents(path, read_run(path))
        except ProtosegError as error:
            check.problem(f"benchmarks/{path.name}", str(error).partition(": ")[2])
            continue
        except (ValueError, TypeError, KeyError, AttributeError, LookupError) as error:
            problem = f"damaged: {type(error).__name__}: {error}."
            check.problem(f"benchmarks/{path.name}", problem)
            continue
        present = {name for name in made if name in left}
        left -= present
        _compare(folder, present, made, 1, check)
    for name in sorted(left):
        check.problem(f"benchmarks/{name}", "no saved run of this name makes it.")
    return check


def _compare(
    folder: Path, present: Iterable[str], made: Mapping[str, str], labels: int, check: Check
) -> None:
    """Compare the files of one table, and name those that are missing."""
    files = set(present)
    for name, rebuilt in made.items():
        shown = f"{folder.name}/{name}"
        if name not in files:
            check.problem(shown, "is missing; the other forms of this table are here.")
            continue
        check.count += 1
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            check.problem(shown, f"can not be read: {error.strerror or error}.")
            continue
        committed = content.decode("utf-8", "backslashreplace")
        problems, _ = table_diff.compare(shown, committed, rebuilt, labels)
        check.problems += problems
    for name in sorted(files - set(made)):
        check.problem(f"{folder.name}/{name}", "the records give no such file.")


def table_names(folder: Path) -> set[str]:
    """What the files of a folder of tables may be named after."""
    names = {path.stem for path in kept_files(folder)}
    return names | {name.removesuffix(PER_CLASS) for name in names}


def _table_name(path: Path, matrices: Mapping[str, Matrix]) -> str:
    """The matrix that a file of results/tables is of, by its name."""
    name = path.stem
    if path.suffix == ".csv" and name.endswith(PER_CLASS) and name not in matrices:
        return name.removesuffix(PER_CLASS)
    return name


def kept_files(folder: Path) -> list[Path]:
    """The files of a folder, without hidden ones and those that git is told to ignore."""
    if not folder.is_dir():
        return []
    paths = [p for p in sorted(folder.iterdir()) if p.is_file() and p.name not in KEPT]
    paths = [path for path in paths if not path.name.startswith(".")]
    listed = "\0".join(path.name for path in paths).encode()
    try:
        # Without git, or outside a repository, everything counts.
        command = ["git", "-C", str(folder), "check-ignore", "-z", "--stdin"]
        result = subprocess.run(command, input=listed, capture_output=True, timeout=60)
        ignored = set(result.stdout.decode().split("\0")) if result.returncode == 0 else set()
    except (OSError, subprocess.TimeoutExpired):
        ignored = set()
    return [path for path in paths if path.name not in ignored]
