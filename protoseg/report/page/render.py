"""Renders pages as self-contained HTML: style and script inside, nothing loaded from elsewhere.

Equal content gives equal bytes. A content security policy names the digests of our style and
script, so a browser runs no other, whatever a label contains.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
from typing import Any

from markupsafe import Markup

from protoseg.report import wording
from protoseg.report.formats.html import list_groups
from protoseg.report.page.model import Chart, DotChart
from protoseg.report.page.svg import draw_chart, draw_dots, draw_sparkline, draw_swatch
from protoseg.report.tables.model import Cell

GENERATOR = '<meta name="generator" content="protoseg report">'
"""Marks a page as ours, so that it may be replaced."""
TEMPLATES = "templates"
TITLED = 3
"""Rows from which a table has a field to filter them."""


def render_template(name: str, **content: Any) -> str:
    """Fill a template of this package.

    Args:
        name: file name in the folder of templates.
        content: its variables.
    """
    style, script = _read_asset("page.css"), _read_asset("page.js")
    template = _make_environment().get_template(name)
    return template.render(
        generator=Markup(GENERATOR),
        style=Markup(style),
        script=Markup(script),
        policy=(
            f"default-src 'none'; img-src data:; style-src {_digest(style)}; "
            f"script-src {_digest(script)}"
        ),
        **content,
    )


@functools.cache
def _make_environment() -> Any:
    import jinja2  # imported here: it takes 0.1 s

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("protoseg.report.page", TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals.update(
        draw=_draw, draw_swatch=draw_swatch, draw_sparkline=draw_sparkline,
        list_groups=list_groups, sort_value=sort_value, filter_from=TITLED,
    )  # fmt: skip
    environment.tests["dots"] = lambda chart: isinstance(chart, DotChart)
    return environment


@functools.cache
def _read_asset(name: str) -> str:
    source: str = _make_environment().loader.get_source(_make_environment(), name)[0]
    # Between the tags, without the line breaks around it: the policy has the digest of this text.
    return source.strip()


def _digest(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _draw(chart: Chart | DotChart, key: str) -> Markup:
    return draw_dots(chart, key) if isinstance(chart, DotChart) else draw_chart(chart, key)


def sort_value(cell: Cell) -> str:
    """The number by which a cell is sorted; empty for a cell that is sorted by its text."""
    if cell.value is not None:
        return repr(cell.value)
    try:
        text = cell.text.replace(wording.MINUS, "-").replace(",", "").removeprefix("<")
        number = float(text.split()[0])
    except (ValueError, IndexError):
        return ""
    is_number = cell.kind in ("comparison", "label") and math.isfinite(number)
    return repr(number) if is_number else ""
