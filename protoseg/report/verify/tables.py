"""Compares committed tables with the same tables rebuilt from the records in memory."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from protoseg.config.matrix import Matrix
from protoseg.errors import ProtosegError
from protoseg.report.curves import BEST, build_best_table
from protoseg.report.formats.files import render_files
from protoseg.report.split_table import ON, build_split_table, split_table_name
from protoseg.report.tables.benchmarks import read_benchmark_run, render_latency_files
from protoseg.report.tables.builder import build_table
from protoseg.report.tables.comparison_table import SUFFIX
from protoseg.report.tables.model import Table
from protoseg.report.tuning.choose import require_choice
from protoseg.report.verify.check import Check
from protoseg.report.verify.record_sources import Sources
from protoseg.report.verify.records import KEPT, join_first
from protoseg.report.verify.table_diff import TABLE_SUFFIXES, compare_table_files
from protoseg.runs.results.evaluation import EVALUATIONS
from protoseg.runs.store import RecordStore

PER_CLASS = "_per_class"
PARTS = (PER_CLASS, SUFFIX)
"""Endings of the names of files that belong to the table of the name before them."""


def check_tables(
    sources: Sources, matrices: Mapping[str, Matrix], broken: Mapping[str, str], all_of_it: bool
) -> list[Check]:
    """Rebuild the tables of matrices from their records and compare them with the files.

    Args:
        sources: the records, and the folder that contains ``tables`` and ``benchmarks``.
        matrices: name -> matrix.
        broken: name -> why a matrix cannot be read.
        all_of_it: also check tables without a matrix, and benchmarks.
    """
    tables = Check("tables", "files rebuilt from the records alone")
    folder = sources.results / "tables"
    committed = list_kept_files(folder)
    named: dict[str, list[Path]] = {}
    for path in committed:
        named.setdefault(_matrix_name(path, matrices), []).append(path)
    for name, matrix in matrices.items():
        if name + BEST in named:
            _check_table(sources, matrix, named.pop(name + BEST), tables, build_best_table)
        for other in [each for each in named if each.startswith(name + ON)]:
            split, variant = split_table_name(other, name)
            folders = [sources.results / EVALUATIONS]
            build = partial(build_split_table, split=split, folders=folders, variant=variant)
            _check_table(sources, matrix, named.pop(other), tables, build)
        if name in named:
            _check_table(sources, matrix, named.pop(name), tables)
        elif not all_of_it:
            tables.notes.append(f"{name}: has no table in results/tables")
    if not all_of_it:
        return [tables]
    for name, paths in named.items():
        files = ", ".join(path.name for path in paths)
        if name in broken:
            tables.problem(f"tables/{name}", f"cannot be rebuilt: {broken[name]}")
        elif paths[0].suffix in TABLE_SUFFIXES:
            tables.problem(f"tables/{name}", f"there is no matrix of this name ({files}).")
        else:
            tables.notes.append(f"not a table: {files}")
    others = [path.name for path in sorted(folder.glob("*/"))]
    if others:
        tables.notes.append(f"not checked: {join_first(others)} (tables made with overrides)")
    return [tables, _check_benchmarks(sources.results / "benchmarks")]


def _check_table(
    sources: Sources,
    matrix: Matrix,
    paths: list[Path],
    check: Check,
    build: Callable[[Matrix, RecordStore, Sequence[Path]], Table] = build_table,
) -> None:
    def compare_files(store: RecordStore, part: Check) -> None:
        try:
            require_choice(matrix)
            table = build(matrix, store, sources.published)
            per_class = any(path.stem.endswith(PER_CLASS) for path in paths)
            rebuilt = render_files(table, per_class)
        except ProtosegError as error:
            part.problem(f"tables/{matrix.name}", f"cannot be rebuilt: {error}")
            return
        labels = sum(column.kind == "label" for column in table.header)
        names = {path.name for path in paths}
        _compare_files(sources.results / "tables", names, rebuilt, labels, part)

    sources.compare(matrix, compare_files, check)
    missing = sources.list_missing(matrix)
    if missing:
        check.notes.append(
            f"{matrix.name}: {len(missing)} of its runs have no record: {join_first(missing)}"
        )


def _check_benchmarks(folder: Path) -> Check:
    check = Check("benchmarks", "files rebuilt from the saved runs")
    remaining = {path.name for path in list_kept_files(folder) if path.suffix in TABLE_SUFFIXES}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_bytes())
            if not isinstance(content, dict) or "cases" not in content:
                check.notes.append(f"{path.name}: no saved run of `make bench`, not rebuilt")
                remaining -= {f"{path.stem}{suffix}" for suffix in TABLE_SUFFIXES}
                continue
            rebuilt = render_latency_files(path, read_benchmark_run(path))
        except ProtosegError as error:
            check.problem(f"benchmarks/{path.name}", str(error).partition(": ")[2])
            continue
        except (ValueError, TypeError, KeyError, AttributeError, LookupError) as error:
            problem = f"damaged: {type(error).__name__}: {error}."
            check.problem(f"benchmarks/{path.name}", problem)
            continue
        present = {name for name in rebuilt if name in remaining}
        remaining -= present
        _compare_files(folder, present, rebuilt, 1, check)
    for name in sorted(remaining):
        check.problem(f"benchmarks/{name}", "there is no saved run of this name.")
    return check


def _compare_files(
    folder: Path, present: Iterable[str], rebuilt: Mapping[str, str], labels: int, check: Check
) -> None:
    """Compare the files of one table with the rebuilt ones, and report missing files."""
    files = set(present)
    for name, expected in rebuilt.items():
        file = f"{folder.name}/{name}"
        if name not in files:
            check.problem(file, "is missing; other formats of this table exist.")
            continue
        check.count += 1
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            check.problem(file, f"cannot be read: {error.strerror or error}.")
            continue
        committed = content.decode("utf-8", "backslashreplace")
        check.problems += compare_table_files(file, committed, expected, labels)
    for name in sorted(files - set(rebuilt)):
        check.problem(f"{folder.name}/{name}", "the records do not give this file.")


def list_table_names(folder: Path) -> set[str]:
    """List the names that may be matrices, from the files of a folder of tables."""
    names = {path.stem for path in list_kept_files(folder)}
    names |= {name.removesuffix(part) for name in names for part in PARTS}
    names |= {name.partition(ON)[0] for name in names}
    return names | {name.removesuffix(BEST) for name in names}


def _matrix_name(path: Path, matrices: Mapping[str, Matrix]) -> str:
    """Derive the name of the matrix from the name of a file of results/tables."""
    name = path.stem
    part = next((part for part in PARTS if name.endswith(part)), "")
    return name if name in matrices else name.removesuffix(part)


def list_kept_files(folder: Path) -> list[Path]:
    """List the files of a folder, without hidden files and files that git ignores."""
    if not folder.is_dir():
        return []
    paths = [p for p in sorted(folder.iterdir()) if p.is_file() and p.name not in KEPT]
    paths = [path for path in paths if not path.name.startswith(".")]
    listed = "\0".join(path.name for path in paths).encode()
    try:
        # Without git, or outside a repository, no file is ignored.
        command = ["git", "-C", str(folder), "check-ignore", "-z", "--stdin"]
        result = subprocess.run(command, input=listed, capture_output=True, timeout=60)
        ignored = set(result.stdout.decode().split("\0")) if result.returncode == 0 else set()
    except (OSError, subprocess.TimeoutExpired):
        ignored = set()
    return [path for path in paths if path.name not in ignored]
