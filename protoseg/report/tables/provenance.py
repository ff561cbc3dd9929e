"""Collects the provenance of a table from its records."""

from __future__ import annotations

from collections import Counter
from typing import Any

from protoseg.report import wording
from protoseg.report.tables.model import Provenance


class ProvenanceCount:
    """Counts commits, devices and dates of records for a `Provenance`."""

    def __init__(self) -> None:
        self.commits: Counter[str] = Counter()
        self.devices: Counter[str] = Counter()
        self.finished: list[str] = []
        self.dirty = 0

    def add(self, record: dict[str, Any]) -> None:
        """Add one record."""
        provenance = record["provenance"]
        self.commits[str(provenance.get("commit") or "unknown")] += 1
        self.devices[describe_device(provenance.get("device"))] += 1
        self.dirty += bool(provenance.get("dirty"))
        self.finished.append(record["finished"])

    def summarise(self) -> Provenance:
        """Return the provenance of all records added so far."""
        return Provenance(
            len(self.finished),
            tuple(sorted(self.commits)),
            self.dirty,
            min(self.finished, default=""),
            max(self.finished, default=""),
            tuple(sorted(self.devices)),
        )


def describe_device(device: Any) -> str:
    """Format the device of a record."""
    if isinstance(device, dict):
        device = device.get("name") or wording.format_value(device)
    return wording.clean_text(device or "an unknown device")
