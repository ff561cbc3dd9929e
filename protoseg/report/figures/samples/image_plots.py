"""Draws figures with pictures: examples, disagreement, and prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from protoseg.report.figures.metric_plots import COLUMN, draw_legend, wrap_label
from protoseg.report.figures.panel_plots import WIDE
from protoseg.report.figures.samples.pictures import MISSING, Pictures
from protoseg.report.figures.samples.plots import (
    DisagreementPlot,
    ExamplePlot,
    LabelledImage,
    PrototypePanel,
    PrototypePlot,
)
from protoseg.runs.results.samples import Array
from protoseg.runs.results.samples_reduction import resize_nearest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

GREY_PANEL = 200
"""Grey value of the panel of a picture that is not here."""
NARROW = 5
"""Up to this number of columns, a figure has the width of one text column."""
PATCH_SIDE = 0.22
"""Side of a patch, as a share of the shorter side of its picture."""
PATCH_INCHES = 0.36
"""Largest width of a patch."""
FAINT, OPAQUE = 0.25, 0.85
"""Opacity of the lowest and the highest similarity."""
PIXELS_PER_INCH = 220
"""Of pictures in a figure."""


def draw_examples(canvas: Canvas, plot: ExamplePlot, pictures: Pictures) -> None:
    """Draw a line for each image: the picture, the ground truth, and each prediction."""
    titles = ["image", "ground truth", *plot.rows]
    _draw_images(canvas, plot, titles, pictures)


def draw_disagreement(canvas: Canvas, plot: DisagreementPlot, pictures: Pictures) -> None:
    """Draw the images of two rows, with dashed boxes in both predictions."""
    titles = ["image", "ground truth", *(f"{x}: {r}" for x, r in zip("AB", plot.rows, strict=True))]
    grid = _draw_images(canvas, plot, titles, pictures)
    for line, image in zip(grid, plot.images, strict=True):
        for axes in line[2:]:
            for top, left, bottom, right in image.boxes:
                for colour, width in (("black", 1.1), ("white", 0.7)):
                    axes.add_patch(
                        Rectangle(
                            (left - 0.5, top - 0.5), right - left, bottom - top, fill=False,
                            edgecolor=colour, linewidth=width,
                            linestyle="-" if colour == "black" else (0, (3, 2)),
                            gid="box", clip_on=False,
                        )
                    )  # fmt: skip


def _draw_images(
    canvas: Canvas, plot: ExamplePlot, titles: Sequence[str], pictures: Pictures
) -> Any:
    """Draw the grid of images and the legend of classes; returns the axes, (images, columns)."""
    columns = len(titles)
    width = COLUMN if columns <= NARROW else WIDE
    cell = (width - 0.04) / columns - 0.04
    heights = [cell * image.truth.shape[0] / image.truth.shape[1] for image in plot.images]
    heads = [wrap_label(title, max(11, int(cell * 17))) for title in titles]
    head = 0.1 * max(map(len, heads)) + 0.04
    foot = 0.1  # the mIoU below an image
    canvas.set_size_inches(width, sum(heights) + (foot + 0.04) * len(heights) + head)
    grid: Any = canvas.subplots(
        len(plot.images), columns, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axes, lines in zip(grid[0], heads, strict=True):
        axes.set_title("\n".join(lines), fontsize=6)
    for line, image in zip(grid, plot.images, strict=True):
        _draw_line(line, plot, image, pictures, cell)
    drawn = [each for image in plot.images for each in (image.truth, *image.predictions)]
    present = np.unique(np.concatenate([np.unique(labels) for labels in drawn]))
    handles = [
        Line2D(
            [], [], linestyle="None", marker="s", markersize=4.5, markeredgecolor="0.4",
            markeredgewidth=0.3, color=_scale_colour(plot.colours.colours[c]),
            label=plot.colours.names[c],
        )
        for c in present.tolist()
        if c < len(plot.colours.names)
    ]  # fmt: skip
    draw_legend(canvas, handles)
    return grid


def _draw_line(
    line: Sequence[Axes], plot: ExamplePlot, image: LabelledImage, pictures: Pictures, cell: float
) -> None:
    height, width = image.truth.shape
    box = (-0.5, width - 0.5, height - 0.5, -0.5)
    picture = pictures.read_picture(image.name)
    _show_picture(line[0], picture, image.truth.shape, box, cell)
    maps = (image.truth, *image.predictions)
    for axes, labels in zip(line[1:], maps, strict=True):
        axes.imshow(plot.colours.paint(labels), interpolation="none", extent=box, gid="labels")
    for axes, miou in zip(line[2:], image.mious, strict=True):
        axes.set_xlabel(f"{miou:.1f}", fontsize=5, labelpad=1)
    for axes in line:
        _hide_ticks(axes)


def _show_picture(
    axes: Axes,
    picture: Array | None,
    shape: tuple[int, ...],
    box: tuple[float, float, float, float],
    width: float,
) -> None:
    """Show a picture at a width in inches, or a grey panel."""
    if picture is None:
        grey = np.full((*shape, 3), GREY_PANEL, np.uint8)
        axes.imshow(grey, interpolation="none", extent=box, gid="missing")
        axes.text(
            0.5, 0.5, MISSING.replace(" not", "\nnot"), transform=axes.transAxes, ha="center",
            va="center", fontsize=5, color="0.25",
        )  # fmt: skip
        return
    axes.imshow(shrink_picture(picture, width), interpolation="none", extent=box, gid="picture")


def shrink_picture(picture: Array, width: float) -> Array:
    """Shrink a picture to at most `PIXELS_PER_INCH` at a width in inches."""
    scale = PIXELS_PER_INCH * width / picture.shape[1]
    if scale >= 1:
        return picture
    size = (round(picture.shape[1] * scale), max(1, round(picture.shape[0] * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def draw_prototypes(canvas: Canvas, plot: PrototypePlot, pictures: Pictures) -> None:
    """Draw for each class the picture, the closest prototypes over it, and patches beside it."""
    number = len(plot.colours)
    patch = PATCH_INCHES if number <= 4 else 0.3
    aspects = [panel.size[0] / panel.size[1] for panel in plot.panels]
    count = max(len(each) for panel in plot.panels for each in panel.patches) or 1
    left = COLUMN - (patch + 0.03) * count - 0.35
    heights = [max(2 * left * a + 0.1, (patch + 0.03) * number + 0.1) + 0.14 for a in aspects]
    canvas.set_size_inches(COLUMN, sum(heights) + 0.05)
    parts = canvas.subfigures(len(plot.panels), 1, squeeze=False, height_ratios=heights)
    for part, panel in zip(parts[:, 0], plot.panels, strict=True):
        sides = part.subfigures(1, 2, width_ratios=(left, COLUMN - left))
        _draw_overlay(sides[0], panel, plot, pictures, left)
        _draw_patches(sides[1], panel, plot, pictures, count)


def _draw_overlay(
    part: Any, panel: PrototypePanel, plot: PrototypePlot, pictures: Pictures, inches: float
) -> None:
    """Draw the picture, and below it the closest prototypes over it."""
    upper, lower = part.subplots(2, 1)
    height, width = panel.size
    box = (-0.5, width - 0.5, height - 0.5, -0.5)
    picture = pictures.read_picture(panel.image)
    _show_picture(upper, picture, panel.closest.shape, box, inches)
    upper.set_title(panel.label, fontsize=6.5)
    if picture is None:
        picture = np.full((*panel.closest.shape, 3), GREY_PANEL, np.uint8)
    blended = overlay_prototypes(shrink_picture(picture, inches), panel, plot.colours)
    lower.imshow(blended, interpolation="none", extent=box, gid="overlay")
    for axes in (upper, lower):
        _hide_ticks(axes)


def overlay_prototypes(
    picture: Array, panel: PrototypePanel, colours: Sequence[tuple[int, int, int]]
) -> Array:
    """Blend the colour of the closest prototype over a grey picture.

    The opacity rises with the similarity, from `FAINT` at its lowest value in the pixels of the
    class to `OPAQUE` at its highest.

    Args:
        picture: (h, w, 3) uint8.
        panel: closest prototypes and similarities, of any size.
        colours: of the prototypes.

    Returns:
        (h, w, 3) uint8.
    """
    size = (picture.shape[0], picture.shape[1])
    closest = resize_nearest(panel.closest, size)
    similarity = resize_nearest(panel.similarity, size).astype(np.float64)
    inside = closest >= 0
    grey = np.repeat(picture.astype(np.float64).mean(2, keepdims=True), 3, axis=2)
    if inside.any():
        low, high = similarity[inside].min(), similarity[inside].max()
        share = (similarity - low) / (high - low) if high > low else np.ones_like(similarity)
        alpha = np.where(inside, FAINT + (OPAQUE - FAINT) * np.clip(share, 0, 1), 0.0)[..., None]
        grey = (1 - alpha) * grey + alpha * np.array(colours, np.float64)[closest]
    blended: Array = grey.round().astype(np.uint8)
    return blended


def _draw_patches(
    part: Any, panel: PrototypePanel, plot: PrototypePlot, pictures: Pictures, count: int
) -> None:
    """Draw a line of patches for each prototype, framed in its colour, in one panel."""
    axes = part.subplots()
    total = max(sum(panel.pixels), 1)
    pitch = 1.1
    for k, patches in enumerate(panel.patches):
        share = f"{100 * panel.pixels[k] / total:.0f}%"
        axes.text(-0.1, pitch * k + 0.5, share, fontsize=5.5, ha="right", va="center")
        for index, patch in enumerate(patches):
            x, y = pitch * index, pitch * k
            pixels = pictures.cut_patch(patch.name, (patch.row, patch.column), PATCH_SIDE)
            if pixels is None:
                pixels = np.full((1, 1, 3), GREY_PANEL, np.uint8)
            axes.imshow(
                shrink_picture(np.ascontiguousarray(pixels), PATCH_INCHES), interpolation="none",
                extent=(x, x + 1, y + 1, y), gid="patch",
            )  # fmt: skip
            axes.add_patch(
                Rectangle(
                    (x, y), 1, 1, fill=False, edgecolor=_scale_colour(plot.colours[k]),
                    linewidth=1.4,
                )
            )  # fmt: skip
    axes.set_xlim(-0.75, pitch * count)
    axes.set_ylim(pitch * len(panel.patches), -0.1)
    axes.set_anchor("N")
    _hide_ticks(axes)


def _scale_colour(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def _hide_ticks(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
