"""The record of a finished run: its schema and digest, and how it is checked and published.

A record is sealed JSON (`protoseg.runs.sealed`; `FORMAT` names the keys) beside a compressed file
with the confusion counts of every image.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protoseg import files
from protoseg.runs.sealed import RESTORE, RecordError, SealedFormat

FORMAT = SealedFormat(
    "record",
    1,
    {
        "run_id": str,
        "spec": dict,
        "spec_digest": str,  # SHA-256 of the canonical JSON of the spec
        "metrics": dict,  # miou, macc, aacc in percent; images
        # {name, iou, acc (percent or null where undefined), pixels}, in class order
        "per_class": list,
        "parameters": dict,  # learnable, prototype: counts of numbers
        # seconds, evaluation_seconds, rates, peak_memory_mib, gpu_hours; with `curve` curve_seconds
        "cost": dict,
        "losses": list,  # [iteration, {name: mean since the last point}] over the whole training
        # commit, dirty, diff, attempts, locks, packages, device, kernels, digests; continued, if
        # the training began with that of another run (`protoseg.training.continuation`)
        "provenance": dict,
        "confusion": dict,  # file, sha256
        "attempts": int,
        "started": str,  # UTC, ISO 8601; of the first attempt
        "finished": str,
    },
    optional={
        # {iteration, miou, ..., iou, loss} of each evaluation, with ``evaluation.every``; the last
        # one is that of `metrics`. See
        # `protoseg.training.evaluation.metric_curve.MetricCurve.add_point`.
        "curve": list,
    },
)
SCHEMA_VERSION = FORMAT.version


def seal(record: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of ``record`` with its digest; see `SealedFormat.seal`."""
    return FORMAT.seal(record)


def read_record(path: Path) -> dict[str, Any]:
    """Read and check a record; see `SealedFormat.read_file`."""
    return FORMAT.read_file(path)


def verify_identity(record: dict[str, Any], run_id: str, path: Path) -> None:
    """Check that the record at ``path`` is of this run, by its run id and by its spec.

    Raises:
        RecordError: it is of another run, or holds another spec.
    """
    if record["run_id"] != run_id:
        raise RecordError(
            f"{path}: is the record of {record['run_id']}, not of {run_id}. "
            "Give the file the name of its run, or delete it."
        )
    spec_digest = hashlib.sha256(files.canonical_json(record["spec"])).hexdigest()
    in_run_id = run_id.rpartition("-")[2]
    if spec_digest != record["spec_digest"] or not spec_digest.startswith(in_run_id):
        raise RecordError(f"{path}: holds another spec than run {run_id}. {RESTORE}")


def locate_counts(record: Mapping[str, Any], source: Path) -> Path:
    """Return the path of the confusion counts of a record or of an evaluation.

    Args:
        record: the record.
        source: its file, in a run folder or in a folder of records.
    """
    if source.name == "record.json":
        return source.with_name(record["confusion"]["file"])
    return source.with_suffix(".npz")  # in a folder of records, the counts are named after the run


def verify_confusion(record: Mapping[str, Any], path: Path, name: str = "") -> None:
    """Check the confusion counts at ``path`` against the digest in a record or an evaluation.

    Args:
        record: has the digest.
        path: file of the counts.
        name: of an evaluation, for the message; by default the run id.

    Raises:
        RecordError: they are gone or have changed.
    """
    try:
        actual = files.file_digest(path)
    except FileNotFoundError:
        owner = name or record["run_id"]
        raise RecordError(f"{path}: the confusion counts of {owner} are gone.") from None
    if actual != record["confusion"]["sha256"]:
        raise RecordError(f"{path}: the confusion counts do not match the record's digest.")


@dataclass(frozen=True)
class Diff:
    """A file with the changes of the working tree that an attempt trained with."""

    file: str
    """Its name in the run folder."""
    published: str
    """Its name beside the published record."""
    sha256: str


def list_diffs(record: dict[str, Any]) -> list[Diff]:
    """List the diffs that a record names: of its last attempt, and of others that differ.

    Records of older versions name none.
    """
    provenance = record["provenance"]
    attempts = provenance.get("attempts")
    last_diff = provenance.get("diff_file")
    named: dict[str, Diff] = {}
    entries = [provenance, *(attempts if isinstance(attempts, list) else ())]
    for entry in (entry for entry in entries if isinstance(entry, dict)):
        file, sha256 = entry.get("diff_file"), entry.get("diff_sha256")
        if not isinstance(file, str) or not isinstance(sha256, str):
            continue
        if re.fullmatch(r"[\w-]+\.diff", file):  # a file name, not a path out of the folder
            name = f"{record['run_id']}{'' if file == last_diff else '.' + sha256[:10]}.diff"
            named.setdefault(file, Diff(file, name, sha256))
    return list(named.values())


def verify_diff(diff: Diff, path: Path) -> None:
    """Check a diff at ``path`` against the digest in the record.

    Raises:
        RecordError: the file is gone or has changed.
    """
    try:
        actual = files.file_digest(path)
    except FileNotFoundError:
        raise RecordError(f"{path}: the diff of the code that ran is gone.") from None
    if actual != diff.sha256:
        raise RecordError(f"{path}: the diff does not match the digest in its record.")


def publish(run_folder: Path, destination: Path) -> Path:
    """Copy the record, counts and diffs of a finished run to a folder of records.

    An identical record is not written again; a different one is never overwritten.

    Raises:
        RecordError: ``destination`` holds another record of the same run, or a file is damaged.
    """
    record = read_record(run_folder / "record.json")
    counts = run_folder / record["confusion"]["file"]
    verify_confusion(record, counts)
    copies = {counts: destination / f"{record['run_id']}.npz"}
    for diff in list_diffs(record):
        verify_diff(diff, run_folder / diff.file)
        copies[run_folder / diff.file] = destination / diff.published
    target = destination / f"{record['run_id']}.json"
    if target.exists():
        existing = read_record(target)
        if existing["digest"] != record["digest"]:
            raise RecordError(
                f"{target}: holds another result of the same run; it is kept. "
                "Move it away to publish the new one."
            )
        for source, copy in copies.items():
            if not copy.exists():
                files.write_bytes(copy, source.read_bytes())
        return target
    for diff in list_diffs(record):
        copy = destination / diff.published
        if copy.exists() and files.file_digest(copy) != diff.sha256:
            raise RecordError(
                f"{copy}: holds another diff without a record beside it; it is kept. "
                "Move it away to publish the new one."
            )
    files.make_folder(destination)
    # The record last: without its counts it would be invalid; the reverse is harmless.
    for source, copy in copies.items():
        files.write_bytes(copy, source.read_bytes())
    files.write_bytes(target, (run_folder / "record.json").read_bytes())
    return target


def add_torch_build(provenance: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add the build of the last attempt (``+cu130``) to ``packages.torch`` (``2.13.0``).

    Records of earlier protoseg versions may have the build only in ``attempts``.
    """
    packages, attempts = provenance.get("packages"), provenance.get("attempts")
    if not isinstance(packages, Mapping) or not isinstance(attempts, list) or not attempts:
        return provenance
    version = attempts[-1].get("torch") if isinstance(attempts[-1], Mapping) else None
    if version is None or version.partition("+")[0] != packages.get("torch"):
        return provenance
    return {**provenance, "packages": {**packages, "torch": version}}
