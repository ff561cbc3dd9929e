"""Collects the values of each setting over its seeds, and checks that settings are comparable."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from protoseg.config.fields import to_plain
from protoseg.config.hierarchy.table_trees import LEVELS
from protoseg.config.holdout.settings import describe_holdout
from protoseg.config.identity import read_spec
from protoseg.config.matrix import Matrix
from protoseg.config.methods import WeakContrastMethod
from protoseg.config.schema import RunSpec
from protoseg.errors import ProtosegError, UsageError
from protoseg.report import metrics, wording
from protoseg.report.metrics import LEVEL_PART, UNRECORDED
from protoseg.report.statistics.significance import mean, sample_std
from protoseg.report.tables.model import ClassResult, Row
from protoseg.runs.store import RecordStore

Key = tuple[str, ...]
Protocol = tuple[Any, ...]
PROTOCOL_AXIS = re.compile(r"\+{0,2}(dataset|evaluation|method\.(scales|flip))\b")
SINGLE_PASS = "single scale, no flip"
"""Describes an evaluation without test-time augmentation."""
WEAK_KEYS = ("scales", "flip")
"""Fields of a weakly supervised method that change its pseudo-masks, and so its evaluation."""


@dataclass
class Samples:
    """The runs and values of one setting over its seeds."""

    axes: dict[str, Any]
    spec: RunSpec
    """The spec of its first run."""
    runs: dict[int, str] = field(default_factory=dict)
    """Seed -> run id, of all planned runs."""
    missing: dict[int, str] = field(default_factory=dict)
    """Seed -> reason why there is no result."""
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    """Metric -> seed -> value."""
    prototypes: dict[int, float] = field(default_factory=dict)
    """Seed -> number of values stored in prototypes."""
    lacking: dict[str, dict[int, str]] = field(default_factory=dict)
    """Metric -> seed -> reason why its record has no value."""
    averaged: dict[int, dict[int, frozenset[str]]] = field(default_factory=dict)
    """Level of a tree, 1 without one -> seed -> the classes or groups that its mIoU averages."""
    code: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Seed -> commit and digest of the code that trained it; empty if the record has none."""
    per_class: dict[str, list[float]] = field(default_factory=dict)
    """Class -> IoU in percent of the seeds where it is defined, in class order."""

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The run ids, sorted by seed."""
        return tuple(self.runs[seed] for seed in sorted(self.runs))

    def describe_missing(self, key: str) -> dict[int, str]:
        """Seed -> reason why it has no value of a metric, sorted by seed."""
        reasons, values = {**self.lacking.get(key, {}), **self.missing}, self.values.get(key, {})
        lost = [seed for seed in sorted(self.runs) if seed not in values]
        return {seed: reasons.get(seed, UNRECORDED) for seed in lost}

    @property
    def protocol(self) -> Protocol:
        """Data and evaluation; only values with equal protocols are compared."""
        return extract_protocol(self.spec)


Visit = Callable[[dict[str, Any]], None]


def collect_samples(
    matrix: Matrix, store: RecordStore, rows: Key, columns: Key, visit: Visit
) -> dict[Key, dict[Key, Samples]]:
    """Read the records of a matrix, each once, and group their values by cell.

    Args:
        rows: the axes of the rows.
        columns: the axes of the columns.
        visit: called with every record.

    Returns:
        Row key -> column key -> samples, in the order of the matrix.

    Raises:
        UsageError: a cell would mix runs that differ in more than the seed.
    """
    grid: dict[Key, dict[Key, Samples]] = {}
    for planned in matrix.runs:
        row, column = make_key(planned.axes, rows), make_key(planned.axes, columns)
        samples = grid.setdefault(row, {}).setdefault(column, Samples(planned.axes, planned.spec))
        spec, run_id = planned.spec, planned.run_id
        if samples.runs.get(spec.seed) == run_id:
            continue
        if dataclasses.replace(spec, seed=samples.spec.seed) != samples.spec:
            raise UsageError(_describe_mixed_cell(matrix, samples, planned.axes, (*rows, *columns)))
        samples.runs[spec.seed] = run_id
        result = store.find(run_id)
        if result.record is None:
            samples.missing[spec.seed] = wording.describe_state(result)
        else:
            visit(result.record)
            add_record(samples, spec.seed, result.record)
    return grid


def make_key(axes: Mapping[str, Any], names: Key) -> Key:
    """Format the values of some axes, to compare and group settings."""
    return tuple(wording.format_value(axes.get(name)) for name in names)


def add_record(samples: Samples, seed: int, record: dict[str, Any]) -> None:
    """Add the values of a finished run to those of its setting."""
    for metric in metrics.list_read_metrics(record):
        value = metrics.read_metric(record, metric)
        if value is not None:
            samples.values.setdefault(metric.key, {})[seed] = value
        elif metric.part == LEVEL_PART:
            lacking = samples.lacking.setdefault(metric.key, {})
            lacking[seed] = metrics.describe_lack(record, metric)
    for level in (1, *LEVELS):
        averaged = metrics.read_averaged_classes(record, level)
        if averaged or level == 1:
            samples.averaged.setdefault(level, {})[seed] = averaged
    provenance = record["provenance"]
    samples.code[seed] = (
        str(provenance.get("commit") or ""),
        str(provenance.get("code_sha256") or ""),
    )
    prototypes = metrics.read_number(record["parameters"], "prototype")
    if prototypes is not None:
        samples.prototypes[seed] = prototypes
    for entry in record["per_class"]:
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            values = samples.per_class.setdefault(entry["name"], [])
            iou = metrics.read_number(entry, "iou")
            if iou is not None:
                values.append(iou)


def collect_records(records: Iterable[dict[str, Any]]) -> Samples:
    """Collect the values of finished runs of one setting from their records."""
    records = list(records)
    samples = Samples({}, read_spec(records[0]["spec"], records[0]["run_id"]))
    for record in records:
        seed = int(record["spec"]["seed"])
        samples.runs[seed] = record["run_id"]
        add_record(samples, seed, record)
    return samples


def list_class_results(
    rows: Sequence[Row],
    grid: Mapping[Key, Mapping[Key, Samples]],
    columns: Key,
    names: Mapping[str, str],
) -> Iterator[ClassResult]:
    """Yield the mean IoU of each class in each setting.

    Args:
        rows: the rows of the table, in the order of ``grid``.
        grid: row key -> column key -> samples.
        columns: the axes of the columns.
        names: display names.
    """
    for row, cells in zip(rows, grid.values(), strict=True):
        for samples in cells.values():
            axes = samples.axes
            group = ", ".join(wording.name_value(a, axes.get(a), names) for a in columns)
            for name, values in samples.per_class.items():
                n = len(values)
                centre = mean(values) if n else None
                spread = sample_std(values) if n > 1 else None
                yield ClassResult(row.label, group, wording.clean_text(name), centre, spread, n)


def _describe_mixed_cell(matrix: Matrix, samples: Samples, axes: dict[str, Any], shown: Key) -> str:
    cell = (
        ", ".join(f"{axis}={wording.format_value(axes.get(axis))}" for axis in shown) or "one cell"
    )
    varying = [a for a in matrix.axes if make_key(axes, (a,)) != make_key(samples.axes, (a,))]
    advice = (
        f"Add {', '.join(varying)} to table.rows or table.columns"
        if varying
        else "Give them different axis values"
    )
    return (
        f"{matrix.name}: table: {cell} would mix runs that differ in more than the seed. {advice}."
    )


def check_protocols(matrix: Matrix, shown: Key) -> None:
    """Check that the runs of a table have one evaluation protocol.

    Data set and evaluation may differ if an axis of the table names them.

    Args:
        shown: the axes of rows and columns.

    Raises:
        ProtosegError: two runs have different protocols.
    """
    axes = tuple(axis for axis in shown if PROTOCOL_AXIS.match(axis))
    seen: dict[Key, RunSpec] = {}
    for planned in matrix.runs:
        spec = planned.spec
        first = seen.setdefault(make_key(planned.axes, axes), spec)
        if extract_protocol(first) == extract_protocol(spec):
            continue
        fields = find_differing_fields(to_plain(first), to_plain(spec))
        raise ProtosegError(
            f"{matrix.name}: its table mixes two evaluation protocols: "
            f"'{describe_protocol(first)}' and '{describe_protocol(spec)}' "
            f"(they differ in {', '.join(fields)}; run {planned.run_id} has the second). "
            "Make two tables, or make the difference an axis of the table."
        )


def extract_protocol(spec: RunSpec) -> Protocol:
    """Return the data, the evaluation, and the scales and flip of pseudo-masks of a run.

    Evaluations on the way (``evaluation.every``) do not change the evaluation at the end, nor does
    the tree of classes with which a method was trained.
    """
    method, evaluation = spec.method, dataclasses.replace(spec.evaluation, every=0)
    weak = (method.scales, method.flip) if isinstance(method, WeakContrastMethod) else ()
    return dataclasses.replace(spec.dataset, hierarchy=()), evaluation, weak


def find_differing_fields(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """List the fields that make the evaluation of two specs (as plain data) different."""
    parts = {"dataset": None, "evaluation": None, "method": WEAK_KEYS}
    return [
        f"{part}.{key}"
        for part, keys in parts.items()
        for key in dict.fromkeys([*a[part], *b[part]])
        if (keys is None or key in keys)
        and a[part].get(key) != b[part].get(key)
        and (part, key) not in (("evaluation", "every"), ("dataset", "hierarchy"))
    ]


def describe_protocol(spec: RunSpec) -> str:
    """Describe the data set and the evaluation of a spec, for a footnote."""
    data, evaluation = spec.dataset, spec.evaluation
    parts = [f"{data.name} {evaluation.split}"]
    count = data.counts.get(evaluation.split)
    if evaluation.holdout.is_set:
        holdout = describe_holdout(evaluation.holdout, data.train_split)
        parts = [f"{data.name} {holdout}", f"{len(data.classes)} classes"]
    elif count:
        parts[0] += f" ({count} images, {len(data.classes)} classes)"
    if evaluation.mode == "slide":
        window, stride = ("×".join(map(str, v)) for v in (evaluation.crop_size, evaluation.stride))
        parts.append(f"sliding window {window}, stride {stride}")
    else:
        parts.append("whole image")
    if evaluation.scale:
        parts.append(f"resized to fit {'×'.join(map(str, evaluation.scale))}")
    method = spec.method
    if isinstance(method, WeakContrastMethod):
        flip = "and flipped" if method.flip else "no flip"
        parts += [f"scales {' + '.join(f'{scale:g}' for scale in method.scales)}", flip]
        parts.append("at the best background threshold")
    else:
        parts.append(SINGLE_PASS)
    return wording.clean_text(", ".join(parts))


def describe_augmentation(prediction: Mapping[str, Any]) -> str:
    """Describe the passes of test-time augmentation (``scales``, ``flip``), for a footnote."""
    scales = " + ".join(f"{scale:g}" for scale in prediction["scales"])
    flip = "and flipped" if prediction["flip"] else "no flip"
    return f"mean probabilities over the scales {scales}, {flip}"
