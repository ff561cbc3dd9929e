"""Draws confusion matrices and embedding spaces."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D

from protoseg.config.class_colors import list_safe_colors
from protoseg.errors import UsageError
from protoseg.report.figures.metric_plots import COLUMN, draw_legend, wrap_label
from protoseg.report.figures.panel_plots import WIDE
from protoseg.report.figures.samples.plots import (
    PROJECTIONS,
    ConfusionPanel,
    ConfusionPlot,
    EmbeddingPanel,
    EmbeddingPlot,
)
from protoseg.runs.results.samples import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

NAMED_CLASSES = 30
"""Up to this number, classes are named."""
NUMBERED_CLASSES = 12
"""Up to this number, the cells of a single matrix have numbers."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
NEIGHBOURS = 15
"""Of UMAP; its default."""
PERPLEXITY = 30.0


def draw_confusion(canvas: Canvas, plot: ConfusionPlot) -> None:
    """Draw a matrix for each row, with one colour bar."""
    count, classes = len(plot.panels), len(plot.names)
    is_named = classes <= NAMED_CLASSES
    columns = 1 if count == 1 else 2 if count <= 4 else 4
    width = WIDE if columns == 4 else COLUMN
    lines = math.ceil(count / columns)
    longest = max(map(len, plot.names)) if is_named else 0
    label = 0.042 * longest + 0.22
    side = (width - label - 0.5) / columns
    titles = [wrap_label(panel.label, int(side * 16)) for panel in plot.panels]
    head = 0.1 * max(map(len, titles)) + 0.06
    canvas.set_size_inches(width, lines * (side + head) + label + 0.2)
    panels: Any = canvas.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    image: Any = None
    for axes, panel, title in zip(panels.flat, plot.panels, titles, strict=False):
        image = _draw_matrix(axes, panel, is_numbered=count == 1 and classes <= NUMBERED_CLASSES)
        axes.set_title("\n".join(title), loc="left")
        axes.tick_params(length=0, pad=1.5, labelsize=min(5.5, 72 * side / classes * 0.9))
    if is_named:  # the panels share their axes
        panels[0][0].set_xticks(range(classes), plot.names, rotation=90)
        panels[0][0].set_yticks(range(classes), plot.names)
        for axes in panels.flat[:count]:
            axes.tick_params(axis="x", labelrotation=90)
    for axes in panels.flat[count:]:
        axes.remove()
    for column in range(columns):  # the last panel of a column has the names
        last = panels[(count - 1 - column) // columns][column]
        last.tick_params(axis="x", labelbottom=True)
        last.set_xlabel("prediction", fontsize=6)
    for line in range(lines):
        panels[line][0].set_ylabel("ground truth", fontsize=6)
    # Beside the matrices, not beside the names below them.
    share = lines * side / (lines * (side + head) + label)
    bar = canvas.colorbar(
        image,
        ax=list(panels.flat[:count]),
        fraction=0.04,
        pad=0.01,
        aspect=25,
        shrink=share,
        anchor=(0.0, 0.75),
    )
    bar.set_ticks([0, 50, 100], labels=["0%", "50%", "100%"])
    bar.ax.tick_params(labelsize=5.5)
    bar.outline.set_linewidth(0.4)


def _draw_matrix(axes: Axes, panel: ConfusionPanel, *, is_numbered: bool) -> Any:
    shares = np.array([[np.nan if v is None else v for v in row] for row in panel.shares])
    # `cividis` keeps its order for colour-blind readers and in grey prints.
    image = axes.imshow(shares, vmin=0, vmax=100, cmap="cividis", interpolation="none")
    image.set_gid("matrix")
    axes.set_facecolor("0.8")
    for spine in axes.spines.values():
        spine.set_visible(False)
    if is_numbered:
        for row, values in enumerate(shares):
            for column, value in enumerate(values):
                if value >= 0.5:
                    axes.text(
                        column, row, f"{value:.0f}", ha="center", va="center", fontsize=4.5,
                        color="black" if value > 50 else "white",
                    )  # fmt: skip
    return image


def draw_embeddings(canvas: Canvas, plot: EmbeddingPlot) -> None:
    """Draw the pixels of each row in two dimensions; classes differ in colour and marker.

    Raises:
        UsageError: scikit-learn is not installed.
    """
    count = len(plot.panels)
    side = (COLUMN - 0.1) / max(count, 2)
    titles = [wrap_label(panel.label, int(side * 16)) for panel in plot.panels]
    canvas.set_size_inches(side * count + 0.1, side + 0.1 * max(map(len, titles)) + 0.08)
    if count == 1:
        canvas.set_size_inches(COLUMN, COLUMN * 0.75)
    colours = np.array(list_safe_colors(max(len(plot.names), 1))) / 255
    grid: Any = canvas.subplots(1, count, squeeze=False)
    for axes, panel, title in zip(grid[0], plot.panels, titles, strict=True):
        points, prototypes = project_panel(panel, plot.seed, plot.projection)
        for index in range(len(plot.names)):
            style = {"color": colours[index % len(colours)], "marker": MARKERS[index % 8]}
            of_class = points[panel.classes == index]
            axes.plot(
                of_class[:, 0], of_class[:, 1], linestyle="", markersize=1.7, markeredgewidth=0,
                gid=f"pixels-{index}", **style,
            )  # fmt: skip
            marked = prototypes[panel.prototype_classes == index]
            axes.plot(
                marked[:, 0], marked[:, 1], linestyle="", markersize=5.5, markeredgecolor="black",
                markeredgewidth=0.9, zorder=4, gid=f"prototypes-{index}", **style,
            )  # fmt: skip
        axes.set_title("\n".join(title), loc="left")
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(visible=True, color="0.7")
    handles = [
        Line2D([], [], linestyle="None", marker=MARKERS[i % 8], color=colours[i], label=name)
        for i, name in enumerate(plot.names)
    ]
    draw_legend(canvas, handles)


def project_panel(panel: EmbeddingPanel, seed: int, projection: str) -> tuple[Array, Array]:
    """Project pixels and prototypes of a row together to two dimensions.

    Args:
        panel: the embeddings.
        seed: of the projection.
        projection: ``tsne`` or ``umap``.

    Returns:
        Pixels (N, 2) and prototypes (P, 2).

    Raises:
        UsageError: the package of the projection is not installed.
    """
    both = np.concatenate([panel.points, panel.prototypes])
    flat = np.zeros((len(both), 2))
    if len(both) >= 3:
        flat = PROJECT[projection](both, seed)
    return flat[: len(panel.points)], flat[len(panel.points) :]


def _project_with_tsne(vectors: Array, seed: int) -> Array:
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise _describe_missing_package("tsne", "scikit-learn") from error
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    with threadpool_limits(1):  # several threads would add in another order
        tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
        flat: Array = tsne.fit_transform(vectors)
    return flat


def _project_with_umap(vectors: Array, seed: int) -> Array:
    try:
        from umap import UMAP
    except ImportError as error:
        raise _describe_missing_package("umap", "umap-learn") from error
    few = len(vectors) < 10  # for so few, the spectral start has no solution
    umap = UMAP(
        n_neighbors=min(NEIGHBOURS, len(vectors) - 1),
        init="random" if few else "spectral",
        random_state=seed,
        n_jobs=1,  # several threads would add in another order
    )
    flat: Array = umap.fit_transform(vectors)
    return flat


def _describe_missing_package(projection: str, package: str) -> UsageError:
    extra = "umap" if projection == "umap" else "figures"
    return UsageError(
        f"embeddings: {PROJECTIONS[projection]} needs {package}, which is not installed. Install "
        f"it with: pip install 'protoseg[{extra}]'"
    )


PROJECT = {"tsne": _project_with_tsne, "umap": _project_with_umap}
