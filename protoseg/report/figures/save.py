"""Writes figures as SVG, PDF and PNG; equal data gives equal bytes.

The style sets everything: the user's matplotlibrc, fonts and clock have no effect. Each file
contains the digest of its data, which `protoseg verify` compares with the records.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure as Canvas

from protoseg import files
from protoseg.errors import ProtosegError
from protoseg.report.figures.contents import (
    FORMS,
    MARK,
    AxisPlot,
    BudgetPlot,
    ClassPlot,
    DotPlot,
    Figure,
    LossPlot,
    MetricCurvePlot,
    TrialPlot,
    TuningCurvePlot,
    read_digest,
)
from protoseg.report.figures.metric_plots import draw_axis, draw_budget, draw_dots, wrap_label
from protoseg.report.figures.panel_plots import draw_classes, draw_loss, draw_metric_curves
from protoseg.report.figures.samples import plots
from protoseg.report.figures.samples.image_plots import (
    draw_disagreement,
    draw_examples,
    draw_prototypes,
)
from protoseg.report.figures.samples.pictures import Pictures, PictureSource
from protoseg.report.figures.samples.vector_plots import draw_confusion, draw_embeddings
from protoseg.report.figures.trial_plots import draw_trials, draw_tuning_curves

DOTS_PER_INCH = 200

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # part of matplotlib, so it is the same on every machine
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 6,
    "axes.titlepad": 2.5,
    "axes.labelpad": 2,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "0.88",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.6,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "legend.borderpad": 0.1,
    "legend.labelspacing": 0.2,
    "legend.handlelength": 2.2,
    "legend.columnspacing": 1.2,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.02,
    "figure.constrained_layout.w_pad": 0.02,
    "figure.dpi": 100,
    "text.parse_math": False,  # a "$" in a label is printed as "$"
    "svg.fonttype": "path",
    "svg.hashsalt": "protoseg",
    "pdf.fonttype": 42,
}
NOTE_SIZE = 5.5
NOTE_WIDTH = 24
"""Characters per line of a note, for each inch of the width of the figure."""


DRAW: dict[type, Callable[[Canvas, Any], Any]] = {
    AxisPlot: draw_axis,
    DotPlot: draw_dots,
    LossPlot: draw_loss,
    MetricCurvePlot: draw_metric_curves,
    ClassPlot: draw_classes,
    BudgetPlot: draw_budget,
    TrialPlot: draw_trials,
    TuningCurvePlot: draw_tuning_curves,
    plots.ConfusionPlot: draw_confusion,
    plots.EmbeddingPlot: draw_embeddings,
}
"""Data of a figure -> the function that draws it."""

DRAW_WITH_PICTURES: dict[type, Callable[[Canvas, Any, Pictures], Any]] = {
    plots.ExamplePlot: draw_examples,
    plots.DisagreementPlot: draw_disagreement,
    plots.PrototypePlot: draw_prototypes,
}
"""Data of a figure -> the function that draws it with pictures from the data folder."""


def draw_figure(figure: Figure, source: PictureSource | None = None) -> Canvas:
    """Draw a figure within `figure_style`; the artists are named by ``gid``.

    Args:
        figure: what to draw.
        source: of pictures; without it grey panels are drawn.

    Raises:
        UsageError: a package that the figure needs is not installed.
    """
    canvas, content, notes = Canvas(), figure.content, list(figure.notes)
    if type(content) in DRAW_WITH_PICTURES:
        assert isinstance(content, plots.SamplePlot)
        pictures = Pictures(source, content.folder)
        DRAW_WITH_PICTURES[type(content)](canvas, content, pictures)
        notes += pictures.describe_missing()
    else:
        DRAW[type(content)](canvas, content)
    width, height = canvas.get_size_inches()
    lines = wrap_label(" ".join(notes), int(NOTE_WIDTH * width))
    canvas.set_size_inches(width, height + 0.1 * len(lines) + 0.06)
    canvas.supxlabel(
        "\n".join(lines), x=0.01, ha="left", fontsize=NOTE_SIZE, color="0.3", linespacing=1.25
    )
    return canvas


def render_files(figure: Figure, source: PictureSource | None = None) -> dict[str, bytes]:
    """Render a figure in all formats: file name -> bytes; see `draw_figure`."""
    contents = {}
    with figure_style():
        canvas = draw_figure(figure, source)
        canvas.draw_without_rendering()  # one layout for all formats
        canvas.set_layout_engine("none")
        for form in FORMS:
            file = io.BytesIO()
            metadata = _metadata(figure, form)
            canvas.savefig(file, format=form, dpi=DOTS_PER_INCH, metadata=metadata)
            contents[f"{figure.name}.{form}"] = file.getvalue()
    return contents


def figure_style() -> Any:
    """Return a context with matplotlib's defaults and `STYLE`, without the user's settings."""
    # The backend has no effect on files, and the context would not restore it.
    plain: dict[str, Any] = {k: v for k, v in matplotlib.rcParamsDefault.items() if k != "backend"}
    settings: Any = plain | STYLE
    return matplotlib.rc_context(settings)


def _metadata(figure: Figure, form: str) -> dict[str, Any]:
    """Metadata of a file: title, notes and digest, but no date, version or host."""
    mark, notes = MARK + figure.digest, " ".join(figure.notes)
    if isinstance(figure.content, plots.OptionPlot):
        mark += f" {plots.MARK}{figure.content.options}"
    if form == "svg":
        texts = {"Title": figure.title, "Description": notes, "Identifier": mark}
        return {**texts, "Creator": "protoseg", "Date": None}
    if form == "pdf":
        texts = {"Title": figure.title, "Subject": notes, "Keywords": mark}
        return {**texts, "Creator": "protoseg", "Producer": None, "CreationDate": None}
    return {
        "Title": figure.title,
        "Description": notes,
        "Identifier": mark,
        "Software": "protoseg",
    }


def write_figure_files(
    figure: Figure, folder: Path, source: PictureSource | None = None
) -> list[Path]:
    """Write a figure in all formats; a file with equal bytes is not written again.

    Args:
        figure: what to draw.
        folder: of the files.
        source: of pictures.

    Raises:
        UsageError: a package that the figure needs is not installed.
        ProtosegError: the folder is not writable; or pictures are missing, with which the same
            figure was drawn before.
    """
    files.make_folder(folder)
    known = len(source.lost) if source is not None else 0
    contents = render_files(figure, source)
    lost = [] if source is None else source.lost[known:]
    paths = []
    for name, content in contents.items():
        path = folder / name
        old = path.read_bytes() if path.is_file() else content
        if lost and old != content and read_digest(old) == figure.digest:
            raise ProtosegError(
                f"{path}: is kept, because {lost[-1]} was not read, so the figure would be drawn "
                "without pictures. Name the data with --data, or remove the file."
            )
        if not path.is_file() or path.read_bytes() != content:
            files.write_bytes(path, content)
        paths.append(path)
    return paths
