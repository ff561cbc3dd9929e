"""The report of a campaign: a page to read, and everything that was done and seen, as JSON."""

from __future__ import annotations

import argparse
import json
import platform
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from campaigns.slurm.harness import Lab, git
from campaigns.slurm.monitor import Watch
from campaigns.slurm.oracle import EXPECTED, Verdict


def injected(lab: Lab) -> Counter[str]:
    """Faults by kind; sweeps that a user typed are none."""
    return Counter(event["kind"] for event in lab.events if event["kind"] != "sweep")


def summary(lab: Lab, watch: Watch, verdict: Verdict, took: float, same: list[str]) -> str:
    """The numbers, and what was wrong."""
    faults = injected(lab)
    sweeps = sum(event["kind"] == "sweep" for event in lab.events)
    late = f" ({len(lab.too_late)} more came too late, all was done)" if lab.too_late else ""
    lines = [
        f"- {len(watch.records)} of {lab.runs_wanted} runs have their record, after {took:.0f} s.",
        f"- {faults.total()} faults{late}, {sweeps} sweeps by the user, "
        f"{watch.status_calls} calls of `status --json` (the slowest took "
        f"{watch.slowest_status:.1f} s).",
        f"- {verdict.attempts} attempts, of which {verdict.requeues} in a requeued job: "
        + ", ".join(f"{number} {reason}" for reason, number in verdict.reasons.most_common())
        + ".",
        f"- Reasons: {verdict.finished} attempts ended with the record; of those that did not, "
        f"{verdict.strict} met one kind of fault and were held to it, {verdict.several} met more "
        "than one kind and were held to their reasons together.",
        f"- The same bits (metrics, loss curve, confusion counts) as trained without SLURM and "
        f"without faults: {len(same)} runs compared: {', '.join(same)}.",
        "",
    ]
    wrong = [*lab.problems, *verdict.wrong]
    lines.append("Nothing was wrong." if not wrong else f"{len(wrong)} things were wrong:\n")
    lines += [f"- {text}" for text in wrong]
    return "\n".join(lines)


def write_report(
    path: Path,
    options: argparse.Namespace,
    lab: Lab,
    watch: Watch,
    verdict: Verdict,
    took: float,
    same: list[str],
) -> None:
    """Write FILE.md and FILE.json."""
    words = [f"--runs {options.runs}", f"--faults {options.faults}", f"--seed {options.seed}"]
    words += [f"--iterations {options.iterations}"] * (options.iterations != 600)
    words += [f"--kinds {options.kinds}"] * bool(options.kinds)
    words += ["--paced"] * options.paced
    words += [f"--margin {options.margin:g}"] * (options.margin != 1)
    words += ["--no-accounting"] * options.no_accounting
    command = f"python tests/campaigns/slurm/campaign.py {' '.join(words)}"
    commit = git("rev-parse", "--short", "HEAD")
    dirty = bool(git("status", "--porcelain", "--untracked-files=no"))
    versions = {
        "commit": commit + (" with changes" if dirty else ""),
        "tree of protoseg/": git("rev-parse", "--short", "HEAD:protoseg"),
        "slurm": lab.slurm,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    accounting = "without accounting" if options.no_accounting else "with accounting"
    shape = lab.testbed.shape
    table = [
        "| fault | injected | attempts that met it alone | with others |",
        "|---|---|---|---|",
    ]
    for kind, number in sorted(injected(lab).items()):
        met = [row for row in verdict.rows if kind in row["faults"]]
        alone = _reasons([row for row in met if len(row["faults"]) == 1])
        if kind not in EXPECTED:
            alone = "touches no worker"
        table.append(
            f"| {kind} | {number} | {alone} | "
            f"{_reasons([row for row in met if len(row['faults']) > 1])} |"
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
            summary(lab, watch, verdict, took, same),
            "",
            *table,
            "",
            "An attempt that met several faults counts with each. `done`: it reached its record "
            "all the same, or before the fault did. Faults: `tests/campaigns/slurm/faults.py`; "
            "checks: `tests/campaigns/slurm/oracle.py`. Every fault "
            f"and every attempt: `{path.with_suffix('.json').name}`.",
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
        "too_late": lab.too_late,
        "wrong": [*lab.problems, *verdict.wrong],
        "events": sorted(lab.events, key=lambda event: event["time"]),
        "attempts": [_rounded(row) for row in verdict.rows],
    }
    plain = json.dumps(content, indent=1, ensure_ascii=False)
    path.with_suffix(".json").write_text(plain.replace(str(lab.folder), "FOLDER") + "\n")


def _reasons(rows: list[dict[str, Any]]) -> str:
    counted = Counter(row["reason"] or "done" for row in rows)
    return ", ".join(f"{number} {reason}" for reason, number in counted.most_common())


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()
    }
