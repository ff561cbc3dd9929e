"""What a cluster is like: versions, limits, preemption, partitions, clocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from protoseg.scheduler.call import call


@dataclass(frozen=True)
class Site:
    """Facts of a cluster; None or empty where nobody could be asked."""

    reachable: bool
    version: str = ""
    max_array_size: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


def site() -> Site:
    """Ask the controller."""
    reply = call(["scontrol", "show", "config"])
    settings = {}
    for line in reply.out.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            settings[key.strip()] = value.strip()
    size = settings.get("MaxArraySize", "")
    return Site(
        reachable=reply.fine,
        version=settings.get("SLURM_VERSION", ""),
        max_array_size=int(size) if size.isdecimal() else None,
        settings=settings,
    )
