"""Plan entries and job arrays without a matrix, for tests of arrays and batch scripts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path

from protoseg.config.compose import Composer
from protoseg.config.matrix import PlannedRun
from protoseg.config.schema import RunSpec
from protoseg.launch.job_arrays import JobArray, cut_into_arrays
from protoseg.launch.profile.profile import ClusterProfile
from protoseg.planning.plan import PlanEntry
from protoseg.runs.folder import Status
from protoseg.runs.states import State

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@functools.cache
def default_spec() -> RunSpec:
    """Compose the spec without overrides."""
    return Composer(EXPERIMENTS).spec([], "test")


def make_entry(seed: int = 0, batch: int = 8) -> PlanEntry:
    """Make the plan entry of a new run."""
    spec = default_spec()
    schedule = dataclasses.replace(spec.schedule, batch_size=batch)
    run = PlannedRun(dataclasses.replace(spec, seed=seed, schedule=schedule), {})
    return PlanEntry(run, Status(State.NEW), ("m",), None)


def make_entries(batches: Iterable[int]) -> list[PlanEntry]:
    """Make one run for each batch size; seeds make all runs different."""
    return [make_entry(seed, batch) for seed, batch in enumerate(batches)]


def make_array(profile: ClusterProfile, runs: int = 3, batch: int = 8) -> JobArray:
    """Make one array of equal runs."""
    (whole,) = cut_into_arrays(make_entries([batch] * runs), profile, None)
    return whole
