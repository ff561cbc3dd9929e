"""The journal of a preparation: one JSON line per prepared file, read when it is resumed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

NAME = "prepared.jsonl"
VERSION = 1
"""Increased when the code makes other files from the same source; all files are then redone."""


def read_entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Target -> its last entry; lines that a kill left incomplete are ignored."""
    try:
        lines = (folder / NAME).read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    entries = {}
    for line in lines:
        try:
            entry = json.loads(line)
            entries[entry["target"]] = entry
        except (ValueError, KeyError, TypeError):
            continue
    return entries


def is_current(entry: dict[str, Any] | None, folder: Path, source: Path) -> bool:
    """Whether the file of an entry exists and it and its source have their recorded sizes."""
    if entry is None or entry.get("version") != VERSION:
        return False
    try:
        sizes = [(folder / entry["target"]).stat().st_size, source.stat().st_size]
    except OSError:
        return False
    return sizes == [entry["bytes"], entry["source_bytes"]]


class Journal:
    """Append entries to the journal; an appended entry survives the death of the process."""

    def __init__(self, folder: Path) -> None:
        path = folder / NAME
        is_torn = path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
        self.file = open(path, "ab")  # noqa: SIM115  closed by `__exit__`
        if is_torn:
            self.file.write(b"\n")

    def append_entry(self, entry: dict[str, Any]) -> None:
        """Append one entry and pass it to the operating system."""
        self.file.write(_encode_entry(entry))
        self.file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.file.close()


def encode_entries(entries: Iterable[dict[str, Any]]) -> bytes:
    """The content of a journal with these entries."""
    return b"".join(_encode_entry(entry) for entry in entries)


def _encode_entry(entry: dict[str, Any]) -> bytes:
    text = json.dumps(entry, ensure_ascii=False)
    # A file name that is not UTF-8 has lone surrogates; they become JSON escapes.
    return text.encode("utf-8", "backslashreplace") + b"\n"
