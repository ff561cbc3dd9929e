"""Published records against themselves: digests, identity, counts, metrics, diffs, and litter."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from protoseg.config.identity import run_id, spec_from_dict
from protoseg.errors import ProtosegError
from protoseg.report.verify.check import Check
from protoseg.report.verify.recount import CountsError, differences
from protoseg.runs.record import (
    RecordError,
    canonical,
    diffs,
    read_record,
    verify_confusion,
    verify_diff,
)

KEPT = {"README.md", ".gitkeep"}


def check_records(
    folder: Path, only: Collection[str] | None = None, planned: Collection[str] = ()
) -> list[Check]:
    """Check every record of a folder, or those of the runs ``only``.

    Args:
        planned: run ids that matrices name; a record of another run is worth a remark.
    """
    records = Check("records", "digest, spec and run id agree")
    counts = Check("counts", "confusion counts of every image, by digest")
    numbers = Check("metrics", "numbers recomputed from the counts")
    code = Check("code", "diffs of uncommitted changes, by digest")
    litter = Check("litter", "files beside the records that belong to none")
    origins: dict[str, dict[str, Any]] = {}
    expected: set[str] = set()
    paths = sorted(folder.glob("*.json"))
    for path in paths:
        if only is not None and path.stem not in only:
            continue
        expected |= {path.name, f"{path.stem}.npz"}
        records.count += 1
        record = _read(path, records)
        if record is None:
            # Its digest is broken, or it has none: what it names may still be its own.
            expected |= {each.name for each in folder.glob(f"{path.stem}.*")}
            continue
        origins[path.stem] = record["provenance"]
        _check_counts(record, path.with_suffix(".npz"), counts, numbers)
        for diff in diffs(record):
            expected.add(diff.published)
            code.count += 1
            try:
                verify_diff(diff, folder / diff.published)
            except (RecordError, OSError) as error:
                code.problem(_shown(folder / diff.published), _without_path(error))
    remark(origins, code)
    if only is None:
        strangers = [path.stem for path in paths if path.stem not in planned]
        if strangers:
            records.notes.append(f"{len(strangers)} named by no matrix: {some(strangers)}")
        litter.count = len(list(folder.iterdir())) if folder.is_dir() else 0
        _find_litter(folder, expected, litter)
        return [records, counts, numbers, code, litter]
    return [records, counts, numbers, code]


def _read(path: Path, check: Check) -> dict[str, Any] | None:
    try:
        record = read_record(path)
    except (ProtosegError, OSError, ValueError) as error:
        check.problem(_shown(path), _without_path(error))
        return None
    if record["run_id"] != path.stem:
        check.problem(_shown(path), f"is the record of {record['run_id']}.")
        return None
    digest = hashlib.sha256(canonical(record["spec"])).hexdigest()
    if digest != record["spec_digest"]:
        check.problem(_shown(path), "its spec_digest is not that of its spec.")
    try:
        own = run_id(spec_from_dict(record["spec"], path.name))
    except ProtosegError as error:
        check.problem(_shown(path), f"its spec can not be read: {error}")
    else:
        if own != record["run_id"]:
            check.problem(_shown(path), f"its spec is that of run {own}.")
    return record


def _check_counts(record: dict[str, Any], path: Path, counts: Check, numbers: Check) -> None:
    counts.count += 1
    try:
        verify_confusion(record, path)
    except (RecordError, OSError) as error:
        counts.problem(_shown(path), _without_path(error))
        return
    try:
        wrong, compared = differences(record, path)
    except CountsError as error:
        counts.problem(_shown(path), f"{error}.")
        return
    numbers.count += compared
    for what, sentence in wrong:
        numbers.problem(_shown(path.with_suffix(".json")), f"{sentence}.", column=what)


def remark(origins: dict[str, dict[str, Any]], code: Check) -> None:
    """What the records say of their code that is no damage and yet worth knowing."""
    unkept = [n for n, o in origins.items() if o.get("dirty") and not o.get("diff_file")]
    if unkept:
        code.notes.append(
            f"{len(unkept)} with uncommitted changes whose text was not kept: {some(unkept)}"
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
                f"{package}: {len(digests)} different sources of it among the records"
            )
    differing: Counter[str] = Counter()
    for origin in origins.values():
        differs = origin.get("lock_differs")
        differing.update(list(differs) if isinstance(differs, dict) else [])
    if differing:
        words = ", ".join(f"{name} (in {n})" for name, n in sorted(differing.items()))
        code.notes.append(f"packages of another version than the lock's: {words}")


CODE = ("commit", "code_sha256", "diff_sha256", "outside")
"""What of an attempt's provenance tells which code it ran."""


def _find_litter(folder: Path, expected: set[str], check: Check) -> None:
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name in expected or path.name in KEPT:
            continue
        beside = {".npz": "confusion counts", ".diff": "a diff"}.get(path.suffix, "a file")
        check.problem(_shown(path), f"{beside} that no record here names.")


def some(names: Sequence[str]) -> str:
    """The first names of a list that may be long."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _shown(path: Path) -> str:
    """As the folder of results is seen from inside."""
    return f"{path.parent.name}/{path.name}"


def _without_path(error: Exception) -> str:
    """The sentence of an error without the path in front; the problem names the file."""
    text = str(error)
    head, colon, rest = text.partition(": ")
    return rest if colon and "/" in head else text
