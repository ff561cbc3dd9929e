"""Finds the run that another one continues: the same settings, ended earlier.

A training resumes bit for bit. A run that ends later therefore has the same result, whether it
starts at iteration 0 or at the end of a run with an earlier ``schedule.stop_after``.
"""

from __future__ import annotations

from typing import Any, TypeGuard

from protoseg.config.fields import to_plain
from protoseg.config.identity import DIGITS, make_slug
from protoseg.config.schema import RunSpec
from protoseg.runs.folder import RunFolder
from protoseg.runs.store import RecordStore
from protoseg.training import checkpoint
from protoseg.training.checkpoint import Checkpoint


def find_continued(spec: RunSpec, folder: RunFolder, data_digest: str) -> Checkpoint | None:
    """Find the last checkpoint of the longest finished run that ``spec`` continues.

    Args:
        spec: the run to start.
        folder: its folder; the other run is beside it.
        data_digest: of the data; a run that was trained on other data is not continued.

    Returns:
        A checkpoint in the folder of the other run, or None. A run whose last checkpoint is missing
        or damaged is not continued.
    """
    wanted = _remove_end(to_plain(spec, identity=True))
    continued: dict[int, Checkpoint] = {}
    for path in folder.path.parent.glob(f"{make_slug(spec)}-{'?' * DIGITS}"):
        other = RunFolder(path)
        plain = other.read_spec()
        if path == folder.path or not _is_spec(plain) or _remove_end(plain) != wanted:
            continue
        end = plain["schedule"].get("stop_after", 0)
        if not 0 < end < spec.schedule.last_iteration:
            continue
        record = RecordStore([], folder.path.parent).look_up(other.run_id).record
        if record is None or record["provenance"].get("data_digest") != data_digest:
            continue
        last, _ = checkpoint.find_newest(other.checkpoints)
        if last is not None and last.iteration == end:
            continued[end] = last
    return continued[max(continued)] if continued else None


def _is_spec(plain: Any) -> TypeGuard[dict[str, Any]]:
    """Whether plain data has the shape of a spec; the folder of another run may be damaged."""
    return isinstance(plain, dict) and isinstance(plain.get("schedule"), dict)


def _remove_end(plain: dict[str, Any]) -> dict[str, Any]:
    """The plain data of a spec without ``schedule.stop_after``."""
    schedule = {key: v for key, v in plain["schedule"].items() if key != "stop_after"}
    return {**plain, "schedule": schedule}
