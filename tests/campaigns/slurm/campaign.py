"""Forty runs on a real SLURM cluster, and at random whatever goes wrong on one.

    python tests/campaigns/slurm/campaign.py [--runs 40] [--faults 60] [--seed 0] [--no-accounting]
                             [--folder DIR] [--report FILE.md]

Starts a testbed of its own (testbed.py; as root) or uses one that runs (``--testbed``), submits a
matrix of small real training runs, and while they train, kills, cancels, requeues, preempts, times
out, takes away nodes, controller and disk. A user comes back now and then and types ``sweep``. When
all runs have their records it looks whether that is right, down to the reason of each attempt, and
writes a report.

Exit status: 0 if everything is as it should be, 1 if not, 3 where there can be no campaign.
"""

from __future__ import annotations

import argparse
import random
import shutil
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
from campaigns.slurm.harness import RUNS_PER_NODE, Lab, as_json
from campaigns.slurm.monitor import Watch, leftovers, trained_alone
from campaigns.slurm.oracle import compare, judge
from campaigns.slurm.pace import write_faults_done
from campaigns.slurm.report import summary, write_report

NOT_HERE = 3
NOTHING_SECONDS = 2 * DEADLINE_SECONDS
"""For this long there may be nothing to do a fault to."""


class Campaign:
    """One campaign, from the first sweep to the last record."""

    def __init__(self, lab: Lab, faults: int, limit: float, pause: float) -> None:
        self.lab = lab
        self.limit = limit
        self.pause = pause
        self.faults = faults
        self._plan = plan_of(lab.random, faults)
        self._draw = random.Random(lab.random.random())
        self.done = 0
        self.over = threading.Event()

    def run(self) -> None:
        """Until every run has its record, or the time is up."""
        self.sweep()
        user = threading.Thread(target=self._user, daemon=True)
        user.start()
        try:
            # Those that last go on beside the others, one at a time.
            slow = [kind for kind in self._plan if kind in LONG]
            quick = [kind for kind in self._plan if kind in QUICK]
            beside = threading.Thread(target=self._inject, args=(slow, list(LONG)), daemon=True)
            beside.start()
            self._inject(quick, list(QUICK))
            beside.join()
            write_faults_done(self.lab.pace, 1)
            while not self._finished() and not self._late():
                time.sleep(1)
            while self.lab.queue() and not self._late():
                time.sleep(1)
        finally:
            write_faults_done(self.lab.pace, 1)
            self.over.set()
            user.join()
        if self._late():
            self.lab.problem(f"not done within {self.limit:.0f} s")

    def sweep(self, *more: str) -> None:
        """What a user types who comes back."""
        done = self.lab.protoseg(
            *self.lab.sweep_words(self.lab.matrix(self.lab.stage), *more, "--json")
        )
        answer = as_json(done.stdout) or {}
        runs = {job: len(ids) for job, ids in answer.get("jobs", {}).items()}
        self.lab.event("sweep", part=self.lab.stage, submitted=runs, words=list(more))
        print(
            f"{self._clock()} sweep of part {self.lab.stage}: {runs or 'nothing to submit'}",
            flush=True,
        )

    def _user(self) -> None:
        """Comes back now and then; the matrix grows; at the end failed runs are tried again."""
        pause = random.Random(self.lab.random.random())
        while not self.over.wait(pause.uniform(6, 16)):
            grown = 1 + int(self.done / max(1, self.faults) * self.lab.parts)
            if self.lab.progress() > (self.lab.stage - 0.2) / self.lab.parts:
                grown = self.lab.stage + 1
            self.lab.stage = min(self.lab.parts, max(self.lab.stage, grown))
            self.sweep(*(["--retry-failed"] if pause.random() < 0.2 else []))

    def _inject(self, waiting: list[str], again: list[str]) -> None:
        """Do the waiting faults one after the other, neither all at once nor all at the end.

        Args:
            waiting: kinds, in this order.
            again: kinds that may stand in for one that there is nothing for any more.
        """
        total, done, last = len(waiting), 0, time.monotonic()
        while waiting and not self._late():
            if self._finished():
                self.lab.too_late += waiting
                return
            if time.monotonic() - last > NOTHING_SECONDS:
                self.lab.problem(f"faults without anything to do them to: {Counter(waiting)}")
                return
            if done / total > self.lab.progress() + 0.15 and self.lab.queue():
                time.sleep(0.5)
                last = time.monotonic()
                continue
            kind = waiting.pop(0)
            if self._do(kind):
                done, last = done + 1, time.monotonic()
            else:
                kind = kind if self._draw.random() < 0.8 else self._draw.choice(again)
                waiting.insert(min(self._draw.randint(1, 4), len(waiting)), kind)
                time.sleep(1)
            behind = done / total < self.lab.progress()
            time.sleep(self._draw.uniform(0.2, self.pause) * (0.3 if behind else 1))

    def _finished(self) -> bool:
        return self.lab.records() >= self.lab.runs_wanted

    def _do(self, kind: str) -> bool:
        try:
            entry = ALL[kind](self.lab)
        except (TestbedError, OSError) as error:
            self.lab.problem(f"{kind}: {error}")
            return False
        if entry is None:
            return False
        self.lab.event(kind, **entry)
        self.done += 1
        write_faults_done(self.lab.pace, self.done / self.faults)
        whom = ", ".join(t["run"] for t in entry.get("targets", [])) or entry.get("node", "")
        print(f"{self._clock()} {kind}: {whom}", flush=True)
        return True

    def _clock(self) -> str:
        return (
            f"{time.time() - self.lab.began:6.0f} s  {self.lab.records():3}/{self.lab.runs_wanted}"
            f" done, {self.done:3} faults "
        )

    def _late(self) -> bool:
        return time.time() - self.lab.began > self.limit


def plan_of(draw: random.Random, faults: int) -> list[str]:
    """Kinds of faults in a random order, each as often as the others, give or take one."""
    kinds = list(ALL)
    draw.shuffle(kinds)
    plan = [kinds[number % len(kinds)] for number in range(faults)]
    draw.shuffle(plan)
    return plan


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="campaign.py", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--kinds", default="", help="these alone, with commas between")
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
        "--margin", type=float, default=1.0, help="factor of the judge's times, for a busy machine"
    )
    parser.add_argument("--testbed", type=Path, help="folder of a testbed that runs; it is emptied")
    parser.add_argument("--no-accounting", action="store_true")
    parser.add_argument("--keep", action="store_true", help="leave the folder for a look")
    parser.add_argument("--folder", type=Path, help="its own; must not exist")
    parser.add_argument("--report", type=Path, help="Markdown; the events go beside it as JSON")
    options = parser.parse_args(arguments)
    for kind in options.kinds.split(",") if options.kinds else []:
        if kind not in ALL:
            parser.error(f"--kinds: '{kind}'; allowed: {', '.join(ALL)}")
    for kind in set(ALL) - set(options.kinds.split(",")) if options.kinds else ():
        ALL.pop(kind), QUICK.pop(kind, None), LONG.pop(kind, None)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="campaign-"))
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"--folder: {folder} is not empty")
    shape = Shape(nodes=2, cpus=RUNS_PER_NODE, gpus=0, node_timeout=round(15 * options.margin),
                  accounting=not options.no_accounting)  # fmt: skip
    testbed = Testbed(
        options.testbed or folder.absolute() / "slurm", None if options.testbed else shape
    )
    lab = Lab(folder.absolute(), testbed, options.runs, options.iterations,
              random.Random(options.seed), paced=options.paced, margin=options.margin)  # fmt: skip
    lab.parts = max(2, options.runs // 4)
    watch = Watch(lab)
    try:
        lab.prepare()
        if options.testbed:
            testbed.restore()
        else:
            testbed.up()
        lab.slurm = testbed.ask("sinfo", "--version").rpartition(" ")[2]
        lab.began = time.time()
        watch.start()
        campaign = Campaign(lab, options.faults, options.limit, options.pause)
        campaign.run()
        took = time.time() - lab.began
        watch.stop()
        verdict = judge(lab, watch)
        tried = Counter(row["run"] for row in verdict.rows)
        seeds = sorted(
            lab.seeds, key=lambda seed: -sum(n for run, n in tried.items() if f"-s{seed}-" in run)
        )
        chosen = sorted(seeds[: options.undisturbed])
        alone = trained_alone(lab, chosen, lab.folder) if chosen else lab.folder / "none"
        same = compare(lab, alone, verdict)
        if len(same) != 2 * options.undisturbed:
            verdict.wrong.append(f"{len(same)} runs are as undisturbed")
    except TestbedError as error:
        print(error, file=sys.stderr)
        return NOT_HERE
    finally:
        if options.keep:
            shutil.copytree(lab.disk, lab.folder / "kept", dirs_exist_ok=True)
        if options.testbed:
            testbed.restore()
        else:
            testbed.down(keep=options.keep)
        lab.close()
    left = leftovers(lab.folder)
    verdict.wrong += [f"left behind: {words}" for words in left]
    if not options.keep:
        shutil.rmtree(lab.folder)
    print(summary(lab, watch, verdict, took, same))
    if options.report:
        write_report(options.report, options, lab, watch, verdict, took, same)
    return 1 if verdict.wrong or lab.problems else 0


if __name__ == "__main__":
    sys.exit(main())
