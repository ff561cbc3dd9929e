"""Cutting the runs of a plan into job arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from protoseg.config.fields import plain
from protoseg.errors import UsageError
from protoseg.launch.profile.profile import ClusterProfile
from protoseg.launch.profile.resources import Resources
from protoseg.launch.profile.values import times_memory
from protoseg.planning.plan import PlanEntry

NOTHING: Mapping[str, float] = {}


@dataclass(frozen=True)
class Array:
    """Runs that one sbatch submits: task n of the array trains run n."""

    resources: Resources
    entries: tuple[PlanEntry, ...]

    @property
    def run_ids(self) -> list[str]:
        """The run of each task."""
        return [entry.run.run_id for entry in self.entries]

    def part(self, start: int, end: int | None) -> Array:
        """Some of its runs, as an array of their own."""
        return dataclasses.replace(self, entries=self.entries[start:end])


def cut(
    entries: Sequence[PlanEntry],
    profile: ClusterProfile,
    max_array_size: int | None,
    memory: Mapping[str, float] = NOTHING,
) -> list[Array]:
    """Group runs by what they ask for, and cut the groups into arrays.

    The order of the plan is kept inside a group, and groups follow their first run.

    Args:
        entries: runs to submit.
        profile: how much an array may hold, and what a run gets.
        max_array_size: the cluster's MaxArraySize; None where it is not known. SLURM's indices
            stay below it, so this is also how many tasks there can be, counted from 0.
        memory: run id -> how many times the profile's memory, for runs that need more.

    Raises:
        UsageError: a batch that can not be shared equally by the processes of its run.
    """
    groups: dict[Resources, list[PlanEntry]] = {}
    for entry in entries:
        # Without rules nobody asks what is in it, and of ten thousand it takes a second.
        spec = plain(entry.run.spec) if profile.rules else {}
        resources = profile.resources(spec)
        factor = memory.get(entry.run.run_id)
        if factor is not None:
            amount = times_memory(resources.memory, factor)
            resources = dataclasses.replace(resources, memory=amount)
        _check_batch(entry, resources, profile)
        groups.setdefault(resources, []).append(entry)
    limit = max(1, min(profile.array_size, max_array_size or profile.array_size))
    return [
        Array(resources, tuple(group[start : start + limit]))
        for resources, group in groups.items()
        for start in range(0, len(group), limit)
    ]


def _check_batch(entry: PlanEntry, resources: Resources, profile: ClusterProfile) -> None:
    batch, processes = entry.run.spec.schedule.batch_size, resources.processes_total
    if batch % processes:
        raise UsageError(
            f"cluster {profile.name}: {entry.run.run_id}: a batch of {batch} can not be shared "
            f"equally by {processes} processes ({resources.nodes} nodes, "
            f"{resources.processes_per_node} processes each); change nodes, gpus or processes of "
            "the profile (a rule does it for such runs alone), or schedule.batch_size."
        )
