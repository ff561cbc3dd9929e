"""The runs behind one place of a table: the seeds of one setting, and what they measured."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from protoseg.config.fields import plain
from protoseg.config.matrix import Matrix
from protoseg.config.methods import WeakContrastMethod
from protoseg.config.schema import RunSpec
from protoseg.errors import ProtosegError, UsageError
from protoseg.report import metrics, wording
from protoseg.report.metrics import METRICS
from protoseg.runs.store import RecordStore

Key = tuple[str, ...]
Protocol = tuple[Any, ...]
PROTOCOL_AXIS = re.compile(r"\+{0,2}(dataset|evaluation|method\.(scales|flip))\b")
WEAK_KEYS = ("scales", "flip")
"""Of a weakly supervised method: how its pseudo-masks are made, and so how it is measured."""


@dataclass
class Samples:
    """One setting over its seeds."""

    axes: dict[str, Any]
    spec: RunSpec
    """That of its first run."""
    runs: dict[int, str] = field(default_factory=dict)
    """Seed -> run id, all that are planned."""
    missing: dict[int, str] = field(default_factory=dict)
    """Seed -> why there is no result, in words."""
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    """Metric -> seed -> value."""
    prototypes: dict[int, float] = field(default_factory=dict)
    """Seed -> numbers held in prototypes."""
    per_class: dict[str, list[float]] = field(default_factory=dict)
    """Class -> IoU in percent, of the seeds where it is defined; in class order."""

    @property
    def run_ids(self) -> tuple[str, ...]:
        """By seed."""
        return tuple(self.runs[seed] for seed in sorted(self.runs))

    @property
    def protocol(self) -> Protocol:
        """What a number must share with another to be compared with it."""
        return protocol(self.spec)


Visit = Callable[[dict[str, Any]], None]


def collect(
    matrix: Matrix, store: RecordStore, rows: Key, columns: Key, visit: Visit
) -> dict[Key, dict[Key, Samples]]:
    """Row key -> column key -> samples, in the order of the matrix; records are read once each.

    ``visit`` is shown every record that was found.

    Raises:
        UsageError: a place of the table would mix runs that differ in more than the seed.
    """
    grid: dict[Key, dict[Key, Samples]] = {}
    for planned in matrix.runs:
        row, column = key_of(planned.axes, rows), key_of(planned.axes, columns)
        samples = grid.setdefault(row, {}).setdefault(column, Samples(planned.axes, planned.spec))
        spec, run_id = planned.spec, planned.run_id
        if samples.runs.get(spec.seed) == run_id:
            continue
        if dataclasses.replace(spec, seed=samples.spec.seed) != samples.spec:
            raise UsageError(_mixed(matrix, samples, planned.axes, (*rows, *columns)))
        samples.runs[spec.seed] = run_id
        found = store.find(run_id)
        if found.record is None:
            samples.missing[spec.seed] = wording.state_words(found)
        else:
            visit(found.record)
            _add(samples, spec.seed, found.record)
    return grid


def key_of(axes: Mapping[str, Any], of: Key) -> Key:
    """The values of some axes as text, to compare and group by."""
    return tuple(wording.plain_value(axes.get(axis)) for axis in of)


def _add(samples: Samples, seed: int, record: dict[str, Any]) -> None:
    for key, metric in METRICS.items():
        value = metrics.read(record, metric)
        if value is not None:
            samples.values.setdefault(key, {})[seed] = value
    prototypes = metrics.number(record["parameters"], "prototype")
    if prototypes is not None:
        samples.prototypes[seed] = prototypes
    for entry in record["per_class"]:
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            values = samples.per_class.setdefault(entry["name"], [])
            iou = metrics.number(entry, "iou")
            if iou is not None:
                values.append(iou)


def _mixed(matrix: Matrix, samples: Samples, axes: dict[str, Any], shown: Key) -> str:
    place = (
        ", ".join(f"{axis}={wording.plain_value(axes.get(axis))}" for axis in shown) or "one cell"
    )
    varying = [a for a in matrix.axes if key_of(axes, (a,)) != key_of(samples.axes, (a,))]
    todo = (
        f"Add {', '.join(varying)} to table.rows or table.columns"
        if varying
        else "Give them different axis values"
    )
    return (
        f"{matrix.name}: table: {place} would mix runs that differ in more than the seed. {todo}."
    )


def check_protocols(matrix: Matrix, shown: Key) -> None:
    """Refuse a table whose runs are measured in different ways.

    Data sets and evaluations may differ where an axis of the table says which is which.

    Raises:
        ProtosegError: names the two protocols and where they differ.
    """
    axes = tuple(axis for axis in shown if PROTOCOL_AXIS.match(axis))
    seen: dict[Key, RunSpec] = {}
    for planned in matrix.runs:
        spec = planned.spec
        first = seen.setdefault(key_of(planned.axes, axes), spec)
        if protocol(first) == protocol(spec):
            continue
        fields = differing(plain(first), plain(spec))
        raise ProtosegError(
            f"{matrix.name}: a table shows one evaluation protocol, this one mixes "
            f"'{protocol_words(first)}' and '{protocol_words(spec)}' "
            f"(they differ in {', '.join(fields)}; the second in run {planned.run_id}). "
            "Make two tables of it, or make the difference an axis of the table."
        )


def protocol(spec: RunSpec) -> Protocol:
    """How a run is measured: data, evaluation, and what pseudo-masks are added up over."""
    method = spec.method
    weak = (method.scales, method.flip) if isinstance(method, WeakContrastMethod) else ()
    return spec.dataset, spec.evaluation, weak


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The fields in which two specs, as plain data, are measured in different ways."""
    parts = {"dataset": None, "evaluation": None, "method": WEAK_KEYS}
    return [
        f"{part}.{key}"
        for part, chosen in parts.items()
        for key in dict.fromkeys([*a[part], *b[part]])
        if (chosen is None or key in chosen) and a[part].get(key) != b[part].get(key)
    ]


def protocol_words(spec: RunSpec) -> str:
    """Data set and evaluation of a spec in a few words."""
    data, evaluation = spec.dataset, spec.evaluation
    words = [f"{data.name} {evaluation.split}"]
    count = data.counts.get(evaluation.split)
    words[0] += f" ({count} images, {len(data.classes)} classes)" if count else ""
    if evaluation.mode == "slide":
        window, stride = ("×".join(map(str, v)) for v in (evaluation.crop_size, evaluation.stride))
        words.append(f"sliding window {window}, stride {stride}")
    else:
        words.append("whole image")
    if evaluation.scale:
        words.append(f"resized to fit {'×'.join(map(str, evaluation.scale))}")
    method = spec.method
    if isinstance(method, WeakContrastMethod):
        flip = "and flipped" if method.flip else "no flip"
        words += [f"scales {' + '.join(f'{scale:g}' for scale in method.scales)}", flip]
        words.append("at the best background threshold")
    else:
        words += ["single scale", "no flip"]
    return wording.clean(", ".join(words))
