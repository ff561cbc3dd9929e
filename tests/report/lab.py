"""Makes specs, sealed records on disk, and matrices for tests."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from protoseg.config.fields import to_plain
from protoseg.config.identity import read_spec, run_id, spec_digest
from protoseg.config.matrix import Matrix, PlannedRun, TableSpec
from protoseg.config.schema import RunSpec
from protoseg.report.tables.builder import build_table
from protoseg.report.tables.model import Cell, Table
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import seal
from protoseg.runs.store import RecordStore

CLASSES = ("sky", "road", "car")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def make_spec(seed: int = 0, **changes: Mapping[str, Any]) -> RunSpec:
    """Make a small spec; ``changes`` are merged into its parts."""
    data: dict[str, Any] = {
        "backbone": {"name": "mit_b0", "recipe": "segformer.py", "channels": [32, 64, 160, 256]},
        "decoder": {"name": "segformer", "recipe": "segformer.py", "channels": 256},
        "method": {"kind": "parametric", "num_prototypes": 1},
        "dataset": {
            "name": "camvid",
            "classes": list(CLASSES),
            "digest": "unpinned",
            "counts": {"val": 101},
        },
        "augmentation": {"scale": [480, 360], "crop_size": [360, 360]},
        "schedule": {"recipe": "schedule.py", "iterations": 100, "batch_size": 8},
        "evaluation": {},
        "seed": seed,
    }
    for part, values in changes.items():
        data[part] = {**data[part], **values}
    return read_spec(data, "test")


def make_record(spec: RunSpec, miou: float, **changes: Any) -> dict[str, Any]:
    """Make a sealed record; ``changes`` are merged into its parts."""
    record: dict[str, Any] = {
        "run_id": run_id(spec),
        "spec": to_plain(spec, identity=True),
        "spec_digest": spec_digest(spec),
        "metrics": {"miou": miou, "macc": miou + 8, "aacc": miou + 20, "images": 101},
        "per_class": [
            {"name": name, "iou": miou + index, "acc": 90.0, "pixels": 1000}
            for index, name in enumerate(CLASSES)
        ],
        "parameters": {"learnable": 3_720_000, "prototype": 280_000},
        "cost": {
            "seconds": 1234.5,
            "iterations_per_second": 5.0,
            "images_per_second": 40.25,
            "peak_memory_mib": 2048,
            "gpu_hours": 0.34,
        },
        "losses": [[100, {"loss": 0.5}]],
        "provenance": {
            "commit": COMMIT,
            "dirty": False,
            "diff_sha256": "",
            "lock_sha256": "",
            "packages": {"torch": "2.13.0"},
            "device": "NVIDIA H200",
            "data_digest": "unpinned",
        },
        "confusion": {"file": "confusion.npz", "sha256": "0" * 64},
        "attempts": 1,
        "started": "2026-01-01T00:00:00+00:00",
        "finished": f"2026-01-0{2 + spec.seed % 7}T00:00:00+00:00",
    }
    for part, values in changes.items():
        both = isinstance(values, dict) and isinstance(record[part], dict)
        record[part] = {**record[part], **values} if both else values
    return seal(record)


class Lab:
    """Folders of records, runs and published numbers below a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = folder / "records"
        self.runs = folder / "runs"
        self.published = folder / "published"
        for path in (self.records, self.runs, self.published):
            path.mkdir()
        self.store = RecordStore([self.records], self.runs)

    def finish(self, spec: RunSpec, miou: float, in_runs: bool = False, **changes: Any) -> Path:
        """Write the record of a run into the folder of records, or into its run folder."""
        record = make_record(spec, miou, **changes)
        path = self.records / f"{run_id(spec)}.json"
        if in_runs:
            path = self.start(spec).record
        path.write_text(json.dumps(record))
        return path

    def start(self, spec: RunSpec) -> RunFolder:
        """Create a run folder without attempts."""
        folder = RunFolder(self.runs / run_id(spec))
        folder.create(to_plain(spec, identity=True), {})
        return folder

    def fail(self, spec: RunSpec, reason: str, message: str = "it broke") -> None:
        """Create a run whose only attempt ended with this reason."""
        attempt = self.start(spec).start_attempt({"iteration": 0})
        (attempt / "end.json").write_text(json.dumps({"reason": reason, "message": message}))

    def table(self, matrix: Matrix) -> Table:
        """Build the table of a matrix from these folders."""
        return build_table(matrix, self.store, [self.published])


def method(name: str, seed: int = 0) -> RunSpec:
    """Make a spec from a short name: "parametric 1", "prototype 10"."""
    method, _, count = name.partition(" ")
    return make_spec(seed, method={"kind": method, "num_prototypes": int(count)})


def make_matrix(
    planned: Iterable[tuple[RunSpec, dict[str, Any]]], name: str = "test", **table: Any
) -> Matrix:
    """Make a matrix of (spec, axes) pairs; ``table`` are fields of its TableSpec."""
    runs = tuple(PlannedRun(spec, axes) for spec, axes in planned)
    axes = tuple(dict.fromkeys(axis for run in runs for axis in run.axes))
    return Matrix(name, "A test", runs, TableSpec(**table), axes)


METHODS = ("parametric 1", "parametric 10", "prototype 1", "prototype 10")


def methods_matrix(
    methods: Iterable[str] = METHODS, seeds: Iterable[int] = range(3), **table: Any
) -> Matrix:
    """Make a matrix with one row per method, labelled with its short name."""
    seeds = tuple(seeds)
    planned = [(method(name, seed), {"label": name}) for name in methods for seed in seeds]
    return make_matrix(planned, **table)


def cell(table: Table, row: str, column: str) -> Cell:
    """Find a cell by row label and column key."""
    match = next(r for r in table.rows if r.label == row)
    return match.cells[table.column(column)]


def with_table(matrix: Matrix, **changes: Any) -> Matrix:
    """Copy a matrix with other table settings."""
    return dataclasses.replace(matrix, table=dataclasses.replace(matrix.table, **changes))
