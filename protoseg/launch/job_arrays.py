"""Job arrays: runs of a plan, grouped by their resources."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from protoseg.config.fields import to_plain
from protoseg.errors import UsageError
from protoseg.launch.profile.profile import ClusterProfile
from protoseg.launch.profile.resources import Resources
from protoseg.launch.profile.values import multiply_memory
from protoseg.planning.plan import PlanEntry

NO_FACTORS: Mapping[str, float] = {}


@dataclass(frozen=True)
class JobArray:
    """The runs of one sbatch: task n of the array trains run n."""

    resources: Resources
    entries: tuple[PlanEntry, ...]

    @property
    def run_ids(self) -> list[str]:
        """Run id of each task."""
        return [entry.run.run_id for entry in self.entries]

    def slice_tasks(self, start: int, end: int | None) -> JobArray:
        """Return an array of tasks ``start`` to ``end`` (exclusive)."""
        return dataclasses.replace(self, entries=self.entries[start:end])


def cut_into_arrays(
    entries: Sequence[PlanEntry],
    profile: ClusterProfile,
    max_array_size: int | None,
    memory: Mapping[str, float] = NO_FACTORS,
) -> list[JobArray]:
    """Group runs by their resources, and cut the groups into arrays.

    Runs keep the order of the plan inside a group; groups are in the order of their first run.

    Args:
        entries: runs to submit.
        profile: size of an array and resources of a run.
        max_array_size: the cluster's MaxArraySize; None if unknown. SLURM's indices are smaller
            and start at 0, so this is also the largest number of tasks.
        memory: run id -> factor of the profile's memory, for runs that need more.

    Raises:
        UsageError: the processes of a run cannot share its batch equally.
    """
    groups: dict[Resources, list[PlanEntry]] = {}
    for entry in entries:
        # Only rules need the spec as plain data; it takes one second for 10,000 runs.
        spec = to_plain(entry.run.spec) if profile.rules else {}
        resources = profile.resources(spec)
        factor = memory.get(entry.run.run_id)
        if factor is not None:
            amount = multiply_memory(resources.memory, factor)
            resources = dataclasses.replace(resources, memory=amount)
        _check_batch(entry, resources, profile)
        groups.setdefault(resources, []).append(entry)
    limit = max(1, min(profile.array_size, max_array_size or profile.array_size))
    return [
        JobArray(resources, tuple(group[start : start + limit]))
        for resources, group in groups.items()
        for start in range(0, len(group), limit)
    ]


def _check_batch(entry: PlanEntry, resources: Resources, profile: ClusterProfile) -> None:
    batch, processes = entry.run.spec.schedule.batch_size, resources.processes_total
    if batch % processes:
        raise UsageError(
            f"cluster {profile.name}: {entry.run.run_id}: {processes} processes ({resources.nodes} "
            f"nodes, {resources.processes_per_node} processes each) cannot share a batch of "
            f"{batch} equally. Change nodes, gpus or processes of the profile (or of a rule for "
            "such runs), or schedule.batch_size."
        )
