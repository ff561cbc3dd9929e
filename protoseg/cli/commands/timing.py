"""``plan --time``: time, on this machine, the kinds of runs whose cost nothing tells."""

from __future__ import annotations

import functools

from protoseg.cli.context import Context
from protoseg.cli.progress import Bar
from protoseg.planning.cost import workloads_to_time
from protoseg.planning.plan import Plan
from protoseg.planning.timings import Device, Failure, read, take, this_device
from protoseg.planning.workload import describe_workload
from protoseg.runs.store import all_records


def time_workloads(context: Context, plan: Plan, threads: int) -> tuple[Device, list[Failure]]:
    """Time what the plan needs; the device, and what could not be timed.

    What was timed is kept as it comes: after Ctrl-C the same call goes on where it was.
    """
    places, iterations = context.places, context.arguments.time
    device = this_device(threads)
    records = [*all_records(context.record_folders)]
    records += [e.status.record for e in plan.entries if e.status.record]
    specs = workloads_to_time(plan, records, read(places.runs), device)
    say = context.errors.print
    if specs:
        kinds = f"{len(specs)} kind{'s' * (len(specs) > 1)} of runs"
        say(f"Timing {kinds} on {device.name}, {iterations} iterations each.", markup=False)
    else:
        say("Nothing to time: of every kind of run records or timings tell the cost.")
    failures = []
    for number, spec in enumerate(specs, 1):
        what = describe_workload(spec)
        with Bar(context, what) as bar:
            found = take(
                spec,
                places.runs,
                device,
                iterations=iterations,
                threads=threads,
                on_iteration=functools.partial(bar.update, total=iterations),
            )
        if isinstance(found, Failure):
            failures.append(found)
            text = f"not timed: {found.message}"
        else:
            text = f"{found.seconds:.3g} s an iteration ({found.iterations} timed)"
        say(f"{number}/{len(specs)}  {what}: {text}", markup=False)
    return device, failures
