"""A sheet of training samples: image, label map and class names, as one HTML or PNG file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from protoseg import files
from protoseg.config.class_colors import choose_class_colors
from protoseg.config.schema import DatasetSpec
from protoseg.datasets.readers.colors import Color
from protoseg.datasets.readers.label_colors import color_label_map
from protoseg.errors import UsageError
from protoseg.training.browse.samples import Sample

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
MARK = "protoseg data browse"
"""The generator that a sheet names in itself; only such a file is replaced."""
LONGEST_SIDE = 640
"""Pixels. Larger samples are shown smaller, at 1/2, 1/3 and so on."""
SMALL_SIDE = 200
"""Pixels. A PNG shows smaller samples larger, each pixel as a square."""
IGNORED = "ignored"
MARGIN, LINE, SWATCH = 12, 18, 12
"""Pixels of a PNG sheet."""
STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; color-scheme: light dark }
main { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)) }
figure { margin: 0 } figure div { display: flex; gap: 4px }
figure img { width: calc(50% - 2px); image-rendering: pixelated }
figcaption { overflow-wrap: anywhere } ul { list-style: none; padding: 0 }
li { display: inline-block; margin-right: 1em }
i { display: inline-block; width: 1em; height: 1em; vertical-align: -2px; margin-right: .3em;
 border: 1px solid #8888 }
"""


class Sheet:
    """The content of a sheet.

    Args:
        samples: at least one, all of one size.
        dataset: their data set.
        title: first line of the sheet.
    """

    def __init__(self, samples: Sequence[Sample], dataset: DatasetSpec, title: str) -> None:
        self.samples, self.title = samples, title
        self.names = [*dataset.classes, IGNORED]
        self.colors = choose_class_colors(dataset.classes, dataset.palette)
        longest = max(samples[0].labels.shape)
        self.factor = -(-longest // LONGEST_SIDE)
        self.zoom = max(1, SMALL_SIDE // longest)
        if self.factor > 1:
            self.title += f", shown at 1/{self.factor}"

    def draw_pair(self, sample: Sample) -> tuple[Image.Image, Image.Image]:
        """Image and coloured label map of a sample."""
        image = Image.fromarray(sample.image)
        labels = sample.labels
        if self.factor > 1:
            image = image.reduce(self.factor)
            labels = labels[:: self.factor, :: self.factor][: image.height, : image.width]
        return image, Image.fromarray(color_label_map(labels, self.colors))

    def list_present(self, sample: Sample) -> list[str]:
        """The names of the classes of a sample, in class order, and ``ignored``."""
        present = np.unique(sample.labels)
        classes = len(self.colors)
        names = [self.names[label] for label in present if label < classes]
        return [*names, *([IGNORED] if (present >= classes).any() else [])]

    def describe_sample(self, sample: Sample) -> str:
        """Where a sample is in the training, and its file."""
        return f"iteration {sample.iteration}, {sample.position}: {sample.path.name}"

    def make_html(self) -> bytes:
        """The sheet as an HTML page without outside resources."""
        legend = "".join(
            f"<li><i style='background:{_to_css(self._find_swatch(name))}'></i>{html.escape(name)}"
            for name in self._list_used()
        )
        figures = []
        for sample in self.samples:
            sources = [_to_url(picture) for picture in self.draw_pair(sample)]
            caption = html.escape(self.describe_sample(sample))
            present = html.escape(", ".join(self.list_present(sample)))
            figures.append(
                f"<figure><div><img alt='image' src='{sources[0]}'>"
                f"<img alt='label map: {present}' src='{sources[1]}'></div>"
                f"<figcaption>{caption}<br>{present}</figcaption></figure>"
            )
        title = html.escape(self.title)
        page = (
            f"<!doctype html>\n<html lang='en'><meta charset='utf-8'>"
            f"<meta name='generator' content='{MARK}'>"
            "<meta name='viewport' content='width=device-width'>"
            f"<title>{title}</title><style>{STYLE}</style>\n<h1>{title}</h1>\n<ul>{legend}</ul>\n"
            f"<main>{chr(10).join(figures)}</main></html>\n"
        )
        return page.encode("utf-8", "replace")

    def make_png(self) -> bytes:
        """The sheet as one PNG picture: pairs in rows, about as wide as it is high."""
        first, _ = self._draw_enlarged(self.samples[0])
        width, height = 2 * first.width + 4, first.height
        font = ImageFont.load_default(size=13)
        cell = max(width, 300)
        captions = [_wrap_text(self._make_caption(s), font, cell) for s in self.samples]
        lines = max(len(caption) for caption in captions)
        step = height + lines * LINE + MARGIN
        columns = _choose_columns(len(self.samples), cell + MARGIN, step)
        legend = _wrap_legend(self._list_used(), font, columns * (cell + MARGIN))
        top = MARGIN + LINE * (1 + len(legend)) + MARGIN
        rows = -(-len(self.samples) // columns)
        size = (columns * (cell + MARGIN) + MARGIN, top + rows * step)
        sheet = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(sheet)
        draw.text((MARGIN, MARGIN), self.title, "black", font)
        for row, names in enumerate(legend, 1):
            x = MARGIN
            for name in names:
                y = MARGIN + row * LINE
                sheet.paste(self._draw_swatch(name), (x, y + 2))
                draw.text((x + SWATCH + 4, y), name, "black", font)
                x += _measure_entry(name, font)
        for number, (sample, caption) in enumerate(zip(self.samples, captions, strict=True)):
            row, column = divmod(number, columns)
            x, y = MARGIN + column * (cell + MARGIN), top + row * step
            image, label_map = self._draw_enlarged(sample)
            sheet.paste(image, (x, y))
            sheet.paste(label_map, (x + image.width + 4, y))
            for line, text in enumerate(caption):
                draw.text((x, y + height + 2 + line * LINE), text, "black", font)
        note = PngImagePlugin.PngInfo()
        note.add_text("Software", MARK)
        return _to_png(sheet, note)

    def _draw_enlarged(self, sample: Sample) -> list[Image.Image]:
        """Image and label map of a PNG sheet."""
        return [
            picture.resize(
                (picture.width * self.zoom, picture.height * self.zoom), Image.Resampling.NEAREST
            )
            for picture in self.draw_pair(sample)
        ]

    def _make_caption(self, sample: Sample) -> list[str]:
        return [self.describe_sample(sample), ", ".join(self.list_present(sample))]

    def _list_used(self) -> list[str]:
        used = {name for sample in self.samples for name in self.list_present(sample)}
        return [name for name in self.names if name in used]

    def _find_swatch(self, name: str) -> Color | None:
        """The colour of a class; None for ignored pixels."""
        number = self.names.index(name)
        return self.colors[number] if number < len(self.colors) else None

    def _draw_swatch(self, name: str) -> Image.Image:
        labels = np.full((SWATCH, SWATCH), self.names.index(name))
        return Image.fromarray(color_label_map(labels, self.colors))


def write_sheets(sheet: Sheet, target: Path) -> list[Path]:
    """Write a sheet as the file that a path names, or as both files of a folder; return the files.

    Raises:
        UsageError: another suffix, or a file that exists and is no sheet.
        StorageError: the file cannot be written.
    """
    paths = list_targets(target)
    for path in paths:
        files.make_folder(path.parent)
        files.write_bytes(path, sheet.make_png() if path.suffix == ".png" else sheet.make_html())
    return paths


def list_targets(target: Path) -> list[Path]:
    """The files of a sheet; checks that they may be written.

    Raises:
        UsageError: another suffix than .html and .png, or a file that exists and is no sheet.
    """
    if target.suffix in (".html", ".png") and not target.is_dir():
        paths = [target]
    elif target.suffix and not target.is_dir():
        raise UsageError(
            f"data browse: --into: {target}: unknown suffix '{target.suffix}'. Allowed: .html, "
            ".png, or a folder. Name another file."
        )
    else:
        paths = [target / "samples.html", target / "samples.png"]
    for path in paths:
        if path.exists() and MARK.encode() not in _read_start(path):
            raise UsageError(
                f"data browse: --into: {path}: exists, and is no sheet of data browse. It was not "
                "changed. Name another file."
            )
    return paths


def _read_start(path: Path) -> bytes:
    if not path.is_file():
        return b""
    with open(path, "rb") as file:
        return file.read(400)


def _to_css(color: Color | None) -> str:
    if color is None:
        return "repeating-linear-gradient(45deg,#fff 0 3px,#141414 3px 6px)"
    return "#{:02x}{:02x}{:02x}".format(*color)


def _to_png(picture: Image.Image, note: PngImagePlugin.PngInfo | None = None) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG", pnginfo=note)
    return data.getvalue()


def _to_url(picture: Image.Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(_to_png(picture)).decode()}"


def _choose_columns(count: int, width: int, height: int) -> int:
    """The number of columns with which a sheet is nearest to a square."""

    def measure_excess(columns: int) -> float:
        sides = columns * width, -(-count // columns) * height
        return max(sides) / min(sides)

    return min(range(1, count + 1), key=measure_excess)


def _wrap_text(parts: Sequence[str], font: Font, width: int) -> list[str]:
    """Break lines at spaces so that each fits into a width in pixels."""
    lines = []
    for part in parts:
        line = ""
        for word in part.split(" "):
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


def _wrap_legend(names: Sequence[str], font: Font, width: int) -> list[list[str]]:
    rows: list[list[str]] = [[]]
    used = 0
    for name in names:
        if rows[-1] and used + _measure_entry(name, font) > width:
            rows.append([])
            used = 0
        rows[-1].append(name)
        used += _measure_entry(name, font)
    return rows


def _measure_entry(name: str, font: Font) -> int:
    return SWATCH + 4 + round(font.getlength(name)) + MARGIN
