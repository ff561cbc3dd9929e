"""``figures``: from records alone to figures for papers and screens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from protoseg.cli.commands.reports import shown, variant
from protoseg.cli.context import FAILED, Context
from protoseg.errors import ProtosegError


def figures(context: Context) -> int:
    """Draw the figures of each matrix that has records, and write them in all forms."""
    from protoseg.report.figures.data import read
    from protoseg.report.figures.save import write_all
    from protoseg.report.figures.types import KINDS, build
    from protoseg.runs.store import RecordStore

    everything = not context.words
    matrices, overrides = context.matrices()
    folder = Path(context.arguments.out or context.places.results / "figures")
    # With overrides it is another figure; it must not take the place of the matrix's own.
    place = folder / variant(overrides) if overrides else folder
    kinds = dict.fromkeys(context.arguments.kind or [next(iter(KINDS))])
    content: dict[str, dict[str, Any]] = {}
    written: dict[str, list[str]] = {}
    warnings: list[str] = []
    empty: list[str] = []
    for matrix in matrices:
        store = RecordStore(context.record_folders, context.places.runs)
        try:
            reading = read(matrix, store, context.places.results / "published")
            made = [build(reading, kind) for kind in kinds]
        except ProtosegError as error:
            # Where nobody named it, a matrix without records is no failure.
            if everything and error.exit_code == FAILED:
                empty.append(matrix.name)
                continue
            if len(matrices) == 1 and not store.warnings:
                raise
            warnings.append(str(error))
            continue
        finally:
            warnings += store.warnings
        for figure in made:
            files = [shown(path) for path in write_all(figure, place)]
            content.setdefault(matrix.name, {})[figure.kind] = figure.to_dict()
            written.setdefault(matrix.name, []).extend(files)
            if not context.json:
                context.console.print(f"{figure.title} ({figure.kind})", markup=False)
                context.console.print("  " + " ".join(figure.notes), markup=False)
                context.console.print(f"written: {', '.join(files)}\n", markup=False)
    if context.json:
        context.print_json({"figures": content, "written": written, "warnings": warnings})
    elif empty:
        context.console.print(f"nothing to draw yet: {', '.join(empty)}", markup=False)
    return context.print_errors(list(dict.fromkeys(warnings)))
