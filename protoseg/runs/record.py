"""The record of a finished run: its schema, its digest, reading it back without trusting it.

A record is plain JSON (`SCHEMA` below names the keys) beside a compressed file with the confusion
counts of every image. ``digest`` is the SHA-256 of the canonical JSON of everything else in the
record, so an edit by hand, or a torn file, is noticed.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protoseg import files
from protoseg.errors import ProtosegError

SCHEMA_VERSION = 1

SCHEMA: dict[str, type | tuple[type, ...]] = {
    "schema_version": int,
    "run_id": str,
    "spec": dict,
    "spec_digest": str,  # SHA-256 of the canonical JSON of the spec
    "metrics": dict,  # miou, macc, aacc in percent; images
    "per_class": list,  # {name, iou, acc (percent or null where undefined), pixels}, in class order
    "parameters": dict,  # learnable, prototype: counts of numbers
    "cost": dict,  # seconds, evaluation_seconds, rates, peak_memory_mib, gpu_hours
    "losses": list,  # [iteration, {name: mean since the last point}] over the whole training
    "provenance": dict,  # commit, dirty, diff, attempts, locks, packages, device, kernels, digests
    "confusion": dict,  # file, sha256
    "attempts": int,
    "started": str,  # UTC, ISO 8601; of the first attempt
    "finished": str,
    "digest": str,
}


class RecordError(ProtosegError):
    """A record that is torn, edited, or of a schema this version does not know."""


def canonical(value: Any) -> bytes:
    """Canonical JSON of plain data: sorted keys, no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(record: dict[str, Any]) -> str:
    """The digest a record should carry, over all of it but the digest itself."""
    return hashlib.sha256(
        canonical({key: value for key, value in record.items() if key != "digest"})
    ).hexdigest()


def seal(record: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``record`` with its digest; raises ValueError where a key is missing or unknown."""
    sealed = {**record, "schema_version": SCHEMA_VERSION}
    sealed["digest"] = digest(sealed)
    problems = _shape_problems(sealed)
    if problems:
        raise ValueError(f"not a record: {'; '.join(problems)}")
    return sealed


def read_record(path: Path) -> dict[str, Any]:
    """Read and check a record.

    Raises:
        FileNotFoundError: there is none.
        RecordError: torn, edited, incomplete, or of a newer schema.
    """
    data = path.read_bytes()
    try:
        record = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RecordError(
            f"{path}: torn record, not valid JSON ({error}). "
            "Restore it from a copy, or delete it and run the sweep again."
        ) from error
    if not isinstance(record, dict) or not isinstance(record.get("schema_version"), int):
        raise RecordError(f"{path}: not a record of protoseg (no schema_version).")
    version = record["schema_version"]
    if version > SCHEMA_VERSION:
        raise RecordError(
            f"{path}: record of schema {version}, this protoseg reads up to {SCHEMA_VERSION}. "
            "Update protoseg; the record is left as it is."
        )
    problems = _shape_problems(record)
    if problems:
        raise RecordError(f"{path}: incomplete record: {'; '.join(problems)}.")
    try:
        sound = digest(record) == record["digest"]
    except ValueError:  # 1e999 is JSON, and reads as infinity, which is not
        sound = False
    if not sound:
        raise RecordError(
            f"{path}: edited or damaged record, its content does not match its digest. "
            "Restore it from a copy, or delete it and run the sweep again."
        )
    return record


def verify_confusion(record: dict[str, Any], path: Path) -> None:
    """Check the confusion counts at ``path`` against the digest in the record."""
    try:
        actual = files.file_digest(path)
    except FileNotFoundError:
        raise RecordError(f"{path}: the confusion counts of {record['run_id']} are gone.") from None
    if actual != record["confusion"]["sha256"]:
        raise RecordError(f"{path}: the confusion counts do not match the record's digest.")


@dataclass(frozen=True)
class Diff:
    """What a working tree changed while an attempt trained, as a file that a record names."""

    file: str
    """In the run folder."""
    published: str
    """Beside the published record."""
    sha256: str


def diffs(record: dict[str, Any]) -> list[Diff]:
    """The diffs that a record names: that of its last attempt, and others' where they differ.

    Records of older versions name none.
    """
    provenance = record["provenance"]
    attempts = provenance.get("attempts")
    own = provenance.get("diff_file")
    found: dict[str, Diff] = {}
    entries = [provenance, *(attempts if isinstance(attempts, list) else ())]
    for entry in (entry for entry in entries if isinstance(entry, dict)):
        file, sha256 = entry.get("diff_file"), entry.get("diff_sha256")
        if not isinstance(file, str) or not isinstance(sha256, str):
            continue
        if re.fullmatch(r"[\w-]+\.diff", file):  # a record is not trusted with a path
            name = f"{record['run_id']}{'' if file == own else '.' + sha256[:10]}.diff"
            found.setdefault(file, Diff(file, name, sha256))
    return list(found.values())


def verify_diff(diff: Diff, path: Path) -> None:
    """Check a diff at ``path`` against the digest in the record.

    Raises:
        RecordError: it is gone, or another one.
    """
    try:
        actual = files.file_digest(path)
    except FileNotFoundError:
        raise RecordError(f"{path}: the diff of the code that ran is gone.") from None
    if actual != diff.sha256:
        raise RecordError(f"{path}: the diff does not match the digest in its record.")


def publish(run_folder: Path, destination: Path) -> Path:
    """Copy the record, counts and diffs of a finished run to a folder of records.

    An identical record already there is kept; a different one is never overwritten.

    Raises:
        RecordError: ``destination`` holds another record of the same run, or a file is damaged.
    """
    record = read_record(run_folder / "record.json")
    counts = run_folder / record["confusion"]["file"]
    verify_confusion(record, counts)
    copies = {counts: destination / f"{record['run_id']}.npz"}
    for diff in diffs(record):
        verify_diff(diff, run_folder / diff.file)
        copies[run_folder / diff.file] = destination / diff.published
    target = destination / f"{record['run_id']}.json"
    if target.exists():
        existing = read_record(target)
        if existing["digest"] != record["digest"]:
            raise RecordError(
                f"{target}: holds another result of the same run; it is kept. "
                "Move it away first if the new one is to take its place."
            )
        for source, copy in copies.items():
            if not copy.exists():
                files.write_bytes(copy, source.read_bytes())
        return target
    for diff in diffs(record):
        copy = destination / diff.published
        if copy.exists() and files.file_digest(copy) != diff.sha256:
            raise RecordError(
                f"{copy}: holds another diff, and no record is beside it; it is kept. "
                "Move it away first if the new one is to take its place."
            )
    files.make_folder(destination)
    # The record last: one whose counts are missing would be a lie, the reverse is only litter.
    for source, copy in copies.items():
        files.write_bytes(copy, source.read_bytes())
    files.write_bytes(target, (run_folder / "record.json").read_bytes())
    return target


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _shape_problems(record: dict[str, Any]) -> list[str]:
    problems = [f"'{key}' is missing" for key in SCHEMA if key not in record]
    problems += [f"'{key}' is unknown" for key in record if key not in SCHEMA]
    problems += [
        f"'{key}' is not of type {kind}"
        for key, kind in SCHEMA.items()
        if key in record and not isinstance(record[key], kind)
    ]
    return problems
