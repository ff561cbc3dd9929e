"""The report of a kill campaign: a Markdown page, and every kill as JSON; no host name, no path."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaigns.kills.compare import Difference
from campaigns.kills.faults import PHASES, SIGNALS, FaultRun, Strike, format_strike
from campaigns.kills.workers import Variant
from protoseg.training.provenance.environment import collect_provenance


@dataclass
class Run:
    """One run of the campaign and its result."""

    variant: Variant
    seed: int
    run_id: str = ""
    fire: FaultRun | None = None
    same: Difference | None = None
    wrong: list[str] = field(default_factory=list)


def hits(runs: Sequence[Run]) -> list[Strike]:
    """Return the kills: strikes that ended an attempt before its record."""
    return [s for run in runs if run.fire for s in run.fire.strikes if s.hit]


def format_summary(runs: Sequence[Run], seconds: float, wrong: list[str]) -> str:
    """Return the numbers of a campaign and its failed checks as Markdown."""
    kills = hits(runs)
    same = [run.same for run in runs if run.same]
    damages: Counter[str] = sum((run.fire.damages for run in runs if run.fire), Counter())
    late = sum(not s.hit for run in runs if run.fire for s in run.fire.strikes)
    attempts = sum(run.fire.attempts for run in runs if run.fire)
    targets = Counter(strike.whom for strike in kills)
    reasons = Counter(strike.reason for strike in kills)
    lines = [
        f"- {len(same)} of {len(runs)} runs have both their records, after {seconds:.0f} s: one "
        f"of an undisturbed training, one of a training in {_format_average(attempts, len(runs))} "
        "attempts on average.",
        f"- **{len(kills)} kills survived**, {_format_counts(targets)}; {late} more were too late: "
        "the run was finished.",
        f"- Reasons of these attempts: {_format_counts(reasons)}.",
        f"- {damages.total()} checkpoints damaged between two attempts "
        f"({_format_counts(damages)}); each was detected and skipped.",
        f"- **{sum(d.differing for d in same)} differing bits** of {sum(d.bits for d in same):,} "
        f"in {sum(d.numbers for d in same):,} numbers: weights, prototypes and their counts, "
        "optimizer, schedules, random generators, loss curve, metrics, and the confusion counts of "
        "every image.",
        "",
        "All checks passed." if not wrong else f"{len(wrong)} checks failed:\n",
    ]
    return "\n".join([*lines, *(f"- {text}" for text in wrong)])


def write_report(
    path: Path,
    options: argparse.Namespace,
    runs: Sequence[Run],
    text: str,
    seconds: float,
    wrong: list[str],
) -> None:
    """Write FILE.md and FILE.json."""
    command = (
        f"python tests/campaigns/kills/campaign.py --runs {options.runs} --kills {options.kills}"
    )
    command += f" --seed {options.seed}" + " --fresh" * options.fresh
    environment = collect_provenance()
    machine = {
        "commit": environment["commit"],
        "dirty": environment["dirty"],
        "device": environment["device"],
        "python": environment["python"],
        "torch": environment["packages"]["torch"],
    }
    kills = hits(runs)
    by_phase = [
        [phase, *(_count_kills(kills, hit=phase, signal=name) for name in SIGNALS),
         _count_kills(kills, hit=phase)]
        for phase in PHASES
    ]  # fmt: skip
    by_phase.append(["all", *(_count_kills(kills, signal=name) for name in SIGNALS), len(kills)])
    by_run = [
        [run.variant.words, run.seed, run.fire.attempts, sum(bool(s.hit) for s in struck),
         run.fire.damages.total(), run.same.differing]
        for run in runs if run.fire and run.same and (struck := run.fire.strikes)
    ]  # fmt: skip
    page = [
        "# Kill campaign",
        "",
        f"`{command}`",
        "",
        f"Commit {str(machine['commit'])[:7]}{' with changes' if machine['dirty'] else ''}, "
        f"torch {machine['torch']}, Python {machine['python']}, {machine['device']}, one thread "
        "per process. Built-in data; every run has dropout, augmentation and a warm-up.",
        "",
        text,
        "",
        "Every attempt is `python -m protoseg.training.worker RUN_DIR`."
        if options.fresh
        else "The undisturbed trainings, and the attempts that are killed during their start, are "
        "`python -m protoseg.training.worker RUN_DIR`; the other attempts are the same worker, "
        "forked from a process that has imported torch.",
        "",
        "## Kills by phase and signal",
        *_format_table(["phase", *SIGNALS, "all"], by_phase),
        "",
        "start: imports, claim, data and checkpoint, up to the first iteration; checkpoint: from "
        "the first byte of a checkpoint to its digest; record: from the confusion counts to the "
        "record.",
        "",
        "## Runs",
        *_format_table(["run", "seed", "attempts", "kills", "damaged", "differing bits"], by_run),
        "",
        "The undisturbed run has no loader process and saves once; each attempt of the disturbed "
        "run has 0, 1 or 2 loader processes and saves every 0 to 0.4 s. Faults: "
        "`tests/campaigns/kills/faults.py`; comparison: `tests/campaigns/kills/compare.py`; kills: "
        f"`{path.with_suffix('.json').name}`.",
        "",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(page))
    content: dict[str, Any] = {
        "command": command,
        **machine,
        "seconds": round(seconds, 1),
        "kills": len(kills),
        "differing_bits": sum(run.same.differing for run in runs if run.same),
        "wrong": wrong,
        "runs": [
            {
                "run": run.run_id,
                "variant": run.variant.words,
                "processes": run.variant.processes,
                "attempts": run.fire.attempts if run.fire else 0,
                "damages": dict(run.fire.damages) if run.fire else {},
                "numbers": run.same.numbers if run.same else 0,
                "differing_bits": run.same.differing if run.same else None,
                "strikes": [format_strike(strike) for strike in run.fire.strikes]
                if run.fire
                else [],
            }
            for run in runs
        ],
    }
    path.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


def _count_kills(kills: Sequence[Strike], **of: str) -> int:
    return sum(all(getattr(kill, key) == value for key, value in of.items()) for kill in kills)


def _format_counts(counter: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counter.most_common()) or "none"


def _format_average(total: int, of: int) -> str:
    return f"{total / max(1, of):.1f}"


def _format_table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]
