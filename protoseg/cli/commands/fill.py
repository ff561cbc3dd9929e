"""``protoseg fill``: writes the marked numbers of Markdown pages from the records of runs."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoseg.cli.arguments import add_operands
from protoseg.cli.exit_status import FAILED, OK
from protoseg.cli.outputs import display_path

if TYPE_CHECKING:
    from protoseg.cli.context import Context

EXAMPLE = "protoseg fill README.md --check"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    from protoseg.report.prose.sources import SOURCES

    add_operands(
        parser,
        "PAGE",
        "Markdown pages (default: README.md, results/README.md and docs/*.md of the checkout)",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if a number differs"
    )
    width = max(len(f"{word} {source.operands}") for word, source in SOURCES.items())
    lines = [
        f"  {f'{word} {source.operands}':<{width}}  {source.content}"
        for word, source in SOURCES.items()
    ]
    parser.description = "\n".join(
        [
            f"{parser.description}",
            "",
            "An HTML comment before the number names its source, an empty one ends it:",
            "<!-- delta camvid_methods 1 5 -->+11.29<!-- -->. Sources:",
            "",
            *lines,
            "",
            "ROW is a label or a number from 1, COLUMN a key, a title or a number.",
            "MATRIX:ROW names a row of another matrix. delta:1 gives one decimal.",
        ]
    )


def run(context: Context) -> int:
    """Fill the pages, or check them; a page with a problem is not written."""
    from protoseg import files
    from protoseg.config.load_matrix import load_matrix
    from protoseg.paths import find_root
    from protoseg.report.prose.pages import fill_page, list_pages, read_page
    from protoseg.report.prose.result_reader import ResultReader
    from protoseg.runs.store import RecordStore

    operands, is_check = context.arguments.operands, context.arguments.check
    paths = [Path(operand) for operand in operands] or list_pages(find_root())
    texts = {path: read_page(path) for path in paths}
    # Records of run folders are not committed: a reader of the page could not compute the number.
    store = RecordStore(context.record_folders, None)
    results = ResultReader(
        lambda name: load_matrix(context.composer, name), store, context.paths.published
    )
    content: list[dict[str, Any]] = []
    problems: list[str] = []
    written: list[str] = []
    for path, text in texts.items():
        name, page = display_path(path), fill_page(text, results)
        changes = [asdict(change) for change in page.changes]
        content.append({"page": name, "numbers": page.count, "changes": changes})
        problems += [f"{name}:{line}: {sentence}" for line, sentence in page.problems]
        if page.text != text and not page.problems and not is_check:
            files.write_bytes(path.resolve(), page.text.encode("utf-8"))
            written.append(name)
    problems += store.warnings
    if context.json:
        context.print_json({"pages": content, "written": written, "problems": problems})
    else:
        _print_changes(context, content)
    is_different = is_check and any(page["changes"] for page in content)
    return context.print_errors(problems) or (FAILED if is_different else OK)


def _print_changes(context: Context, content: list[dict[str, Any]]) -> None:
    """Print each change, then the numbers of all pages."""
    for page in content:
        for change in page["changes"]:
            context.console.print(
                f"{page['page']}:{change['line']} {change['old']} -> {change['new']}", markup=False
            )
    numbers = sum(page["numbers"] for page in content)
    changes = sum(len(page["changes"]) for page in content)
    context.console.print(
        f"{numbers} numbers in {len(content)} page{'s' if len(content) > 1 else ''}, {changes} "
        f"{'differ' if context.arguments.check else 'changed'}",
        markup=False,
    )
