"""Prints rich renderables as a terminal of 100 columns shows them, without colours."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType


def printed(rendered: RenderableType) -> str:
    """The text of a renderable."""
    file = io.StringIO()
    Console(width=100, file=file, force_terminal=False).print(rendered)
    return file.getvalue()
