"""``tables``, ``explain`` and ``compare``: from records alone to tables, and back to records."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoseg.cli.context import Context, part_of_one
from protoseg.config.load_matrix import load_matrix, matrix_names
from protoseg.errors import ProtosegError, UsageError, unknown
from protoseg.runs.record import publish

if TYPE_CHECKING:
    from protoseg.runs.store import RecordStore


def tables(context: Context) -> int:
    """Build the table of each matrix, print it, and write it in all forms.

    A word that ends in .json is a saved benchmark run: its latency tables are made.
    """
    saved = [word for word in context.words if word.endswith(".json")]
    if saved:
        return _latencies(context, saved)
    from protoseg.cli.views.table import render_table
    from protoseg.report.formats.files import to_csv, to_markdown, write_all
    from protoseg.report.tables.builder import build_table
    from protoseg.runs.store import RecordStore

    matrices, overrides = context.matrices()
    folder = Path(context.arguments.out or context.places.results / "tables")
    content: dict[str, list[dict[str, str]]] = {}
    written: dict[str, list[str]] = {}
    warnings: list[str] = []
    for matrix in matrices:
        if context.arguments.keep_records:
            warnings += _keep_records(context, [run.run_id for run in matrix.runs])
        store = RecordStore(context.record_folders, context.places.runs)
        table = build_table(matrix, store, context.places.results / "published")
        # With overrides it is another table; it must not take the place of the matrix's own.
        place = folder / variant(overrides) if overrides else folder
        files = write_all(table, place)
        written[matrix.name] = [shown(path) for path in files]
        warnings += store.warnings
        if context.json:
            content[matrix.name] = list(csv.DictReader(io.StringIO(to_csv(table))))
        elif context.arguments.markdown:
            print(to_markdown(table))
        else:
            context.console.print(render_table(table))
            context.console.print(f"written: {', '.join(written[matrix.name])}\n", markup=False)
    if context.json:
        context.print_json({"tables": content, "written": written, "warnings": warnings})
    return context.print_errors(list(dict.fromkeys(warnings)))


def _latencies(context: Context, words: list[str]) -> int:
    """The latency tables of saved benchmark runs, beside them or in the folder that is named."""
    from protoseg.report.tables.benchmarks import read_run, write_latency

    others = [word for word in context.words if word not in words]
    if others:
        raise UsageError(
            f"tables: {', '.join(others)} can not stand beside a saved benchmark run; "
            "name matrices and runs in calls of their own."
        )
    content: dict[str, Any] = {}
    written: dict[str, list[str]] = {}
    for word in words:
        path = Path(word)
        saved = read_run(path)
        markdown, files = write_latency(path, saved, Path(context.arguments.out or path.parent))
        content[path.stem] = saved["cases"]
        written[path.stem] = [shown(file) for file in files]
        if not context.json:
            print(markdown)
        if not context.json and not context.arguments.markdown:
            context.console.print(f"written: {', '.join(written[path.stem])}\n", markup=False)
    if context.json:
        context.print_json({"tables": content, "written": written, "warnings": []})
    return context.print_errors([])


def shown(path: Path) -> str:
    """As it is seen from here, or whole where that would climb up."""
    relative = os.path.relpath(path)
    return str(path.absolute()) if relative.startswith("..") else relative


def variant(overrides: list[str]) -> str:
    """The folder of what was made with overrides, which is not the matrix as it is declared."""
    digest = hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:8]
    return f"overrides-{digest}"


def _keep_records(context: Context, run_ids: list[str]) -> list[str]:
    problems = []
    for run_id in run_ids:
        folder = context.places.runs / run_id
        if (folder / "record.json").exists():
            try:
                publish(folder, context.places.records)
            except ProtosegError as error:  # one damaged record does not keep the others out
                problems.append(str(error))
    return problems


def explain(context: Context) -> int:
    """Name the runs behind a cell of a table."""
    from protoseg.cli.views.explanation import render_explanation
    from protoseg.report.explanation import explain as explain_cell
    from protoseg.report.tables.builder import build_table
    from protoseg.runs.store import RecordStore

    words = context.arguments.words
    names = matrix_names(context.places.experiments)
    matrices, _ = context.matrices()
    if len(matrices) != 1 or not words:
        raise UsageError(
            "explain: name one table, e.g. protoseg explain camvid_methods "
            f"'ProtoSeg (paper), K = 10' miou. Tables: {', '.join(names)}."
        )
    store = RecordStore(context.record_folders, context.places.runs)
    table = build_table(matrices[0], store, context.places.results / "published")
    row, column = context.arguments.row, context.arguments.column
    found = explain_cell(matrices[0], table, row, column, store)
    if context.json:
        context.print_json(found.to_dict())
    else:
        context.console.print(render_explanation(found))
    return context.print_errors(store.warnings)


def compare(context: Context) -> int:
    """Set two runs, or two rows of a matrix, against each other."""
    from protoseg.cli.views.comparison import render_comparison
    from protoseg.report.comparison import compare as compare_sides
    from protoseg.report.comparison import find_runs
    from protoseg.runs.store import RecordStore

    store = RecordStore(context.record_folders, context.places.runs)
    sides = _sides(context, store)
    found = [(name, *find_runs(run_ids, store)) for name, run_ids in sides]
    comparison = compare_sides(
        found[0][:2],
        found[1][:2],
        draws=context.arguments.draws,
        generator_seed=context.arguments.generator_seed,
        missing=[words for _, _, missing in found for words in missing],
    )
    if context.json:
        context.print_json(comparison.to_dict())
    else:
        context.console.print(render_comparison(comparison))
    return context.print_errors(store.warnings)


def _sides(context: Context, store: RecordStore) -> list[tuple[str, tuple[str, ...]]]:
    """The two sides of a comparison: (name, run ids)."""
    from protoseg.report.explanation import find_column, find_row
    from protoseg.report.tables.builder import build_table

    words = context.arguments.words
    if len(words) == 2:
        return [(run_id, (run_id,)) for run_id in (_run(context, word) for word in words)]
    if not 2 <= len(words) <= 4:
        raise UsageError(
            "compare: name two runs, or a matrix and two of its rows (and a column, where it has "
            "several of mIoU)."
        )
    matrix = load_matrix(context.composer, words[0])
    table = build_table(matrix, store, context.places.results / "published")
    column = find_column(table, words[3] if len(words) == 4 else "#1")
    rows = [find_row(table, word) for word in words[1:3]]
    for row in rows:
        if not any(cell.run_ids for cell in row.cells):
            raise UsageError(
                f"compare: '{row.label}' is quoted from the literature and has no runs here; "
                "name a row that has."
            )
    group = table.header[column].group
    names = [f"{row.label}, {group}" if group else row.label for row in rows]
    return [(name, row.cells[column].run_ids) for name, row in zip(names, rows, strict=True)]


def _run(context: Context, word: str) -> str:
    """The id of the one run, finished or not, that a word is or is a part of."""
    folders = (context.places.runs.glob("*/spec.json"), context.places.records.glob("*.json"))
    known = {p.parent.name for p in folders[0]} | {p.stem for p in folders[1]}
    found = word if word in known else part_of_one(word, sorted(known))
    if found is None:
        raise UsageError(unknown("run", word, "compare", known))
    return found
