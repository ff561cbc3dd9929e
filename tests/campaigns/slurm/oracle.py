"""The oracle of a campaign: checks the records, attempts and reasons of its runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaigns.slurm.harness import Harness, parse_json
from campaigns.slurm.monitor import Monitor
from protoseg.errors import ProtosegError
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import read_record, verify_confusion

# Seconds on an idle machine; `Harness.margin` multiplies them. Longer times allow more faults and
# reasons for an attempt, but never report a correct reason as wrong.
IMPORTS = 6.0
"""From a worker's start to its attempt: the attempt also shows signals of this time."""
AFTER = 1.5
"""How far an attempt's end may appear before its cause: the times are sampled."""
SAVING = 15.0
"""Time in which a stopped job ends."""
TAIL = {"slurmd_restart": 3.0, "slurmd_outage": 12.0, "node_dead": 12.0, "controller": 5.0}
"""Time after the end of a fault in which it may still end an attempt; `SAVING` for other faults. A
worker that could not write also needs time to exit."""
SILENT_DEATHS = {"node_dead", "slurmd_outage"}
LONG_RUN = 140.0
"""A longer attempt may reach its job's time limit (4 minutes; the warning comes 20 to 50 s
before)."""

EXPECTED: dict[str, set[str]] = {
    "kill_worker": {"lost"},
    "cancel": {"cancelled"},
    "scancel": {"cancelled"},
    "requeue": {"preempted"},
    "preempt": {"preempted"},
    "timeout": {"timeout"},
    "slurmd_restart": set(),  # jobs continue
    "slurmd_outage": {"node_failure"},
    "node_dead": {"node_failure"},
    "controller": set(),  # jobs continue
    "disk_full": {"storage"},
}
"""Fault -> allowed reasons of an attempt with only this fault. Any attempt may also have written
its record before the fault."""

UNBEGUN: dict[str, set[str]] = {
    # SLURM keeps no trace of a single task that was cancelled in the queue.
    "scancel": {"cancelled", "lost"},
    # srun found no slurmd, or no controller.
    "slurmd_restart": {"lost", "node_failure", "preempted"},
    "slurmd_outage": {"lost", "node_failure", "preempted"},
    # slurmd ended the next start together with the remains of the one before: FAILED, signal 15.
    "node_dead": {"lost", "node_failure"},
    "controller": {"lost", "preempted"},
    "disk_full": {"storage", "lost"},
}
"""The same for a job that ended before its worker began."""
TOGETHER: dict[str, set[str]] = {
    # Another fault ended the job after its worker had died: the worker was silent before.
    "node_dead": {"lost"},
    "slurmd_outage": {"lost", "node_failure", "preempted"},
    "slurmd_restart": {"lost", "node_failure", "preempted"},
    "controller": {"lost", "preempted"},
    "disk_full": {"storage", "lost"},
}
"""Reasons that a fault adds if others hit the same attempt: SLURM cannot answer, or the disk is
full."""
WITHOUT_ACCOUNTING: dict[str, set[str]] = {
    "node_dead": {"node_failure", "lost"},
    "slurmd_outage": {"node_failure", "lost", "preempted"},
    "scancel": {"cancelled", "lost"},
}


@dataclass
class Verdict:
    """The counts of a campaign and its failed checks."""

    attempts: int = 0
    strict: int = 0
    """Attempts with one fault, which must have one of its reasons."""
    several: int = 0
    """Attempts with several faults, which must have a reason of one of them."""
    finished: int = 0
    """Attempts that wrote the record."""
    requeues: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Every attempt with its faults."""


def judge_runs(harness: Harness, monitor: Monitor) -> Verdict:
    """Check every run and every attempt."""
    verdict = Verdict()
    status = parse_json(harness.protoseg("status", harness.whole, "--json").stdout) or {"runs": []}
    runs = {run["run_id"]: run for run in status["runs"]}
    if len(runs) != harness.runs_wanted:
        verdict.wrong.append(f"status names {len(runs)} runs, not {harness.runs_wanted}")
    for run_id, row in runs.items():
        folder = RunFolder(harness.runs / run_id)
        if row["state"] != "done":
            verdict.wrong.append(f"{run_id}: is {row['state']}: {row.get('message')}")
        else:
            _check_record(folder, monitor, verdict)
        _check_attempts(harness, folder, monitor, verdict)
    return verdict


def _check_record(folder: RunFolder, monitor: Monitor, verdict: Verdict) -> None:
    try:
        record = read_record(folder.record)
        verify_confusion(record, folder.confusion)
    except (OSError, ProtosegError) as error:
        verdict.wrong.append(f"{folder.run_id}: {error}")
        return
    if record["run_id"] != folder.run_id or folder.run_id not in monitor.records:
        verdict.wrong.append(f"{folder.run_id}: the record belongs to another run")


def _check_attempts(
    harness: Harness, folder: RunFolder, monitor: Monitor, verdict: Verdict
) -> None:
    attempts = parse_json(harness.protoseg("logs", folder.run_id, "--list", "--json").stdout)
    if not isinstance(attempts, list):
        verdict.wrong.append(f"{folder.run_id}: logs --list --json printed no list")
        return
    spans = _spans(folder, monitor)
    recorded_at = {number: _recorded_at(folder, number, span[1]) for number, span in spans.items()}
    faults = [event for event in harness.events if event["kind"] in EXPECTED]
    written = monitor.records.get(folder.run_id, (float("inf"), ""))[0] - harness.began
    submitted = {job: at for _, _, job, at in harness.submissions()}
    before: dict[str, Any] | None = None
    for attempt in attempts:
        begin, end = (moment - harness.began for moment in spans[attempt["number"]])
        seen = monitor.seen.get(folder.run_id, {}).get(attempt["number"])
        pid = seen.pid if seen else 0
        name = f"{folder.run_id} attempt {attempt['number']}"
        known = submitted.get(attempt["job"].partition("_")[0], 0.0)
        since = max(known, before["end"] if before else 0.0)
        where = {
            "run": folder.run_id, "job": attempt["job"], "node": attempt["node"], "pid": pid,
            "begin": begin, "end": end, "since": since,
        }  # fmt: skip
        met = {event["kind"] for event in faults if _may_have_ended(event, where, harness.margin)}
        end_file = folder.attempts_folder / f"{attempt['number']:04d}" / "end.json"
        if met & SILENT_DEATHS and not end_file.exists():
            # Another fault may have hit the job before SLURM noticed the dead node.
            later = recorded_at[attempt["number"]] - harness.began
            met |= {
                e["kind"] for e in faults if _targets_job(e, where) and end < e["begin"] < later
            }
        causes = sorted(met)
        row = {**attempt, **where, "faults": causes}
        row.pop("log"), row.pop("batch")
        verdict.rows.append(row)
        if begin > written + 0.5:
            verdict.wrong.append(f"{name}: began after the record was written")
        if before and pid and before["pid"] and before["end"] > begin + 0.5:
            verdict.wrong.append(
                f"{name}: the attempt before still ran for {before['end'] - begin:.1f} s"
            )
        if before and attempt["iteration"] < before["iteration"]:
            verdict.wrong.append(f"{name}: began at {attempt['iteration']}, before the last start")
        before = {**where, "iteration": attempt["iteration"]}
        _check_reason(harness, attempt, where, causes, written, verdict)
    last = attempts[-1] if attempts else None
    if last is None or last["reason"] is not None:
        verdict.wrong.append(f"{folder.run_id}: its last attempt is {last and last['reason']}")


def _check_reason(
    harness: Harness,
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
            verdict.wrong.append(f"{name}: has no recorded end; faults: {met}")
        return
    allowed: set[str] = set()
    for fault in met:
        fault_reasons = UNBEGUN.get(fault, EXPECTED[fault]) if not where["pid"] else EXPECTED[fault]
        if not harness.testbed.shape.accounting:
            fault_reasons = WITHOUT_ACCOUNTING.get(fault, fault_reasons)
        allowed |= fault_reasons | (TOGETHER.get(fault, set()) if len(met) > 1 else set())
    if where["end"] - where["begin"] > LONG_RUN:
        allowed.add("timeout")
    if len(met) > 1:
        verdict.several += 1
    else:
        verdict.strict += 1
    if reason not in allowed:
        verdict.wrong.append(
            f"{name}: is '{reason}' ({attempt['message']}); faults: {met or 'none'}; allowed "
            f"reasons: {sorted(allowed) or 'none'}"
        )


def _spans(folder: RunFolder, monitor: Monitor) -> dict[int, tuple[float, float]]:
    """Return attempt -> (begin, end). A failed start has the time of its record."""
    spans = {}
    for attempt in folder.attempts():
        path = folder.attempts_folder / f"{attempt.number:04d}"
        begin = (path / "start.json").stat().st_mtime
        seen = monitor.seen.get(folder.run_id, {}).get(attempt.number)
        if attempt.end is not None:
            end = (path / "end.json").stat().st_mtime
        elif seen and seen.alive:
            end = seen.alive
        elif attempt.verdict is not None:
            end = (path / "verdict.json").stat().st_mtime
        else:
            end = begin
        spans[attempt.number] = begin, max(begin, end)
    return spans


def _recorded_at(folder: RunFolder, number: int, end: float) -> float:
    """Return the time at which the reason of an attempt was recorded."""
    try:
        verdict = folder.attempts_folder / f"{number:04d}" / "verdict.json"
        return max(end, verdict.stat().st_mtime)
    except OSError:
        return end


def _may_have_ended(event: dict[str, Any], where: dict[str, Any], margin: float) -> bool:
    """Return whether a fault may have ended an attempt: it was active at or shortly before its end.

    A failed start is recorded after it ended: any fault since the submission of its job, or since
    the attempt before, may have ended it.
    """
    fault, has_begun = event["kind"], where["pid"] > 0
    begin = where["begin"] - margin * IMPORTS if has_begun else where["since"]
    after = margin * AFTER
    end = where["end"] + after
    if fault == "kill_worker":
        return bool(event["pid"] == where["pid"])
    hits = _targets_job(event, where)
    if fault == "timeout":  # a job keeps its limit after a requeue
        return hits and event["begin"] <= end
    if fault not in ("cancel", "scancel", "requeue"):
        hits = hits or bool(event.get("everybody")) or event.get("node") == where["node"]
    last = event["end"] + margin * TAIL.get(fault, SAVING)
    return (
        hits and event["begin"] <= end and begin <= last and (not has_begun or end - after <= last)
    )


def _targets_job(event: dict[str, Any], where: dict[str, Any]) -> bool:
    """Return whether the job of an attempt is a target of a fault."""
    targets = event.get("targets", [])
    return any(t["run"] == where["run"] and t["job"] == where["job"] for t in targets)


def compare(harness: Harness, undisturbed: Path, verdict: Verdict) -> list[str]:
    """Return the runs that are bit-identical to their undisturbed training."""
    same = []
    for path in sorted(undisturbed.glob("*/record.json")):
        expected = read_record(path)
        try:
            disturbed = read_record(harness.runs / path.parent.name / "record.json")
        except (OSError, ProtosegError):
            continue  # already reported
        keys = ("metrics", "per_class", "parameters", "losses", "confusion", "spec_digest")
        differing = [key for key in keys if expected[key] != disturbed[key]]
        if expected["provenance"]["threads"] != disturbed["provenance"]["threads"]:
            differing.append("provenance.threads")
        if differing:
            names = ", ".join(differing)
            verdict.wrong.append(f"{path.parent.name}: differs from undisturbed training: {names}")
        else:
            same.append(f"{path.parent.name} ({disturbed['attempts']} attempts)")
    return same
