"""Checks committed records: digest, run id, counts, metrics, diffs, and files without a record."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from protoseg.config.identity import read_spec, run_id
from protoseg.errors import ProtosegError
from protoseg.files import canonical_json
from protoseg.report.verify.check import Check
from protoseg.report.verify.recount import CountsError, find_wrong_numbers
from protoseg.runs.record import (
    add_torch_build,
    list_diffs,
    read_record,
    verify_confusion,
    verify_diff,
)
from protoseg.runs.sealed import RecordError

KEPT = {"README.md", ".gitkeep"}


def check_records(
    folder: Path, only: Collection[str] | None = None, planned: Collection[str] = ()
) -> list[Check]:
    """Check all records of a folder, or only those of some runs.

    Args:
        only: run ids to check; None checks all.
        planned: run ids of the matrices; a record of another run gets a note.
    """
    records = Check("records", "digest, spec and run id agree")
    counts = Check("counts", "confusion counts of every image, by digest")
    numbers = Check("metrics", "numbers recomputed from the counts")
    code = Check("code", "diffs of uncommitted changes, by digest")
    litter = Check("litter", "files that belong to no record")
    origins: dict[str, dict[str, Any]] = {}
    expected: set[str] = set()
    paths = sorted(folder.glob("*.json"))
    for path in paths:
        if only is not None and path.stem not in only:
            continue
        expected |= {path.name, f"{path.stem}.npz"}
        records.count += 1
        record = _read_record(path, records)
        if record is None:
            # The digest is wrong or missing, but the files may still belong to the record.
            expected |= {each.name for each in folder.glob(f"{path.stem}.*")}
            continue
        origins[path.stem] = record["provenance"]
        check_counts(record, path.with_suffix(".npz"), counts, numbers)
        for diff in list_diffs(record):
            expected.add(diff.published)
            code.count += 1
            try:
                verify_diff(diff, folder / diff.published)
            except (RecordError, OSError) as error:
                code.problem(_relative(folder / diff.published), _without_path(error))
    add_notes(origins, code)
    if only is None:
        unplanned = [path.stem for path in paths if path.stem not in planned]
        if unplanned:
            records.notes.append(f"{len(unplanned)} in no matrix: {join_first(unplanned)}")
        litter.count = len(list(folder.iterdir())) if folder.is_dir() else 0
        _find_litter(folder, expected, litter)
        return [records, counts, numbers, code, litter]
    return [records, counts, numbers, code]


def _read_record(path: Path, check: Check) -> dict[str, Any] | None:
    try:
        record = read_record(path)
    except (ProtosegError, OSError, ValueError) as error:
        check.problem(_relative(path), _without_path(error))
        return None
    if record["run_id"] != path.stem:
        check.problem(_relative(path), f"is the record of {record['run_id']}.")
        return None
    digest = hashlib.sha256(canonical_json(record["spec"])).hexdigest()
    if digest != record["spec_digest"]:
        check.problem(_relative(path), "its spec_digest does not match its spec.")
    try:
        expected_id = run_id(read_spec(record["spec"], path.name))
    except ProtosegError as error:
        check.problem(_relative(path), f"its spec cannot be read: {error}")
    else:
        if expected_id != record["run_id"]:
            check.problem(_relative(path), f"its spec belongs to run {expected_id}.")
    return record


def check_counts(record: dict[str, Any], path: Path, counts: Check, numbers: Check) -> None:
    """Check the confusion counts of a record, and its metrics against them.

    Args:
        path: the file of the counts.
    """
    counts.count += 1
    try:
        verify_confusion(record, path)
    except (RecordError, OSError) as error:
        counts.problem(_relative(path), _without_path(error))
        return
    try:
        wrong, compared = find_wrong_numbers(record, path)
    except CountsError as error:
        counts.problem(_relative(path), f"{error}.")
        return
    numbers.count += compared
    for name, sentence in wrong:
        numbers.problem(_relative(path.with_suffix(".json")), f"{sentence}.", column=name)


def add_notes(origins: dict[str, dict[str, Any]], code: Check) -> None:
    """Add notes about the code of records: lost diffs, changed code, other package versions.

    Args:
        origins: run id -> provenance of its record.
        code: the check that gets the notes.
    """
    without_diff = [n for n, o in origins.items() if o.get("dirty") and not o.get("diff_file")]
    if without_diff:
        names = join_first(without_diff)
        code.notes.append(
            f"{len(without_diff)} with uncommitted changes but without a diff: {names}"
        )
    for name, origin in origins.items():
        attempts = origin.get("attempts")
        entries = [e for e in attempts if isinstance(e, dict)] if isinstance(attempts, list) else []
        if len({json.dumps([e.get(k) for k in CODE], sort_keys=True) for e in entries}) > 1:
            code.notes.append(f"{name}: its attempts ran different code")
    sources: dict[str, set[str]] = {}
    for origin in origins.values():
        for package, source in (origin.get("outside") or {}).items():
            sources.setdefault(package, set()).add(str(source.get("sha256")))
    for package, digests in sorted(sources.items()):
        if len(digests) > 1:
            code.notes.append(
                f"{package}: the records used {len(digests)} different versions of its source"
            )
    builds = Counter(filter(None, map(_get_torch_version, origins.values())))
    if len(builds) > 1:
        counted = ", ".join(f"{build} (in {n})" for build, n in sorted(builds.items()))
        code.notes.append(f"records of {len(builds)} builds of torch: {counted}")
    differing: Counter[str] = Counter()
    for origin in origins.values():
        differs = origin.get("lock_differs")
        differing.update(list(differs) if isinstance(differs, dict) else [])
    if differing:
        packages = ", ".join(f"{name} (in {n})" for name, n in sorted(differing.items()))
        code.notes.append(f"packages of another version than the lock file: {packages}")


def _get_torch_version(origin: dict[str, Any]) -> str | None:
    packages = add_torch_build(origin).get("packages")
    return packages.get("torch") if isinstance(packages, dict) else None


CODE = ("commit", "code_sha256", "diff_sha256", "outside")
"""Keys of the provenance of an attempt that identify its code."""


def _find_litter(folder: Path, expected: set[str], check: Check) -> None:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name in expected or path.name in KEPT:
            continue
        content = {".npz": "confusion counts", ".diff": "a diff"}.get(path.suffix, "a file")
        check.problem(_relative(path), f"{content} without a record.")


def join_first(names: Sequence[str]) -> str:
    """Join the first three names, and count the others."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _relative(path: Path) -> str:
    """Path relative to the folder of results."""
    return f"{path.parent.name}/{path.name}"


def _without_path(error: Exception) -> str:
    """Remove the path from the beginning of an error; the problem names the file."""
    text = str(error)
    head, colon, rest = text.partition(": ")
    return rest if colon and "/" in head else text
