"""Whether a campaign's runs came out as they should (see campaign.py)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaigns.slurm.harness import Lab, as_json
from campaigns.slurm.monitor import Watch
from protoseg.errors import ProtosegError
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import read_record, verify_confusion

# Seconds on a machine that does nothing else; `Lab.margin` multiplies them. Longer times let more
# faults count for an attempt: fewer are held to one reason, none is wrongly said to be wrong.
IMPORTS = 6.0
"""From a worker's start to its attempt: a signal in this time shows in that attempt."""
AFTER = 1.5
"""By which an attempt's end may seem to lie before what ended it: two clocks, sampled."""
SAVING = 15.0
"""In which a job that was told to stop is gone."""
TAIL = {"slurmd_restart": 3.0, "slurmd_outage": 12.0, "node_dead": 12.0, "controller": 5.0}
TAIL["disk_full"] = 3.0
"""For which the others may still end something after they are over."""
SILENT_DEATHS = {"node_dead", "slurmd_outage"}
LONG_RUN = 140.0
"""An attempt that lives longer may reach its job's time limit (4 minutes, the warning 20 s to 50 s
before) by itself."""

EXPECTED: dict[str, set[str]] = {
    "kill_worker": {"lost"},
    "cancel": {"cancelled"},
    "scancel": {"cancelled"},
    "requeue": {"preempted"},
    "preempt": {"preempted"},
    "timeout": {"timeout"},
    "slurmd_restart": set(),  # jobs go on
    "slurmd_outage": {"node_failure"},
    "node_dead": {"node_failure"},
    "controller": set(),  # jobs go on
    "disk_full": {"storage"},
}
"""Fault -> the reasons that an attempt may have if nothing else befell it; besides, any attempt may
have reached its record before the fault reached it."""

UNBEGUN: dict[str, set[str]] = {
    # A task that waits and is cancelled alone leaves no trace in SLURM.
    "scancel": {"cancelled", "lost"},
    # srun found no slurmd, or no controller.
    "slurmd_restart": {"lost", "node_failure", "preempted"},
    "slurmd_outage": {"lost", "node_failure", "preempted"},
    "controller": {"lost", "preempted"},
    "disk_full": {"storage", "lost"},
}
"""The same for a job that ended before its worker could begin."""
TOGETHER: dict[str, set[str]] = {
    "slurmd_outage": {"lost", "node_failure", "preempted"},
    "slurmd_restart": {"lost", "node_failure", "preempted"},
    "controller": {"lost", "preempted"},
    "disk_full": {"storage", "lost"},
}
"""What a fault adds where others met the same attempt: nobody to ask, nowhere to write."""
WITHOUT_ACCOUNTING: dict[str, set[str]] = {
    "node_dead": {"node_failure", "lost"},
    "slurmd_outage": {"node_failure", "lost", "preempted"},
    "scancel": {"cancelled", "lost"},
}


@dataclass
class Verdict:
    """What was counted and what was wrong."""

    attempts: int = 0
    strict: int = 0
    """Attempts that a fault ended, judged by that one fault."""
    several: int = 0
    """Attempts that more than one fault met: any of their reasons is right."""
    finished: int = 0
    """Attempts that wrote the record."""
    requeues: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Every attempt, with the faults that met it."""


def judge(lab: Lab, watch: Watch) -> Verdict:
    """Look at every run and every attempt."""
    verdict = Verdict()
    status = as_json(lab.protoseg("status", lab.whole, "--json").stdout) or {"runs": []}
    runs = {run["run_id"]: run for run in status["runs"]}
    if len(runs) != lab.runs_wanted:
        verdict.wrong.append(f"status names {len(runs)} runs, not {lab.runs_wanted}")
    for run_id, row in runs.items():
        folder = RunFolder(lab.runs / run_id)
        if row["state"] != "done":
            verdict.wrong.append(f"{run_id}: is {row['state']}: {row.get('message')}")
        else:
            _judge_record(folder, watch, verdict)
        _judge_attempts(lab, folder, watch, verdict)
    return verdict


def _judge_record(folder: RunFolder, watch: Watch, verdict: Verdict) -> None:
    try:
        record = read_record(folder.record)
        verify_confusion(record, folder.confusion)
    except (OSError, ProtosegError) as error:
        verdict.wrong.append(f"{folder.run_id}: {error}")
        return
    if record["run_id"] != folder.run_id or folder.run_id not in watch.records:
        verdict.wrong.append(f"{folder.run_id}: its record is not its own")


def _judge_attempts(lab: Lab, folder: RunFolder, watch: Watch, verdict: Verdict) -> None:
    told = as_json(lab.protoseg("logs", folder.run_id, "--list", "--json").stdout)
    if not isinstance(told, list):
        verdict.wrong.append(f"{folder.run_id}: logs --list --json told nothing")
        return
    spans = _spans(folder, watch)
    told_at = {number: _told_at(folder, number, span[1]) for number, span in spans.items()}
    faults = [event for event in lab.events if event["kind"] in EXPECTED]
    written = watch.records.get(folder.run_id, (float("inf"), ""))[0] - lab.began
    submitted = {job: at for _, _, job, at in lab.submissions()}
    before: dict[str, Any] | None = None
    for attempt in told:
        begin, end = (moment - lab.began for moment in spans[attempt["number"]])
        seen = watch.seen.get(folder.run_id, {}).get(attempt["number"])
        pid = seen.pid if seen else 0
        name = f"{folder.run_id} attempt {attempt['number']}"
        known = submitted.get(attempt["job"].partition("_")[0], 0.0)
        since = max(known, before["end"] if before else 0.0)
        where = {
            "run": folder.run_id, "job": attempt["job"], "node": attempt["node"], "pid": pid,
            "begin": begin, "end": end, "since": since,
        }  # fmt: skip
        met = {event["kind"] for event in faults if _met(event, where, lab.margin)}
        own_words = folder.attempts_folder / f"{attempt['number']:04d}" / "end.json"
        if met & SILENT_DEATHS and not own_words.exists():
            # SLURM may not have missed it yet when something else befell its job.
            later = told_at[attempt["number"]] - lab.began
            met |= {e["kind"] for e in faults if _aims(e, where) and end < e["begin"] < later}
        causes = sorted(met)
        row = {**attempt, **where, "faults": causes}
        row.pop("log"), row.pop("batch")
        verdict.rows.append(row)
        if begin > written + 0.5:
            verdict.wrong.append(f"{name}: began after the run had its record")
        if before and pid and before["pid"] and before["end"] > begin + 0.5:
            verdict.wrong.append(
                f"{name}: the one before it lived {before['end'] - begin:.1f} s on"
            )
        if before and attempt["iteration"] < before["iteration"]:
            verdict.wrong.append(f"{name}: began at {attempt['iteration']}, before the last one")
        before = {**where, "iteration": attempt["iteration"]}
        _judge_reason(lab, attempt, where, causes, written, verdict)
    last = told[-1] if told else None
    if last is None or last["reason"] is not None:
        verdict.wrong.append(f"{folder.run_id}: its last attempt is {last and last['reason']}")


def _judge_reason(
    lab: Lab,
    attempt: dict[str, Any],
    where: dict[str, Any],
    met: list[str],
    written: float,
    verdict: Verdict,
) -> None:
    verdict.attempts += 1
    verdict.requeues += attempt["restarts"] > 0
    reason = attempt["reason"]
    verdict.reasons[str(reason or "done")] += 1
    name = f"{where['run']} attempt {attempt['number']}"
    if reason is None:
        verdict.finished += 1
        if attempt["state"] != "done" and not ("kill_worker" in met and where["end"] >= written):
            verdict.wrong.append(f"{name}: nobody says how it ended; faults: {met}")
        return
    allowed: set[str] = set()
    for kind in met:
        alone = UNBEGUN.get(kind, EXPECTED[kind]) if not where["pid"] else EXPECTED[kind]
        if not lab.testbed.shape.accounting:
            alone = WITHOUT_ACCOUNTING.get(kind, alone)
        allowed |= alone | (TOGETHER.get(kind, set()) if len(met) > 1 else set())
    if where["end"] - where["begin"] > LONG_RUN:
        allowed.add("timeout")
    if len(met) > 1:
        verdict.several += 1
    else:
        verdict.strict += 1
    if reason not in allowed:
        verdict.wrong.append(
            f"{name}: is '{reason}' ({attempt['message']}); it met {met or 'no fault'}"
            f", which gives {sorted(allowed) or 'no end'}"
        )


def _spans(folder: RunFolder, watch: Watch) -> dict[int, tuple[float, float]]:
    """Attempt -> from when to when it lived. One that never began lived when it was noted."""
    found = {}
    for attempt in folder.attempts():
        path = folder.attempts_folder / f"{attempt.number:04d}"
        begin = (path / "start.json").stat().st_mtime
        seen = watch.seen.get(folder.run_id, {}).get(attempt.number)
        if attempt.end is not None:
            end = (path / "end.json").stat().st_mtime
        elif seen and seen.alive:
            end = seen.alive
        elif attempt.verdict is not None:
            end = (path / "verdict.json").stat().st_mtime
        else:
            end = begin
        found[attempt.number] = begin, max(begin, end)
    return found


def _told_at(folder: RunFolder, number: int, end: float) -> float:
    """When it was written down how an attempt ended."""
    try:
        verdict = folder.attempts_folder / f"{number:04d}" / "verdict.json"
        return max(end, verdict.stat().st_mtime)
    except OSError:
        return end


def _met(event: dict[str, Any], where: dict[str, Any], margin: float) -> bool:
    """Whether a fault may have ended an attempt: it was there when, or shortly before, that ended.

    What never began was written down later than it ended: it may have been hit at any time since
    its job was submitted, or since the attempt before it.
    """
    kind, begun = event["kind"], where["pid"] > 0
    begin = where["begin"] - margin * IMPORTS if begun else where["since"]
    after = margin * AFTER
    end = where["end"] + after
    if kind == "kill_worker":
        return bool(event["pid"] == where["pid"])
    mine = _aims(event, where)
    if kind == "timeout":  # the limit stays with the job, also after a requeue
        return mine and event["begin"] <= end
    if kind in ("cancel", "scancel", "requeue"):
        here = mine
    else:
        here = mine or bool(event.get("everybody")) or event.get("node") == where["node"]
    last = event["end"] + margin * TAIL.get(kind, SAVING)
    return here and event["begin"] <= end and begin <= last and (not begun or end - after <= last)


def _aims(event: dict[str, Any], where: dict[str, Any]) -> bool:
    """Whether a fault meant the job of an attempt."""
    targets = event.get("targets", [])
    return any(t["run"] == where["run"] and t["job"] == where["job"] for t in targets)


def compare(lab: Lab, undisturbed: Path, verdict: Verdict) -> list[str]:
    """Runs whose results have the same bits as those trained undisturbed."""
    same = []
    for path in sorted(undisturbed.glob("*/record.json")):
        alone = read_record(path)
        try:
            there = read_record(lab.runs / path.parent.name / "record.json")
        except (OSError, ProtosegError):
            continue  # said already
        keys = ("metrics", "per_class", "parameters", "losses", "confusion", "spec_digest")
        differing = [key for key in keys if alone[key] != there[key]]
        if alone["provenance"]["threads"] != there["provenance"]["threads"]:
            differing.append("provenance.threads")
        if differing:
            verdict.wrong.append(f"{path.parent.name}: not as undisturbed: {', '.join(differing)}")
        else:
            same.append(f"{path.parent.name} ({there['attempts']} attempts)")
    return same
