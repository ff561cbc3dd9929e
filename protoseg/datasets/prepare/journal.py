"""What has been made from what: one line of JSON a file, so that a preparation can go on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

NAME = "prepared.jsonl"
VERSION = 1
"""Raised when a change of the code makes other files from the same source: all are made again."""


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Target -> its last entry; a line that was cut short by a kill counts for nothing."""
    try:
        lines = (folder / NAME).read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    found = {}
    for line in lines:
        try:
            entry = json.loads(line)
            found[entry["target"]] = entry
        except (ValueError, KeyError, TypeError):
            continue
    return found


def stands(entry: dict[str, Any] | None, folder: Path, source: Path) -> bool:
    """Whether an entry's file is there, as long as it was, from a source as long as it was."""
    if entry is None or entry.get("version") != VERSION:
        return False
    try:
        sizes = [(folder / entry["target"]).stat().st_size, source.stat().st_size]
    except OSError:
        return False
    return sizes == [entry["bytes"], entry["source_bytes"]]


class Journal:
    """Appends entries; each is on disk, or at least the system's business, once `write` returns."""

    def __init__(self, folder: Path) -> None:
        path = folder / NAME
        torn = path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
        self.file = open(path, "ab")  # noqa: SIM115  closed by `__exit__`
        if torn:
            self.file.write(b"\n")

    def write(self, entry: dict[str, Any]) -> None:
        """Append one entry."""
        self.file.write(_line(entry))
        self.file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.file.close()


def content(entries: Iterable[dict[str, Any]]) -> bytes:
    """A journal of these entries, as bytes."""
    return b"".join(_line(entry) for entry in entries)


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"
