"""A fault campaign: real training runs on a real SLURM cluster, with random faults.

    python tests/campaigns/slurm/campaign.py [--runs 40] [--faults 60] [--seed 0] [--no-accounting]
                             [--folder DIR] [--report FILE.md]

Starts its own testbed (as root) or uses a running one (``--testbed``), and submits a matrix of
small training runs. While they train, it injects faults: kills, cancels, requeues, preemptions,
time limits, and failures of nodes, controller and disk. A simulated user calls ``sweep`` from time
to time. When all runs have records, it checks them and the reason of each attempt, and writes a
report.

Exit status: 0 if all checks pass, 1 if not, 3 if a campaign cannot run on this machine.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "slurm"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from testbed.conf import Shape
from testbed.testbed import Testbed, TestbedError
from testbed.waiting import DEADLINE_SECONDS

from campaigns.slurm.faults import ALL, LONG, QUICK
from campaigns.slurm.harness import RUNS_PER_NODE, Harness, parse_json
from campaigns.slurm.monitor import Monitor, find_leftovers, train_undisturbed
from campaigns.slurm.oracle import compare, judge_runs
from campaigns.slurm.pace import write_faults_done
from campaigns.slurm.report import format_summary, write_report

UNAVAILABLE = 3
NOTHING_SECONDS = 2 * DEADLINE_SECONDS
"""Longest time without a target for the next fault."""


class Campaign:
    """One campaign, from the first sweep to the last record."""

    def __init__(self, harness: Harness, faults: int, limit: float, pause: float) -> None:
        self.harness = harness
        self.limit = limit
        self.pause = pause
        self.faults = faults
        self._plan = draw_plan(harness.random, faults)
        self._draw = random.Random(harness.random.random())
        self.done = 0
        self.is_over = threading.Event()

    def run(self) -> None:
        """Inject all faults, and wait until every run has its record or the time limit."""
        self.sweep()
        user = threading.Thread(target=self._run_user, daemon=True)
        user.start()
        try:
            # Long faults are injected in parallel to the quick ones, one at a time.
            long_faults = [name for name in self._plan if name in LONG]
            quick_faults = [name for name in self._plan if name in QUICK]
            thread = threading.Thread(
                target=self._inject, args=(long_faults, list(LONG)), daemon=True
            )
            thread.start()
            self._inject(quick_faults, list(QUICK))
            thread.join()
            write_faults_done(self.harness.pace, 1)
            while not self._is_finished() and not self._is_too_late():
                time.sleep(1)
            while self.harness.queue() and not self._is_too_late():
                time.sleep(1)
        finally:
            write_faults_done(self.harness.pace, 1)
            self.is_over.set()
            user.join()
        if self._is_too_late():
            self.harness.add_problem(f"not finished within {self.limit:.0f} s")

    def sweep(self, *more: str) -> None:
        """Submit the current part of the matrix, as a user does."""
        done = self.harness.protoseg(
            *self.harness.sweep_arguments(self.harness.matrix(self.harness.stage), *more, "--json")
        )
        answer = parse_json(done.stdout) or {}
        runs = {job: len(ids) for job, ids in answer.get("jobs", {}).items()}
        stage = self.harness.stage
        self.harness.add_event("sweep", part=stage, submitted=runs, words=list(more))
        submitted = runs or "nothing to submit"
        print(f"{self._format_progress()} sweep of part {stage}: {submitted}", flush=True)

    def _run_user(self) -> None:
        """Call ``sweep`` from time to time with a growing matrix, and sometimes --retry-failed."""
        pause = random.Random(self.harness.random.random())
        while not self.is_over.wait(pause.uniform(6, 16)):
            grown = 1 + int(self.done / max(1, self.faults) * self.harness.parts)
            if self.harness.progress() > (self.harness.stage - 0.2) / self.harness.parts:
                grown = self.harness.stage + 1
            self.harness.stage = min(self.harness.parts, max(self.harness.stage, grown))
            self.harness.release_held_jobs()
            self.sweep(*(["--retry-failed"] if pause.random() < 0.2 else []))

    def _inject(self, waiting: list[str], substitutes: list[str]) -> None:
        """Inject faults one after the other, spread over the whole training.

        Args:
            waiting: names of the faults, in order.
            substitutes: faults that may replace one without a target.
        """
        total, done, last = len(waiting), 0, time.monotonic()
        while waiting and not self._is_too_late():
            if self._is_finished():
                self.harness.too_late += waiting
                return
            if time.monotonic() - last > NOTHING_SECONDS:
                self.harness.add_problem(f"faults without a target: {Counter(waiting)}")
                return
            if done / total > self.harness.progress() + 0.15 and self.harness.queue():
                time.sleep(0.5)
                last = time.monotonic()
                continue
            name = waiting.pop(0)
            if self._inject_one(name):
                done, last = done + 1, time.monotonic()
            else:
                name = name if self._draw.random() < 0.8 else self._draw.choice(substitutes)
                waiting.insert(min(self._draw.randint(1, 4), len(waiting)), name)
                time.sleep(1)
            behind = done / total < self.harness.progress()
            time.sleep(self._draw.uniform(0.2, self.pause) * (0.3 if behind else 1))

    def _is_finished(self) -> bool:
        return self.harness.records() >= self.harness.runs_wanted

    def _inject_one(self, name: str) -> bool:
        try:
            entry = ALL[name](self.harness)
        except (TestbedError, OSError) as error:
            self.harness.add_problem(f"{name}: {error}")
            return False
        if entry is None:
            return False
        self.harness.add_event(name, **entry)
        self.done += 1
        write_faults_done(self.harness.pace, self.done / self.faults)
        targets = ", ".join(t["run"] for t in entry.get("targets", [])) or entry.get("node", "")
        print(f"{self._format_progress()} {name}: {targets}", flush=True)
        return True

    def _format_progress(self) -> str:
        harness = self.harness
        return (
            f"{time.time() - harness.began:6.0f} s  {harness.records():3}/{harness.runs_wanted} "
            f"done, {self.done:3} faults "
        )

    def _is_too_late(self) -> bool:
        return time.time() - self.harness.began > self.limit


def draw_plan(draw: random.Random, faults: int) -> list[str]:
    """Return names of faults in random order, with equal frequencies (plus or minus one)."""
    names = list(ALL)
    draw.shuffle(names)
    plan = [names[number % len(names)] for number in range(faults)]
    draw.shuffle(plan)
    return plan


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="campaign.py", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--kinds", default="", help="only these faults, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=600, help="of each run")
    parser.add_argument(
        "--undisturbed", type=int, default=3, help="seeds trained again, without faults"
    )
    parser.add_argument("--pause", type=float, default=8.0, help="seconds between faults at most")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds in all")
    parser.add_argument(
        "--paced", action="store_true", help="runs wait for the faults: short ones meet all of them"
    )
    parser.add_argument(
        "--margin", type=float, default=1.0, help="factor of the oracle's times, for a busy machine"
    )
    parser.add_argument("--testbed", type=Path, help="folder of a running testbed; its jobs end")
    parser.add_argument("--no-accounting", action="store_true")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    parser.add_argument(
        "--folder", type=Path, help="folder of the campaign; must be empty or missing"
    )
    parser.add_argument("--report", type=Path, help="Markdown file; a JSON file gets all events")
    options = parser.parse_args(arguments)
    for name in options.kinds.split(",") if options.kinds else []:
        if name not in ALL:
            parser.error(f"--kinds: unknown fault '{name}'. Allowed: {', '.join(ALL)}.")
    for name in set(ALL) - set(options.kinds.split(",")) if options.kinds else ():
        ALL.pop(name), QUICK.pop(name, None), LONG.pop(name, None)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="campaign-"))
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"--folder: {folder} is not empty. Set an empty or missing folder.")
    shape = Shape(nodes=2, cpus=RUNS_PER_NODE, gpus=0, node_timeout=round(15 * options.margin),
                  accounting=not options.no_accounting)  # fmt: skip
    testbed = Testbed(
        options.testbed or folder.absolute() / "slurm", None if options.testbed else shape
    )
    harness = Harness(folder.absolute(), testbed, options.runs, options.iterations,
              random.Random(options.seed), paced=options.paced, margin=options.margin)  # fmt: skip
    harness.parts = max(2, options.runs // 4)
    monitor = Monitor(harness)
    try:
        harness.prepare()
        if options.testbed:
            testbed.restore()
        else:
            testbed.up()
        harness.slurm = testbed.query("sinfo", "--version").rpartition(" ")[2]
        harness.began = time.time()
        monitor.start()
        campaign = Campaign(harness, options.faults, options.limit, options.pause)
        campaign.run()
        took = time.time() - harness.began
        monitor.stop()
        verdict = judge_runs(harness, monitor)
        tried = Counter(row["run"] for row in verdict.rows)
        seeds = sorted(
            harness.seeds,
            key=lambda seed: -sum(n for run, n in tried.items() if f"-s{seed}-" in run),
        )
        chosen = sorted(seeds[: options.undisturbed])
        undisturbed = harness.folder / "none"
        if chosen:
            undisturbed = train_undisturbed(harness, chosen, harness.folder)
        same = compare(harness, undisturbed, verdict)
        if len(same) != 2 * options.undisturbed:
            verdict.wrong.append(f"only {len(same)} runs equal their undisturbed training")
    except TestbedError as error:
        print(error, file=sys.stderr)
        return UNAVAILABLE
    finally:
        if options.keep:
            shutil.copytree(harness.disk, harness.folder / "kept", dirs_exist_ok=True)
        if options.testbed:
            testbed.restore()
        else:
            testbed.down(keep=options.keep)
        harness.close()
    left = find_leftovers(harness.folder)
    verdict.wrong += [f"process still runs: {command}" for command in left]
    if not options.keep:
        shutil.rmtree(harness.folder)
    print(format_summary(harness, monitor, verdict, took, same))
    if options.report:
        write_report(options.report, options, harness, monitor, verdict, took, same)
    return 1 if verdict.wrong or harness.problems else 0


if __name__ == "__main__":
    # SIGTERM too ends the daemons of the testbed, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main())
