"""Notes of `verify` about records whose models come from other packages."""

from __future__ import annotations

from typing import Any

from protoseg.report.verify.check import Check
from protoseg.report.verify.records import add_notes


def notes(*attempts: list[dict[str, Any]]) -> list[str]:
    """The notes about records with these attempts; the last attempt made the record."""
    check = Check("code", "")
    add_notes({f"run{n}": {**a[-1], "attempts": a} for n, a in enumerate(attempts)}, check)
    return list(check.notes)


def made_by(sha256: str) -> dict[str, Any]:
    return {"commit": "c", "outside": {"mine": {"version": None, "sha256": sha256}}}


def test_different_sources_of_a_package_get_a_note() -> None:
    assert notes([made_by("a"), made_by("a")], [made_by("a")], [{"commit": "c"}]) == []
    assert notes([made_by("a"), made_by("b")]) == ["run0: its attempts ran different code"]
    assert notes([made_by("a")], [made_by("b")], [made_by("a")]) == [
        "mine: the records used 2 different versions of its source"
    ]


def test_several_builds_of_torch_are_counted() -> None:
    def origin(version: str, build: str) -> dict[str, Any]:
        return {"packages": {"torch": version}, "attempts": [{"torch": build}]}

    check = Check("code", "codes")
    new, old = origin("2.13.0+cpu", "2.13.0+cpu"), origin("2.13.0", "2.13.0+cu130")
    add_notes({"a": new, "b": new}, check)
    assert not check.notes
    # The metadata of torch from PyPI lack the build, which older records have by attempt only.
    add_notes({"a": new, "b": new, "c": old}, check)
    assert check.notes == ["records of 2 builds of torch: 2.13.0+cpu (in 2), 2.13.0+cu130 (in 1)"]
