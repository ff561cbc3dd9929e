"""``protoseg verify``: checks records, and that tables, figures and pages follow from them."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from protoseg.cli.arguments import add_operands
from protoseg.cli.exit_status import FAILED, OK
from protoseg.config.matrix import Matrix
from protoseg.errors import ProtosegError, UsageError
from protoseg.report.verify.check import Check, Problem
from protoseg.runs.results.choice import CHOICES
from protoseg.runs.results.evaluation import EVALUATIONS
from protoseg.runs.results.imported import IMPORTED

if TYPE_CHECKING:
    from protoseg.cli.context import Context

EXAMPLE = "protoseg verify"
SHOWN = 20
"""Problems of one file that are printed; ``--json`` prints all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_operands(parser, "MATRIX", "matrices to check (default: all results)")


def run(context: Context) -> int:
    """Check records, tables and figures, all or those of the named matrices."""
    from protoseg.cli.stages import list_stages
    from protoseg.report.verify.choices import check_choices
    from protoseg.report.verify.evaluations import check_evaluations
    from protoseg.report.verify.figures import check_figures
    from protoseg.report.verify.imported import check_imported
    from protoseg.report.verify.levels import check_levels
    from protoseg.report.verify.record_sources import Sources
    from protoseg.report.verify.records import check_records
    from protoseg.report.verify.samples import check_samples
    from protoseg.report.verify.tables import check_tables
    from protoseg.runs.results.samples import SAMPLES

    is_everything = not context.arguments.operands
    matrices, unreadable = _load_matrices(context)
    stages = list_stages(matrices.values())
    run_ids = {planned.run_id for stage in stages for planned in stage.runs}
    results = context.paths.results
    checks = check_records(context.paths.records, None if is_everything else run_ids, run_ids)
    sources = Sources(results, context.paths.shipped, context.paths.runs)
    if (results / CHOICES).is_dir():
        checks.append(check_choices(sources, matrices, unreadable, is_everything))
    if (results / EVALUATIONS).is_dir():
        checks.append(check_evaluations(results, None if is_everything else run_ids))
    if is_everything and (results / IMPORTED).is_dir():
        checks.append(check_imported(results))
    if (results / SAMPLES).is_dir():
        checks.append(check_samples(results, None if is_everything else run_ids))
    checks += check_tables(sources, matrices, unreadable, is_everything)
    if any(matrix.trees for matrix in matrices.values()):
        checks.append(check_levels(sources, matrices))
    checks.append(check_figures(sources, matrices, unreadable, is_everything))
    if is_everything:
        checks += _check_pages(context, matrices)
    checks += sources.check_used_runs()
    is_sound = not any(check.problems for check in checks)
    if context.json:
        context.print_json({"sound": is_sound, "checks": [check.to_dict() for check in checks]})
        return OK if is_sound else FAILED
    context.console.print(f"{results}", markup=False)
    for check in checks:
        _print_check(context, check)
    problems = [problem for check in checks for problem in check.problems]
    return context.print_errors(_collect_messages(problems))


def _check_pages(context: Context, matrices: dict[str, Matrix]) -> list[Check]:
    """Check README.md in the folder of results; if it is that of the root, all pages."""
    from protoseg.config.load_matrix import load_matrix
    from protoseg.paths import find_root
    from protoseg.report.prose.pages import list_pages
    from protoseg.report.prose.result_reader import ResultReader
    from protoseg.report.verify.pages import check_pages
    from protoseg.runs.store import RecordStore

    results, root = context.paths.results, find_root()
    pages = [path for path in [results / "README.md"] if path.is_file()]
    if pages and results == root / "results":
        pages = list_pages(root)

    def load(name: str) -> Matrix:
        return matrices.get(name) or load_matrix(context.composer, name)

    store = RecordStore([context.paths.records], None)
    reader = ResultReader(load, store, context.paths.published)
    return [check_pages(results.parent, pages, reader)] if pages else []


def _load_matrices(context: Context) -> tuple[dict[str, Matrix], dict[str, str]]:
    """Name -> matrix, of the named ones or all; and name -> why a matrix cannot be read.

    Raises:
        UsageError: a named matrix is unknown or broken; an override.
    """
    from protoseg.cli.stages import list_stages
    from protoseg.config.load_matrix import list_matrices

    if context.arguments.operands:
        named, overrides = context.matrices()
        if overrides:
            raise UsageError(
                f"verify: {' '.join(overrides)}: a changed matrix has no committed table. "
                "Remove the overrides."
            )
        return {matrix.name: matrix for matrix in named}, {}
    from protoseg.report.verify.figures import list_figure_names
    from protoseg.report.verify.tables import list_kept_files, list_table_names

    matrices: dict[str, Matrix] = {}
    unreadable: dict[str, str] = {}
    records = {path.stem for path in context.paths.records.glob("*.json")}
    names = list_matrices(context.experiments)
    tables = list_table_names(context.paths.results / "tables")
    drawn = {path.stem for path in list_kept_files(context.paths.results / "figures")}
    tables |= {path.stem for path in (context.paths.results / CHOICES).glob("*.json")}
    committed = tables | {name for name in names if drawn.intersection(list_figure_names(name))}
    # Matrices with a table or figure first. Others are loaded only until every record has a matrix.
    for name in sorted(names, key=lambda name: (name not in committed, name)):
        if name not in committed and not records:
            continue
        try:
            matrices[name] = context.load_matrix(name)
        except ProtosegError as error:
            unreadable[name] = str(error)
        else:
            stages = list_stages([matrices[name]])
            records -= {planned.run_id for stage in stages for planned in stage.runs}
    return matrices, unreadable


def _print_check(context: Context, check: Check) -> None:
    count = len(check.problems)
    verdict = f"{count} problem{'s' if count > 1 else ''}" if count else "ok"
    line = f"{check.group:<10}  {check.count:>6}  {verdict:<12}  {check.what}"
    context.console.print(line, style="red" if count else None, markup=False)
    for note in check.notes:
        context.console.print(f"{'':<10}  {'':>6}  {note}", style="dim", markup=False)


def _collect_messages(problems: list[Problem]) -> list[str]:
    """The messages of the first problems of each file, then the number of the others."""
    counts: Counter[str] = Counter()
    messages = []
    for problem in problems:
        counts[problem.file] += 1
        if counts[problem.file] <= SHOWN:
            messages.append(problem.words)
    return messages + [
        f"{file}: {count - SHOWN} more problems; --json prints all."
        for file, count in counts.items()
        if count > SHOWN
    ]
