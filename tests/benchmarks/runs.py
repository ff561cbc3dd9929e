"""Synthetic saved runs."""

from __future__ import annotations

from typing import Any


def times(median: float, spread: float = 0.02) -> dict[str, float]:
    """Return a median and an interval of relative width ``spread`` to each side."""
    return {"median": median, "low": median * (1 - spread), "high": median * (1 + spread)}


def case(name: str, ours: float, loop: float | None = None, **changes: Any) -> dict[str, Any]:
    """Return a clustering case; ``spread`` is the relative width of its intervals."""
    spread = changes.pop("spread", 0.02)
    content: dict[str, Any] = {"group": "clustering", "case": name, "rounds": 20}
    content |= {"ours": times(ours, spread), "references": {}}
    if loop is not None:
        content["references"]["loop"] = {**times(loop, spread), "ratio": times(loop / ours, spread)}
    return {**content, **changes}


def saved(*cases: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a saved run with these cases."""
    return {
        "schema_version": 1,
        "time": "2026-11-20T12:00:00+00:00",
        "device": "CPU Abacus & Sons (R) 9 @ 2.10GHz",
        "platform": "Linux x86_64",
        "cores": 2,
        "threads": 2,
        "versions": {"torch": "2.13.0", "POT": "0.9.7", "python": "3.11.2"},
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "dirty": False,
        "load": {"before": 0.04, "end": 1.9},
        "cases": list(cases),
        **changes,
    }
