"""The kinds of figures: a metric, loss curves, and IoU by class against class frequency."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from protoseg.errors import ProtosegError, UsageError
from protoseg.report import wording
from protoseg.report.figures.data import (
    AxisPlot,
    ClassPanel,
    ClassPlot,
    DotPlot,
    Figure,
    FigureInput,
    LossPanel,
    LossPlot,
    Setting,
    SettingValues,
)
from protoseg.report.figures.numeric_axis import lines
from protoseg.report.metrics import number
from protoseg.report.statistics.significance import MIN_SEEDS
from protoseg.report.tables.samples import Samples

NAMED_CLASSES = 30
"""So many classes have room for their names and seeds; more are set against their frequency."""
NAMED = 8
"""Places without a value that a sentence names; the figure marks all of them."""


def build(reading: FigureInput, kind: str) -> Figure:
    """One figure of a matrix.

    Raises:
        UsageError: the matrix has nothing of this kind.
        ProtosegError: no record has what it needs.
    """
    return KINDS[kind](reading)


def file_name(matrix: str, kind: str) -> str:
    """The name of a figure's files: that of the matrix, and of a kind that is not the default."""
    return matrix if kind == "metric" else f"{matrix}_{kind}"


def metric_figure(reading: FigureInput) -> Figure:
    """The main metric: against a numeric axis where there is one, else row by row."""
    metric = reading.metric
    places = [setting.place(metric.key) for setting in reading.settings]
    if not any(place.seeds for place in places):
        raise ProtosegError(f"{reading.matrix.name}: no record has {metric.title}.")
    unit = metric.title if metric.unit != "%" else f"{metric.title} (%)"
    along = lines(reading)
    content: AxisPlot | DotPlot
    content = AxisPlot(along[0], unit, along[1]) if along else _dots(reading, unit)
    counts = {len(place.seeds) for place in places if place.seeds}
    note = f"{metric.title}: mean, Student t interval (95 %) and single seeds (small)"
    note += f", n = {wording.seeds(*counts)}." if len(counts) == 1 else "."
    if min(counts) < MIN_SEEDS:
        note += f" No interval is drawn with fewer than {MIN_SEEDS} seeds."
    if isinstance(content, DotPlot) and content.baseline:
        note += f" Dotted: {content.baseline}."
    notes = [note, *reading.protocol(), *_missing((p.label, p.missing) for p in places)]
    if reading.literature is not None:
        if any(place.published is not None for place in places):
            notes.append(f"Published, not measured here: {reading.literature.source}.")
        else:
            notes.append("Published values are of other data or unknown, and not drawn.")
    return _figure(reading, "metric", notes, content)


def _dots(reading: FigureInput, unit: str) -> DotPlot:
    groups = tuple(dict.fromkeys(setting.group for setting in reading.settings))
    rows: dict[str, dict[str, SettingValues]] = {}
    for setting in reading.settings:
        rows.setdefault(setting.row, {})[setting.group] = setting.place(reading.metric.key)
    against = reading.baselines
    found = [against.of(s.samples) for s in reading.settings] if against is not None else []
    # A line across the figure stands for one baseline, not for one of several.
    one = found[0] if found and all(samples is found[0] for samples in found) else None
    drawn = one is not None and bool(one.values.get(reading.metric.key))
    baseline = next((s.label for s in reading.settings if drawn and s.samples is one), "")
    table = tuple((row, tuple(cells.get(g) for g in groups)) for row, cells in rows.items())
    return DotPlot(unit, groups, table, baseline)


def loss_figure(reading: FigureInput) -> Figure:
    """The training loss over the iterations, a panel a setting."""
    against = _references(reading)
    panels = tuple(_loss_panel(setting, against.get(setting.label)) for setting in reading.settings)
    if not any(panel.seeds for panel in panels):
        raise ProtosegError(f"{reading.matrix.name}: no record has a loss curve.")
    notes = [
        "Training loss, each point the mean since the one before: mean over seeds (black), their "
        f"range (blue), the mean of {_beside(panel.baseline for panel in panels)} (grey). What is "
        "summed up in the loss differs between methods.",
        *_missing((panel.label, panel.missing) for panel in panels),
    ]
    return _figure(reading, "loss", notes, LossPlot(panels))


def _loss_panel(setting: Setting, base: Setting | None) -> LossPanel:
    curves: dict[int, dict[int, float]] = {}
    for seed, record in setting.records.items():
        points = {int(i): number(losses, "loss") for i, losses in record["losses"]}
        curve = {i: value for i, value in points.items() if value is not None}
        if curve:
            curves[seed] = curve
    shared = sorted(set.intersection(*(set(c) for c in curves.values()))) if curves else []
    seeds = {seed: tuple(curve[i] for i in shared) for seed, curve in curves.items() if shared}
    missing = setting.missing(seeds)
    against = (base or setting).label
    return LossPanel(setting.label, tuple(shared), seeds, against, missing)


def class_figure(reading: FigureInput) -> Figure:
    """IoU by class beside the baseline's, the classes by how frequent they are."""
    name = reading.matrix.name
    against = _references(reading)
    panels: list[ClassPanel] = []
    shares: dict[str, float] = {}
    missing: dict[str, str] = {}
    for setting in reading.settings:
        base = against.get(setting.label)
        if base is None or base is setting:
            continue
        ours, theirs = _classes(setting), _classes(base)
        records = [*setting.records.values(), *base.records.values()]
        for record in records:
            found = _shares(record)
            if shares and found != shares:
                raise UsageError(
                    f"{name}: classes: its runs are evaluated on different classes or pixels, "
                    "which can not share an axis; draw a matrix of one data set."
                )
            shares = found
        for one in (base, setting):
            missing[one.label] = one.missing(one.records)
        panels.append(ClassPanel(setting.label, base.label, ours, theirs, missing[setting.label]))
    if not panels:
        raise UsageError(
            f"{name}: classes: a figure of classes sets rows beside a baseline; it has one row."
        )
    if not shares:
        raise ProtosegError(f"{name}: no record that classes could be drawn of has finished.")
    order = dict(sorted(shares.items(), key=lambda item: -item[1]))
    seeds = " and single seeds (black)" if len(order) <= NAMED_CLASSES else ""
    notes = [
        f"IoU of each class, mean over seeds (filled){seeds}, beside the mean of "
        f"{_beside(panel.baseline for panel in panels)} (hollow).",
        *reading.protocol(),
        *_missing(missing.items()),
    ]
    return _figure(reading, "classes", notes, ClassPlot(order, tuple(panels)))


def _references(reading: FigureInput) -> dict[str, Setting]:
    """Label -> what a setting is set against: its baseline, or the first row where none is named.

    A setting whose baseline is not planned, or is measured otherwise, has none.
    """
    by_samples = {id(setting.samples): setting for setting in reading.settings}
    found = {}
    for setting in reading.settings:
        base: Samples | None = reading.settings[0].samples
        if reading.baselines is not None:
            base = reading.baselines.of(setting.samples)
        if base is not None and base.protocol == setting.samples.protocol:
            found[setting.label] = by_samples[id(base)]
    return found


def _beside(baselines: Iterable[str]) -> str:
    names = {*baselines}
    return names.pop() if len(names) == 1 else "its baseline"


def _classes(setting: Setting) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for seed, record in setting.records.items():
        for entry in record["per_class"]:
            iou = number(entry, "iou")
            if iou is not None:
                found.setdefault(wording.clean(entry["name"]), {})[seed] = iou
    return found


def _shares(record: dict[str, Any]) -> dict[str, float]:
    """Class -> percent of the pixels, in class order."""
    pixels = {wording.clean(e["name"]): number(e, "pixels") or 0.0 for e in record["per_class"]}
    total = sum(pixels.values())
    return {name: 100 * count / total if total else 0.0 for name, count in pixels.items()}


def _missing(places: Iterable[tuple[str, str]]) -> list[str]:
    lost = [f"{label} ({words})" for label, words in places if words]
    if not lost:
        return []
    more = f"; and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
    return [f"Missing: {'; '.join(lost[:NAMED])}{more}."]


def _figure(reading: FigureInput, kind: str, notes: Sequence[str], content: Any) -> Figure:
    name = file_name(reading.matrix.name, kind)
    shown = tuple(wording.clean(note) for note in notes)
    return Figure(name, kind, reading.table.title, shown, content)


KINDS: dict[str, Callable[[FigureInput], Figure]] = {
    "metric": metric_figure,
    "loss": loss_figure,
    "classes": class_figure,
}
"""Name of a kind -> how it is made; the first is the default."""
