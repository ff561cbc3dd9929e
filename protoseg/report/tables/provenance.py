"""Where the numbers of a table come from, gathered from the records behind it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from protoseg.report import wording
from protoseg.report.tables.model import Provenance


class ProvenanceCount:
    """Gathers `Provenance` while the records pass by."""

    def __init__(self) -> None:
        self.commits: Counter[str] = Counter()
        self.devices: Counter[str] = Counter()
        self.finished: list[str] = []
        self.dirty = 0

    def add(self, record: dict[str, Any]) -> None:
        """Count one record."""
        provenance = record["provenance"]
        self.commits[str(provenance.get("commit") or "unknown")] += 1
        self.devices[device_words(provenance.get("device"))] += 1
        self.dirty += bool(provenance.get("dirty"))
        self.finished.append(record["finished"])

    def summary(self) -> Provenance:
        """What has been counted."""
        return Provenance(
            len(self.finished),
            tuple(sorted(self.commits)),
            self.dirty,
            min(self.finished, default=""),
            max(self.finished, default=""),
            tuple(sorted(self.devices)),
        )


def device_words(device: Any) -> str:
    """A device as a record names it, in words."""
    if isinstance(device, dict):
        device = device.get("name") or wording.plain_value(device)
    return wording.clean(device or "an unknown device")
