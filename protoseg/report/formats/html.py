"""Formats a table as a self-contained web page, for small and large screens, light and dark."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from protoseg.report.tables.model import Column, Row, Table

TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ tables[0].title }}</title>
<style>
:root { color-scheme: light dark; --ink: #1c1e21; --muted: #63676e; --line: #d5d8dc;
  --paper: #fff; --hover: #f3f5f7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ec; --muted: #9aa1ab; --line: #3a3f47;
  --paper: #16181c; --hover: #20242a; } }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1, h2 { font-size: 1.3rem; margin: 0 0 .25rem; }
h2 { font-size: 1.1rem; margin-top: 2rem; }
.caption { margin: 0 0 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
table { border-top: 2px solid; border-bottom: 2px solid; }
th, td { padding: .4rem .8rem; text-align: right; white-space: nowrap; }
thead tr:last-child th { border-bottom: 1px solid; }
thead th { font-weight: 600; vertical-align: bottom; }
th.group { text-align: center; border-bottom: 1px solid var(--line); }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tbody tr.rule > * { border-top: 1px solid var(--ink); }
tbody tr:hover > * { background: var(--hover); }
tbody th { font-weight: 400; }
.label { text-align: left; }
td.label { white-space: normal; min-width: 11rem; }
tbody .first, thead .first { position: sticky; left: 0; background: var(--paper); }
.std { color: var(--muted); font-size: .85em; }
.note { color: var(--muted); font-size: .85em; }
.status { color: var(--muted); font-style: italic; text-align: center; }
.notes { list-style: none; margin: 1rem 0 0; padding: 0; max-width: 44rem; color: var(--muted);
  font-size: .85rem; }
.notes li { overflow-wrap: anywhere; margin: .2rem 0; }
sup { line-height: 0; }
@media (max-width: 40rem) { table { font-size: .9rem; } th, td { padding: .4rem .5rem; }
  tbody th { white-space: normal; min-width: 7rem; } }
</style>
</head>
<body>
{% for table in tables %}
{% set heading = "h1" if loop.first else "h2" %}
<{{ heading }}>{{ table.title }}</{{ heading }}>
{% if table.caption %}
<p class="caption">{{ table.caption }}</p>
{% endif %}
<div class="scroll">
<table>
<thead>
{% set groups = list_groups(table.header) %}
{% if groups %}
<tr>
{% for group, width in groups %}
{% if group %}
<th class="group" scope="colgroup" colspan="{{ width }}">{{ group }}</th>
{% else %}
<td colspan="{{ width }}"></td>
{% endif %}
{% endfor %}
</tr>
{% endif %}
<tr>
{% for column in table.header %}
<th scope="col"{{ css_class(column, loop.first) }}>{{ column.title }}{{ mark(column.mark) }}</th>
{% endfor %}
</tr>
</thead>
<tbody>
{% for row in table.rows %}
<tr{{ rule(row) }}>
{% for cell in row.cells %}
{% if cell.kind == "label" %}
<th scope="row"{{ css_class(table.header[loop.index0], loop.first) }}>{{ cell.text }}</th>
{% elif cell.kind == "status" %}
<td class="status">{{ cell.text }}{{ mark(cell.mark) }}</td>
{% else %}
<td{{ css_class(table.header[loop.index0], false) }}
{%- if cell.n %} title="n = {{ cell.n }} of {{ cell.expected_n }}"{% endif %}>
{%- if cell.bold %}<strong>{{ cell.text }}</strong>{% else %}{{ cell.text }}{% endif %}
{%- if cell.std_text %} <span class="std">± {{ cell.std_text }}</span>{% endif %}
{%- if cell.note %} <span class="note">({{ cell.note }})</span>{% endif %}
{{- mark(cell.mark) }}</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
<ul class="notes">
{% for footnote in table.footnotes %}
<li>{{ mark(footnote.mark) }}{{ " " if footnote.mark }}{{ footnote.text }}</li>
{% endfor %}
</ul>
{% endfor %}
</body>
</html>
"""


def to_html(*tables: Table) -> str:
    """Format a page with the title, caption, cells and footnotes of each table.

    A table scrolls on a narrow screen.
    """
    import jinja2  # imported here because only this format needs it
    from markupsafe import Markup

    def mark(letter: str) -> Markup:
        return Markup("<sup>{}</sup>").format(letter) if letter else Markup("")

    def css_class(column: Column, first: bool) -> Markup:
        left = column.kind in ("label", "verdict")
        names = [*(["label"] if left else []), *(["first"] if first else [])]
        return Markup(' class="{}"').format(" ".join(names)) if names else Markup("")

    def rule(row: Row) -> Markup:
        return Markup(' class="rule"') if row.rule else Markup("")

    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.from_string(TEMPLATE)
    return page.render(
        tables=tables, list_groups=list_groups, mark=mark, css_class=css_class, rule=rule
    )


def list_groups(header: Sequence[Column]) -> list[tuple[str, int]]:
    """List (group, width) of the upper header row; empty if no column has a group."""
    members = itertools.groupby(header, key=lambda column: (column.group, column.values))
    groups = [(key[0], len(list(columns))) for key, columns in members]
    return groups if any(group for group, _ in groups) else []
