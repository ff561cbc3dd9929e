"""``index.html`` of a folder of predictions: all pictures, without script and other resources."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from protoseg import files
from protoseg.inference.output.image_files import COLORS, LABELS, OVERLAYS, ImageWriter

PAGE = "index.html"
LISTED = 4
"""Classes that the caption of an image lists."""

HEAD = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1c1e21; --muted: #5b6067; --line: #d5d8dc;
  --paper: #fff; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e7e9ec; --muted: #a4abb5; --line: #3a3f47;
  --paper: #16181c; }} }}
body {{ margin: 0 auto; max-width: 90rem; padding: 1.5rem 1rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.3rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }}
p {{ margin: .25rem 0; color: var(--muted); }}
.legend {{ list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: 0;
  padding: .75rem 0; border-bottom: 1px solid var(--line); position: sticky; top: 0;
  background: var(--paper); max-height: 30vh; overflow-y: auto; }}
.legend i {{ display: inline-block; width: 1em; height: 1em; margin-right: .4em;
  vertical-align: -.12em; border: 1px solid var(--line); print-color-adjust: exact; }}
.images {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(24rem, 100%), 1fr));
  gap: 1.25rem; margin-top: 1rem; }}
figure {{ margin: 0; min-width: 0; break-inside: avoid; }}
.pair {{ display: flex; gap: 4px; align-items: flex-start; }}
.pair a {{ flex: 1; min-width: 0; }}
img {{ display: block; width: 100%; height: auto; background: var(--line); }}
figcaption {{ font-size: .85rem; overflow-wrap: anywhere; }}
figcaption span {{ color: var(--muted); }}
</style>
</head>
<body>
"""


def write_page(
    writer: ImageWriter,
    entries: Iterable[dict[str, Any]],
    classes: Sequence[str],
    title: str,
    notes: Sequence[str],
) -> Path:
    """Write the page of the finished images, sorted by name.

    Args:
        writer: of the images.
        entries: of `protoseg.inference.output.folder.PredictionFolder.read_finished`.
        classes: names of the C classes.
        title: heading.
        notes: lines below it.

    Returns:
        Its path.

    Raises:
        StorageError: no space left, or no permission.
    """
    entries = sorted(entries, key=lambda entry: str(entry["name"]))
    used = {int(index) for entry in entries for index in entry["pixels"]}
    lines = [HEAD.format(title=html.escape(title)), f"<h1>{html.escape(title)}</h1>"]
    lines += [f"<p>{html.escape(note)}</p>" for note in notes]
    lines.append('<ul class="legend">')
    for index, name in enumerate(classes):
        if index in used:
            lines.append(f"<li>{_draw_swatch(writer.colors[index])}{html.escape(name)}</li>")
    lines.append('</ul>\n<main class="images">')
    parts = [OVERLAYS, COLORS] if writer.settings.overlay else [COLORS]
    for entry in entries:
        lines.append(_format_figure(writer, entry, classes, parts))
    lines.append("</main>\n</body>\n</html>\n")
    path = writer.folder / PAGE
    files.write_bytes(path, "\n".join(lines).encode("utf-8", "backslashreplace"))
    return path


def _draw_swatch(color: np.ndarray) -> str:
    red, green, blue = color.tolist()
    return f'<i style="background:#{red:02x}{green:02x}{blue:02x}"></i>'


def _format_figure(
    writer: ImageWriter, entry: dict[str, Any], classes: Sequence[str], parts: Sequence[str]
) -> str:
    name = str(entry["name"])
    pictures = []
    for part in parts:
        link = _make_link(writer, part, name)
        alt = html.escape(f"{name}, {'overlay' if part == OVERLAYS else 'classes'}", quote=True)
        pictures.append(
            f'<a href="{link}"><img src="{link}" alt="{alt}" loading="lazy" '
            f'width="{int(entry["width"])}" height="{int(entry["height"])}"></a>'
        )
    total = max(1, sum(entry["pixels"].values()))
    shares = [
        f"{html.escape(classes[int(index)])} {100 * number / total:.0f}%"
        for index, number in list(entry["pixels"].items())[:LISTED]
    ]
    caption = (
        f'<a href="{_make_link(writer, LABELS, name)}">{html.escape(name)}</a> '
        f"<span>{', '.join(shares)}</span>"
    )
    return (
        f'<figure><div class="pair">{"".join(pictures)}</div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _make_link(writer: ImageWriter, part: str, name: str) -> str:
    return quote(writer.find_path(part, name).relative_to(writer.folder).as_posix())
