"""What `verify` remarks on the code of records whose parts come from packages elsewhere."""

from __future__ import annotations

from typing import Any

from protoseg.report.verify.check import Check
from protoseg.report.verify.records import remark


def notes(*attempts: list[dict[str, Any]]) -> list[str]:
    """Of records with these attempts, of which the last one made the record."""
    check = Check("code", "")
    remark({f"run{n}": {**a[-1], "attempts": a} for n, a in enumerate(attempts)}, check)
    return list(check.notes)


def made_by(sha256: str) -> dict[str, Any]:
    return {"commit": "c", "outside": {"mine": {"version": None, "sha256": sha256}}}


def test_sources_that_differ_are_remarked() -> None:
    assert notes([made_by("a"), made_by("a")], [made_by("a")], [{"commit": "c"}]) == []
    assert notes([made_by("a"), made_by("b")]) == ["run0: its attempts ran different code"]
    found = notes([made_by("a")], [made_by("b")], [made_by("a")])
    assert found == ["mine: 2 different sources of it among the records"]
