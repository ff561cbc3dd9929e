"""Builds the figure types: a metric, loss curves, learning curves, and IoU per class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from protoseg.errors import ProtosegError, UsageError
from protoseg.report import wording
from protoseg.report.curves import read_curve
from protoseg.report.figures.budget import build_budget_figure
from protoseg.report.figures.contents import (
    AxisPlot,
    ClassPanel,
    ClassPlot,
    Content,
    CurvePanel,
    DotPlot,
    Figure,
    LossPlot,
    MetricCurvePlot,
    SettingValues,
    describe_missing_settings,
    make_figure,
)
from protoseg.report.figures.data import FigureInput, Setting
from protoseg.report.figures.numeric_axis import find_lines
from protoseg.report.metrics import read_number
from protoseg.report.statistics.significance import MIN_SEEDS
from protoseg.report.tables.samples import Samples

NAMED_CLASSES = 30
"""Up to this number, classes are named and seeds drawn; more are drawn over their frequency."""


def build_figure(figure_input: FigureInput, figure_type: str) -> Figure:
    """Build a figure of a matrix.

    Args:
        figure_type: the figure type, a key of `FIGURE_TYPES`.

    Raises:
        UsageError: the matrix cannot have a figure of this type.
        ProtosegError: no record has the data of the figure.
    """
    return FIGURE_TYPES[figure_type](figure_input)


def build_metric_figure(figure_input: FigureInput) -> Figure:
    """Build the figure of the main metric: over a numeric axis if there is one, else by row."""
    metric = figure_input.metric
    settings = [setting.values_of(metric.key) for setting in figure_input.settings]
    if not any(setting.seeds for setting in settings):
        raise ProtosegError(f"{figure_input.matrix.name}: no record has {metric.title}.")
    unit = metric.title if metric.unit != "%" else f"{metric.title} (%)"
    axis = find_lines(figure_input)
    content: AxisPlot | DotPlot
    content = AxisPlot(axis[0], unit, axis[1]) if axis else _build_dots(figure_input, unit)
    counts = {len(setting.seeds) for setting in settings if setting.seeds}
    note = f"{metric.title}: mean, 95% Student t interval over seeds and single seeds (small)"
    note += f", n = {wording.format_seeds(*counts)}." if len(counts) == 1 else "."
    if min(counts) < MIN_SEEDS:
        note += f" No interval is drawn with fewer than {MIN_SEEDS} seeds."
    if isinstance(content, DotPlot) and content.baseline:
        note += f" Dotted: {content.baseline}."
    notes = [
        note,
        *figure_input.describe_protocol(),
        *describe_missing_settings((s.label, s.missing) for s in settings),
    ]
    if figure_input.literature is not None:
        if any(setting.published is not None for setting in settings):
            notes.append(f"Published, not measured here: {figure_input.literature.source}.")
        else:
            notes.append("Published values are of other data or unknown, and not drawn.")
    return _make_figure(figure_input, "metric", notes, content)


def _build_dots(figure_input: FigureInput, unit: str) -> DotPlot:
    groups = tuple(dict.fromkeys(setting.group for setting in figure_input.settings))
    rows: dict[str, dict[str, SettingValues]] = {}
    for setting in figure_input.settings:
        rows.setdefault(setting.row, {})[setting.group] = setting.values_of(figure_input.metric.key)
    against = figure_input.baselines
    bases = [against.find(s.samples) for s in figure_input.settings] if against is not None else []
    # The baseline is drawn as a line across the figure only if all settings have the same one.
    base = bases[0] if bases and all(samples is bases[0] for samples in bases) else None
    drawn = base is not None and bool(base.values.get(figure_input.metric.key))
    baseline = next((s.label for s in figure_input.settings if drawn and s.samples is base), "")
    table = tuple((row, tuple(cells.get(g) for g in groups)) for row, cells in rows.items())
    return DotPlot(unit, groups, table, baseline)


def build_loss_figure(figure_input: FigureInput) -> Figure:
    """Build the figure of the training loss over iterations, one panel per setting."""
    bases = _find_bases(figure_input)
    panels = tuple(
        _build_loss_panel(setting, bases.get(setting.label)) for setting in figure_input.settings
    )
    if not any(panel.seeds for panel in panels):
        raise ProtosegError(f"{figure_input.matrix.name}: no record has a loss curve.")
    baseline = _name_baseline(panel.baseline for panel in panels)
    notes = [
        "Training loss, each point the mean since the one before: mean over seeds (black), their "
        f"range (blue), the mean of {baseline} (grey). What is "
        "summed up in the loss differs between methods.",
        *describe_missing_settings((panel.label, panel.missing) for panel in panels),
    ]
    return _make_figure(figure_input, "loss", notes, LossPlot(panels))


def _build_loss_panel(setting: Setting, base: Setting | None) -> CurvePanel:
    curves = {
        seed: {int(i): read_number(losses, "loss") for i, losses in record["losses"]}
        for seed, record in setting.records.items()
    }
    return _build_panel(setting, base, curves)


def build_curve_figure(figure_input: FigureInput) -> Figure:
    """Build the figure of mIoU over iterations (``evaluation.every``), one panel per setting."""
    bases = _find_bases(figure_input)
    panels = tuple(
        _build_panel(
            setting,
            bases.get(setting.label),
            {seed: read_curve(record, "miou") for seed, record in setting.records.items()},
            "no curve",
        )
        for setting in figure_input.settings
    )
    if not any(panel.seeds for panel in panels):
        raise ProtosegError(
            f"{figure_input.matrix.name}: curves: no record has metrics on the way. Train with "
            "evaluation.every=N, the iterations between two evaluations."
        )
    notes = [
        "mIoU of the model during the training: mean over seeds (black), their range (blue), the "
        f"mean of {_name_baseline(panel.baseline for panel in panels)} (grey).",
        *figure_input.describe_protocol(),
        *describe_missing_settings((panel.label, panel.missing) for panel in panels),
    ]
    return _make_figure(figure_input, "curves", notes, MetricCurvePlot(panels))


def has_curves(figure_input: FigureInput) -> bool:
    """Whether a record has metrics on the way."""
    return any(
        read_curve(record, "miou")
        for setting in figure_input.settings
        for record in setting.records.values()
    )


def _build_panel(
    setting: Setting,
    base: Setting | None,
    values: Mapping[int, Mapping[int, float | None]],
    unrecorded: str = "not in the record",
) -> CurvePanel:
    """Build a panel of the iterations that all seeds have.

    Args:
        values: seed -> iteration -> value.
        unrecorded: the reason why a seed with a record has no value.
    """
    curves: dict[int, dict[int, float]] = {}
    for seed, points in values.items():
        curve = {i: value for i, value in points.items() if value is not None}
        if curve:
            curves[seed] = curve
    shared = sorted(set.intersection(*(set(c) for c in curves.values()))) if curves else []
    seeds = {seed: tuple(curve[i] for i in shared) for seed, curve in curves.items() if shared}
    missing = setting.describe_missing(seeds, unrecorded)
    return CurvePanel(setting.label, tuple(shared), seeds, (base or setting).label, missing)


def build_class_figure(figure_input: FigureInput) -> Figure:
    """Build the figure of IoU per class beside the baseline, the most frequent class first."""
    name = figure_input.matrix.name
    bases = _find_bases(figure_input)
    panels: list[ClassPanel] = []
    shares: dict[str, float] = {}
    missing: dict[str, str] = {}
    for setting in figure_input.settings:
        base = bases.get(setting.label)
        if base is None or base is setting:
            continue
        ours, theirs = _read_classes(setting), _read_classes(base)
        records = [*setting.records.values(), *base.records.values()]
        for record in records:
            record_shares = _compute_shares(record)
            if shares and record_shares != shares:
                raise UsageError(
                    f"{name}: classes: its runs are evaluated on different classes or pixels, "
                    "which cannot share an axis. Draw a matrix of one data set."
                )
            shares = record_shares
        for side in (base, setting):
            missing[side.label] = side.describe_missing(side.records)
        panels.append(ClassPanel(setting.label, base.label, ours, theirs, missing[setting.label]))
    if not panels:
        raise UsageError(
            f"{name}: classes: this figure compares rows with a baseline, but there is one row."
        )
    if not shares:
        raise ProtosegError(f"{name}: classes: no run with IoU per class has finished.")
    order = dict(sorted(shares.items(), key=lambda item: -item[1]))
    seeds = " and single seeds (black)" if len(order) <= NAMED_CLASSES else ""
    notes = [
        f"IoU of each class, mean over seeds (filled){seeds}, beside the mean of "
        f"{_name_baseline(panel.baseline for panel in panels)} (hollow).",
        *figure_input.describe_protocol(),
        *describe_missing_settings(missing.items()),
    ]
    return _make_figure(figure_input, "classes", notes, ClassPlot(order, tuple(panels)))


def _find_bases(figure_input: FigureInput) -> dict[str, Setting]:
    """Label -> baseline of a setting; the first row if the table declares no baseline.

    A setting has none if its baseline is not planned or has another evaluation.
    """
    by_samples = {id(setting.samples): setting for setting in figure_input.settings}
    bases = {}
    for setting in figure_input.settings:
        base: Samples | None = figure_input.settings[0].samples
        if figure_input.baselines is not None:
            base = figure_input.baselines.find(setting.samples)
        if base is not None and base.protocol == setting.samples.protocol:
            bases[setting.label] = by_samples[id(base)]
    return bases


def _name_baseline(baselines: Iterable[str]) -> str:
    names = {*baselines}
    return names.pop() if len(names) == 1 else "its baseline"


def _read_classes(setting: Setting) -> dict[str, dict[int, float]]:
    """Class -> seed -> IoU in percent."""
    classes: dict[str, dict[int, float]] = {}
    for seed, record in setting.records.items():
        for entry in record["per_class"]:
            iou = read_number(entry, "iou")
            if iou is not None:
                classes.setdefault(wording.clean_text(entry["name"]), {})[seed] = iou
    return classes


def _compute_shares(record: dict[str, Any]) -> dict[str, float]:
    """Class -> percentage of the pixels, in class order."""
    pixels = {
        wording.clean_text(e["name"]): read_number(e, "pixels") or 0.0 for e in record["per_class"]
    }
    total = sum(pixels.values())
    return {name: 100 * count / total if total else 0.0 for name, count in pixels.items()}


def _make_figure(
    figure_input: FigureInput, figure_type: str, notes: Sequence[str], content: Content
) -> Figure:
    name, title = figure_input.matrix.name, figure_input.table.title
    return make_figure(name, figure_type, title, notes, content)


FIGURE_TYPES: dict[str, Callable[[FigureInput], Figure]] = {
    "metric": build_metric_figure,
    "loss": build_loss_figure,
    "curves": build_curve_figure,
    "classes": build_class_figure,
    "budget": build_budget_figure,
}
"""Figure type -> the function that builds it; the first is the default."""
