"""Which runs of a plan a sweep trains."""

from __future__ import annotations

from protoseg.planning.plan import Plan, PlanEntry
from protoseg.runs.states import State


def select_runs(plan: Plan, retry_failed: bool) -> tuple[list[PlanEntry], dict[str, str]]:
    """The runs to train, and for each one left alone the reason."""
    chosen, left_alone = [], {}
    for entry in plan.entries:
        status = entry.status
        failed_before = status.state is State.FAILED and status.reason is not None
        if status.state in (State.NEW, State.INTERRUPTED) or (failed_before and retry_failed):
            chosen.append(entry)
        elif status.state is State.FAILED:
            again = " Run again with --retry-failed." if status.reason else ""
            left_alone[entry.run.run_id] = f"failed: {status.message}{again}"
        elif status.state in (State.RUNNING, State.QUEUED):
            where = f" on {status.host}" if status.state is State.RUNNING else f": {status.message}"
            left_alone[entry.run.run_id] = f"{status.state.value}{where}"
    # The first seed of every row before the second of any: a sweep cut short still compares.
    chosen.sort(key=lambda entry: entry.run.spec.seed)
    return chosen, left_alone
