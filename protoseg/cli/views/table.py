"""Shows a report table on a terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from protoseg.report.tables.model import Cell, Table


def render_table(table: Table) -> RichTable:
    """Return the table for a rich console, with the footnotes below it."""
    notes = Text(justify="left", style="dim", no_wrap=False)
    for footnote in table.footnotes:
        mark = f"[{footnote.mark}] " if footnote.mark else ""
        notes.append(f"\n{mark}{footnote.text}")
    title = Text(table.title, style="bold")
    if table.caption:
        title.append(f"\n{table.caption}", style="not bold")
    title.append("\n")
    rendered = RichTable(
        title=title,
        title_justify="left",
        title_style="",
        caption=notes,
        caption_justify="left",
        caption_style="",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    for column in table.header:
        left = column.kind in ("label", "verdict")
        heading = Text(f"{column.group}\n{column.title}" if column.group else column.title)
        heading.append(f" [{column.mark}]" if column.mark else "", style="dim")
        rendered.add_column(heading, justify="left" if left else "right", overflow="fold")
    for row in table.rows:
        if row.rule:
            rendered.add_section()
        rendered.add_row(*map(_render_cell, row.cells))
    return rendered


def _render_cell(cell: Cell) -> Text:
    if cell.kind == "status":
        text = Text(cell.text, style="dim italic")
    else:
        text = Text(cell.text, style="bold" if cell.bold else "")
        text.append(f" ± {cell.std_text}" if cell.std_text else "", style="not bold")
        text.append(f" ({cell.note})" if cell.note else "", style="dim not bold")
    text.append(f" [{cell.mark}]" if cell.mark else "", style="dim not bold not italic")
    return text
