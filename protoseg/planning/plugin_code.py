"""Finds runs that were trained with other code of a plug-in package than it has now.

The id of a run does not depend on the code of a plug-in. Without this check a sweep would say that
nothing is left to do after the code was changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protoseg import files
from protoseg.config.plugin_source import describe_plugin
from protoseg.config.plugins import list_packages
from protoseg.planning.plan import Plan, PlanEntry
from protoseg.runs.folder import RunFolder


@dataclass(frozen=True)
class ChangedPlugin:
    """A package whose source differs from the one that some runs were trained with."""

    package: str
    recorded: tuple[str, ...]
    """SHA-256 of each other source that trained one of the runs."""
    current: str | None
    """SHA-256 of the source now; None if the package has no source on this machine."""
    run_ids: tuple[str, ...]
    next_version: int
    """The lowest ``plugin_version`` that none of the runs has."""

    def describe(self) -> str:
        """One sentence with the runs, and one with the two ways to go on."""
        runs = ", ".join(self.run_ids[:3])
        more = f" and {len(self.run_ids) - 3} more" if len(self.run_ids) > 3 else ""
        number = len(self.run_ids)
        digests = ", ".join(digest[:10] for digest in self.recorded)
        now = self.current[:10] if self.current else "missing"
        return (
            f"{number} run{' was' if number == 1 else 's were'} trained with other code of the "
            f"package {self.package} (source {digests}; now {now}): {runs}{more}. To train "
            f"{'it' if number == 1 else 'them'} again, set plugin_version={self.next_version}; "
            f"to keep {'it' if number == 1 else 'them'}, run the sweep with --accept-code."
        )


def find_changed_plugins(plan: Plan, runs_folder: Path) -> list[ChangedPlugin]:
    """Compare the plug-in code of finished and started runs with the code on this machine.

    Args:
        plan: the runs.
        runs_folder: parent of the run folders; a run without a record has the code of its last
            attempt there.

    Returns:
        One entry for each package that changed, sorted by name.
    """
    changed: dict[str, list[tuple[PlanEntry, str]]] = {}
    current: dict[str, str | None] = {}
    for entry in plan.entries:
        packages = list_packages(entry.run.spec)
        sources = _read_sources(entry, runs_folder) if packages else {}
        for package in packages:
            if package not in current:
                current[package] = describe_plugin(package)["sha256"]
            recorded = sources.get(package)
            if recorded is not None and recorded != current[package]:
                changed.setdefault(package, []).append((entry, recorded))
    return [
        ChangedPlugin(
            package,
            tuple(dict.fromkeys(digest for _, digest in runs)),
            current[package],
            tuple(entry.run.run_id for entry, _ in runs),
            1 + max(entry.run.spec.plugin_version for entry, _ in runs),
        )
        for package, runs in sorted(changed.items())
    ]


def _read_sources(entry: PlanEntry, runs_folder: Path) -> dict[str, str]:
    """Package -> SHA-256 of the source that trained a run last; empty if it never started."""
    if entry.status.record is not None:
        code: Any = entry.status.record["provenance"]
    else:
        attempts = RunFolder(runs_folder / entry.run.run_id).attempts_folder
        newest = max(attempts.glob("*/code.json"), default=None)
        code = files.read_json(newest) if newest else None
    outside = code.get("outside") if isinstance(code, Mapping) else None
    return {
        package: source["sha256"]
        for package, source in (outside or {}).items()
        if isinstance(source, Mapping) and source.get("sha256")
    }
