"""The report of a fault campaign: a Markdown page, and all events and attempts as JSON."""

from __future__ import annotations

import argparse
import json
import platform
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from campaigns.slurm.harness import Harness, run_git
from campaigns.slurm.monitor import Monitor
from campaigns.slurm.oracle import EXPECTED, Verdict


def count_faults(harness: Harness) -> Counter[str]:
    """Count the faults by name; sweeps of the user are not faults."""
    return Counter(event["kind"] for event in harness.events if event["kind"] != "sweep")


def format_summary(
    harness: Harness, monitor: Monitor, verdict: Verdict, took: float, same: list[str]
) -> str:
    """Return the numbers of a campaign and its failed checks as Markdown."""
    faults = count_faults(harness)
    sweeps = sum(event["kind"] == "sweep" for event in harness.events)
    too_late = len(harness.too_late)
    late = f" ({too_late} more were too late: all runs had ended)" if too_late else ""
    lines = [
        f"- {len(monitor.records)} of {harness.runs_wanted} runs have their record, after "
        f"{took:.0f} s.",
        f"- {faults.total()} faults{late}, {sweeps} sweeps by the user, "
        f"{monitor.status_calls} calls of `status --json` (the slowest took "
        f"{monitor.slowest_status:.1f} s).",
        f"- {verdict.attempts} attempts, of which {verdict.requeues} in a requeued job: "
        + ", ".join(f"{number} {reason}" for reason, number in verdict.reasons.most_common())
        + ".",
        f"- Reasons: {verdict.finished} attempts ended with the record. Of the others, "
        f"{verdict.strict} had one type of fault and must have its reason; {verdict.several} had "
        "several and must have a reason of one of them.",
        f"- Bit-identical (metrics, loss curve, confusion counts) to a training without SLURM and "
        f"without faults: {len(same)} runs: {', '.join(same)}.",
        "",
    ]
    wrong = [*harness.problems, *verdict.wrong]
    lines.append("All checks passed." if not wrong else f"{len(wrong)} checks failed:\n")
    lines += [f"- {text}" for text in wrong]
    return "\n".join(lines)


def write_report(
    path: Path,
    options: argparse.Namespace,
    harness: Harness,
    monitor: Monitor,
    verdict: Verdict,
    took: float,
    same: list[str],
) -> None:
    """Write FILE.md and FILE.json."""
    arguments = [f"--runs {options.runs}", f"--faults {options.faults}", f"--seed {options.seed}"]
    arguments += [f"--iterations {options.iterations}"] * (options.iterations != 600)
    arguments += [f"--kinds {options.kinds}"] * bool(options.kinds)
    arguments += ["--paced"] * options.paced
    arguments += [f"--margin {options.margin:g}"] * (options.margin != 1)
    arguments += ["--no-accounting"] * options.no_accounting
    command = f"python tests/campaigns/slurm/campaign.py {' '.join(arguments)}"
    commit = run_git("rev-parse", "--short", "HEAD")
    dirty = bool(run_git("status", "--porcelain", "--untracked-files=no"))
    versions = {
        "commit": commit + (" with changes" if dirty else ""),
        "tree of protoseg/": run_git("rev-parse", "--short", "HEAD:protoseg"),
        "slurm": harness.slurm,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    accounting = "without accounting" if options.no_accounting else "with accounting"
    shape = harness.testbed.shape
    table = [
        "| fault | injected | attempts with only this fault | with others |",
        "|---|---|---|---|",
    ]
    for name, number in sorted(count_faults(harness).items()):
        hit = [row for row in verdict.rows if name in row["faults"]]
        only_fault = _count_reasons([row for row in hit if len(row["faults"]) == 1])
        if name not in EXPECTED:
            only_fault = "affects no worker"
        table.append(
            f"| {name} | {number} | {only_fault} | "
            f"{_count_reasons([row for row in hit if len(row['faults']) > 1])} |"
        )
    text = "\n".join(
        [
            f"# Fault campaign on SLURM, {accounting}",
            "",
            f"`{command}`",
            "",
            f"{', '.join(f'{name} {version}' for name, version in versions.items())}; "
            f"a testbed of {shape.nodes} nodes that claim {shape.cpus} CPUs each, on one machine.",
            "",
            format_summary(harness, monitor, verdict, took, same),
            "",
            *table,
            "",
            "An attempt with several faults is counted in each of their rows. `done`: the attempt "
            "wrote its record in spite of the fault, or before it. Faults: "
            "`tests/campaigns/slurm/faults.py`; checks: `tests/campaigns/slurm/oracle.py`. All "
            f"faults and attempts: `{path.with_suffix('.json').name}`.",
            "",
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    content: dict[str, Any] = {
        "command": command,
        "versions": versions,
        "seconds": round(took, 1),
        "same_bits": same,
        "too_late": harness.too_late,
        "wrong": [*harness.problems, *verdict.wrong],
        "events": sorted(harness.events, key=lambda event: event["time"]),
        "attempts": [_round_values(row) for row in verdict.rows],
    }
    plain = json.dumps(content, indent=1, ensure_ascii=False)
    path.with_suffix(".json").write_text(plain.replace(str(harness.folder), "FOLDER") + "\n")


def _count_reasons(rows: list[dict[str, Any]]) -> str:
    counted = Counter(row["reason"] or "done" for row in rows)
    return ", ".join(f"{number} {reason}" for reason, number in counted.most_common())


def _round_values(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()
    }
