"""``protoseg report``: writes one web page of each matrix, and an index page of several."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoseg.cli.arguments import add_matrix_operands, add_record_options
from protoseg.cli.outputs import choose_output_folder, display_path
from protoseg.errors import ProtosegError, UsageError

if TYPE_CHECKING:
    from protoseg.cli.context import Context
    from protoseg.config.matrix import Matrix
    from protoseg.report.page.model import Page
    from protoseg.report.page.site import IndexEntry

EXAMPLE = "protoseg report quickstart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_matrix_operands(parser)
    add_record_options(parser)
    parser.add_argument("--all", action="store_true", help="a page of every matrix, and an index")
    parser.add_argument(
        "--into", metavar="DIR", help="folder of the pages (default: RESULTS/pages)"
    )


def run(context: Context) -> int:
    """Write the pages, and with several matrices an index page; report those without a page."""
    from protoseg import files
    from protoseg.report.page import site

    arguments = context.arguments
    _check_operands(context)
    matrices, overrides = context.matrices()
    is_site = arguments.all or len(matrices) > 1
    base = Path(arguments.into or context.paths.results / "pages")
    folder = choose_output_folder(base, overrides)
    names = {matrix.name: site.name_file(matrix.name) for matrix in matrices}
    paths = [folder / name for name in (*names.values(), *[site.INDEX] * is_site)]
    for path in paths:
        site.check_replaceable(path)
    files.make_folder(folder)
    entries: list[IndexEntry] = []
    content: dict[str, Any] = {}
    problems: list[str] = []
    for matrix in matrices:
        page = _build_page(context, matrix, problems, is_site)
        if page is None:
            reason = f"No page: {problems[-1]}"
            entries.append(site.IndexEntry(matrix.name, matrix.title, "", 0, 0, "", reason))
            continue
        path = folder / names[matrix.name]
        site.write_page(path, site.render_page(page, site.INDEX if is_site else ""))
        entries.append(site.make_entry(page))
        content[matrix.name] = {"file": display_path(path), "summary": page.summary}
        problems += page.warnings
        if not context.json:
            context.console.print(page.title, style="bold", markup=False)
            for line in () if arguments.all else page.summary:
                context.console.print(f"  {line}", markup=False)
            context.console.print(f"written: {display_path(path)}", markup=False)
    if is_site and content:
        site.write_page(folder / site.INDEX, site.render_index(entries))
        content["index"] = {"file": display_path(folder / site.INDEX)}
        if not context.json:
            context.console.print(f"written: {display_path(folder / site.INDEX)}", markup=False)
    if context.json:
        context.print_json({"pages": content, "warnings": problems})
    return context.print_errors(list(dict.fromkeys(problems)))


def _check_operands(context: Context) -> None:
    """Refuse a call without a matrix, unless it asks for all of them."""
    from protoseg.cli.arguments import split_overrides

    names = split_overrides(context.operands)[1]
    if context.arguments.all and names:
        raise UsageError(
            f"report: --all takes every matrix, so {', '.join(names)} cannot be named. Remove one "
            "of the two."
        )
    if not context.arguments.all and not names:
        raise UsageError("report: no matrix is named. Name one, or write --all.")


def _build_page(
    context: Context, matrix: Matrix, problems: list[str], is_site: bool
) -> Page | None:
    """The page of a matrix; of several, None if it has no table, with the reason in `problems`."""
    from protoseg.report.page.builder import build_page
    from protoseg.runs.store import RecordStore

    store = RecordStore(context.record_folders, context.paths.runs)
    operand = context.matrix_operands.get(matrix.name, matrix.name)
    try:
        return build_page(matrix, store, context.paths.published, operand)
    except ProtosegError as error:
        if not is_site and not store.warnings:
            raise
        problems += [*store.warnings, str(error)]
        return None
