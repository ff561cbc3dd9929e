"""The selection of the runs of a plan that a sweep trains."""

from __future__ import annotations

from protoseg.planning.plan import Plan, PlanEntry
from protoseg.runs.retry import is_due
from protoseg.runs.states import State


def select_runs(plan: Plan, retry_failed: bool) -> tuple[list[PlanEntry], dict[str, str]]:
    """Select the runs to train.

    Returns:
        The runs to train, by seed, and run id -> the reason for each skipped run that is not done.
    """
    chosen, skipped = [], {}
    for entry in plan.entries:
        status = entry.status
        if is_due(status.state, status.reason, retry_failed):
            chosen.append(entry)
        elif status.state is State.FAILED:
            advice = " Run again with --retry-failed." if status.reason else ""
            skipped[entry.run.run_id] = f"failed: {status.message}{advice}"
        elif status.state in (State.RUNNING, State.QUEUED):
            run_id = entry.run.run_id
            skipped[run_id] = f"{status.state.value}: {status.message}"
            if status.state is State.RUNNING:
                follow = f"Follow it with: protoseg logs {run_id} --follow"
                skipped[run_id] = f"running on {status.host}, by another worker. {follow}"
    # The first seed of every row before the second of any: an early stop still compares rows.
    chosen.sort(key=lambda entry: entry.run.spec.seed)
    return chosen, skipped
