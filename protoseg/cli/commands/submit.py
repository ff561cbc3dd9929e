"""``sweep`` and ``train`` on a cluster: submit, say what was submitted, and leave."""

from __future__ import annotations

from collections.abc import Sequence

from protoseg.cli.context import FAILED, OK, Context
from protoseg.cli.views.plan import counts_text
from protoseg.config.matrix import Matrix
from protoseg.launch.current_plan import read_plan
from protoseg.launch.job_arrays import Array
from protoseg.launch.profile.profile import ClusterProfile
from protoseg.planning.plan import Plan


def submit(context: Context, matrices: Sequence[Matrix], profile: ClusterProfile) -> int:
    """Submit what matrices still need."""
    from protoseg.launch.submit import submit_runs

    places, quiet = context.places, context.json
    seen: list[Plan] = []

    def make_plan() -> Plan:
        plan = read_plan(matrices, places.runs, context.record_folders, fresh=True)
        seen.append(plan)
        if not quiet:
            context.console.print(f"{len(plan.entries)} runs: ", counts_text(plan), ".", sep="")
        return plan

    def on_array(job: str, array: Array) -> None:
        if not quiet:
            text = f"submitted  job {job}: {len(array.entries)} runs, each {array.resources}"
            context.console.print(text, markup=False)

    outcome = submit_runs(
        make_plan,
        places.runs,
        profile,
        {"data": str(places.data), "weights": str(places.weights)},
        name=job_name(matrices),
        retry_failed=context.arguments.retry_failed,
        on_array=on_array,
    )
    if quiet:
        context.print_json(vars(outcome))
    else:
        if outcome.under_way:
            context.console.print(f"{len(outcome.under_way)} runs are under way or queued already.")
        if outcome.jobs:
            names = " ".join(matrix.name for matrix in matrices)
            context.console.print(f"You may leave. How far it is: protoseg status {names}")
        elif not outcome.refused and not outcome.left_alone:
            context.console.print("Nothing to submit.")
    problems = [] if quiet else [f"{run}: {why}" for run, why in outcome.left_alone.items()]
    if outcome.refused:
        problems.append(
            f"{len(outcome.refused)} runs were not taken: {outcome.refusal} "
            "Nothing of them is lost; run the sweep again later."
        )
    problems += [problem for plan in seen for problem in plan.problems]
    context.print_errors(list(dict.fromkeys(problems)))
    return FAILED if outcome.refused or outcome.left_alone or problems else OK


def job_name(matrices: Sequence[Matrix]) -> str:
    """What the scheduler calls the jobs of some matrices: their names, or how many they are."""
    names = "-".join(matrix.name for matrix in matrices)
    return names if len(names) <= 80 else f"{matrices[0].name}-and-{len(matrices) - 1}-more"
