"""``verify``: what is committed under results/ is checked from the records up."""

from __future__ import annotations

from collections import Counter

from protoseg.cli.context import FAILED, OK, Context
from protoseg.config.load_matrix import load_matrix, matrix_names
from protoseg.config.matrix import Matrix
from protoseg.errors import ProtosegError, UsageError
from protoseg.report.verify.check import Check, Problem

SHOWN = 20
"""Problems of one file that are printed; ``--json`` names all."""


def verify(context: Context) -> int:
    """Check every record, rebuild every committed table and ask what each figure was drawn from,
    or those of the matrices named."""
    from protoseg.report.verify.figures import check_figures
    from protoseg.report.verify.records import check_records
    from protoseg.report.verify.tables import check_tables

    everything = not context.arguments.words
    matrices, broken = _matrices(context)
    runs = {run.run_id for matrix in matrices.values() for run in matrix.runs}
    results = context.places.results
    checks = check_records(context.places.records, None if everything else runs, runs)
    checks += check_tables(results, matrices, broken, everything)
    checks.append(check_figures(results, matrices, broken, everything))
    sound = not any(check.problems for check in checks)
    if context.json:
        context.print_json({"sound": sound, "checks": [check.to_dict() for check in checks]})
        return OK if sound else FAILED
    context.console.print(f"{results}", markup=False)
    for check in checks:
        _print(context, check)
    return context.print_errors(_sentences([p for check in checks for p in check.problems]))


def _matrices(context: Context) -> tuple[dict[str, Matrix], dict[str, str]]:
    """Name -> matrix, of those that are named or all; and name -> why one can not be read.

    Raises:
        UsageError: one that is named is unknown or broken; an override.
    """
    if context.arguments.words:
        found, overrides = context.matrices()
        if overrides:
            raise UsageError(
                f"verify: {' '.join(overrides)}: a changed matrix has no committed table; "
                "name matrices alone."
            )
        return {matrix.name: matrix for matrix in found}, {}
    from protoseg.report.verify.figures import figure_names
    from protoseg.report.verify.tables import kept_files, table_names

    matrices: dict[str, Matrix] = {}
    broken: dict[str, str] = {}
    records = {path.stem for path in context.places.records.glob("*.json")}
    names = matrix_names(context.places.experiments)
    tables = table_names(context.places.results / "tables")
    drawn = {path.stem for path in kept_files(context.places.results / "figures")}
    shown = tables | {name for name in names if drawn.intersection(figure_names(name))}
    # Those with a table or figure first; others only while a record has not found its matrix.
    for name in sorted(names, key=lambda n: (n not in shown, n)):
        if name not in shown and not records:
            continue
        try:  # one broken matrix hides nothing of the others
            matrices[name] = load_matrix(context.composer, name)
        except ProtosegError as error:
            broken[name] = str(error)
        else:
            records -= {run.run_id for run in matrices[name].runs}
    return matrices, broken


def _print(context: Context, check: Check) -> None:
    count = len(check.problems)
    verdict = f"{count} problem{'s' if count > 1 else ''}" if count else "fine"
    line = f"{check.group:<10}  {check.count:>6}  {verdict:<12}  {check.what}"
    context.console.print(line, style="red" if count else None, markup=False)
    for note in check.notes:
        context.console.print(f"{'':<10}  {'':>6}  {note}", style="dim", markup=False)


def _sentences(problems: list[Problem]) -> list[str]:
    seen: Counter[str] = Counter()
    sentences = []
    for problem in problems:
        seen[problem.file] += 1
        if seen[problem.file] <= SHOWN:
            sentences.append(problem.words)
    more = [f"{file}: and {n - SHOWN} more; --json names all." for file, n in seen.items()
            if n > SHOWN]  # fmt: skip
    return sentences + more
