"""A kill campaign: training runs killed at random moments, compared with undisturbed ones.

    python tests/campaigns/kills/campaign.py [--runs 22] [--kills 120] [--seed 0] [--jobs 2]
                                       [--fresh] [--report FILE.md]

Every run (workers.py) is trained once undisturbed, by a worker without loader processes that saves
only at its end. Then it is trained with kills (faults.py): its processes get SIGKILL, SIGTERM,
SIGINT, SIGUSR2 or SIGHUP during start, training, checkpoints, evaluation or the record. Between two
attempts the newest checkpoint may be damaged, and the number of loader processes changes. At the
end all results of both trainings must be bit-identical.

Exit status: 0 if they are, 1 if not.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from campaigns.kills.compare import compare
from campaigns.kills.faults import FaultRun, draw_strikes
from campaigns.kills.report import Run, format_summary, hits, write_report
from campaigns.kills.workers import (
    VARIANTS,
    Attempt,
    ForkedAttempt,
    composed,
    make_run_folder,
    processes,
)
from protoseg.datasets.layout import find_root

LEAVE_SECONDS = 15.0
"""Longest time in which a loader process ends after its worker."""


def train(
    run: Run,
    number: int,
    kills: int,
    seed: int,
    workspace: Path,
    attempt_type: type[Attempt] = Attempt,
    first_type: type[Attempt] = Attempt,
) -> Run:
    """Train one run undisturbed and with kills, and compare both.

    Args:
        run: the run; its result is added.
        number: number of the run; with the seed it determines all random choices.
        kills: number of planned kills.
        seed: seed of the campaign.
        workspace: folder with the data sets in ``data``.
        attempt_type: class that starts the workers.
        first_type: class for undisturbed workers and those that are killed during their start.
    """
    draw = random.Random(f"{seed} {number}")
    spec = composed(run.variant, run.seed)
    undisturbed = make_run_folder(workspace / "peace", spec, workspace / "data")
    run.run_id = undisturbed.run_id
    attempt = first_type(undisturbed, run.variant.processes, step=0)
    attempt.start()
    statuses = attempt.wait()
    if any(statuses) or not undisturbed.record.exists():
        log = attempt.log()[-400:]
        run.wrong.append(f"the undisturbed training ended with {statuses}: {log}")
        return run
    folder = make_run_folder(workspace / "fire", spec, workspace / "data")
    strikes = draw_strikes(draw, kills)
    size = run.variant.processes
    run.fire = FaultRun(folder, size, workspace / "data", strikes, draw, attempt_type, first_type)
    try:
        run.fire.run()
    except (TimeoutError, subprocess.TimeoutExpired) as error:
        run.fire.wrong.append(f"a worker does not end: {error}")
    run.wrong += run.fire.wrong
    if folder.record.exists():
        run.same = compare(undisturbed, folder)
        run.wrong += [f"differs from the undisturbed run: {what}" for what in run.same.names]
    return run


def leftovers(groups: set[int]) -> list[int]:
    """Return the processes of the campaign that still run some time after its end."""
    end = time.monotonic() + LEAVE_SECONDS
    while True:
        left = [pid for pid, _, group in processes() if group in groups]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.5)


def draw_shares(kills: int, runs: int, draw: random.Random) -> list[int]:
    """Draw the number of kills of each run; the numbers are similar."""
    counts = [kills // runs] * runs
    for number in draw.sample(range(runs), kills % runs):
        counts[number] += 1
    for _ in range(runs):
        one, other = draw.randrange(runs), draw.randrange(runs)
        if counts[one] > 1:
            counts[one], counts[other] = counts[one] - 1, counts[other] + 1
    return counts


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign, and return the exit status."""
    parser = argparse.ArgumentParser(prog="campaign.py", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=22)
    parser.add_argument("--kills", type=int, default=120, help="planned kills; some are too late")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, each on one thread")
    parser.add_argument(
        "--fresh", action="store_true", help="import torch in every attempt: five times slower"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folders")
    parser.add_argument("--report", type=Path, help="Markdown file; a JSON file gets every kill")
    options = parser.parse_args(arguments)
    if options.runs < 1 or options.kills < options.runs:
        parser.error("--kills: too few. Allowed: at least one kill per run.")
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    (folder / "data").mkdir()
    find_root(composed(VARIANTS[0], 0).dataset, folder / "data")
    runs = [Run(VARIANTS[n % len(VARIANTS)], seed=n) for n in range(options.runs)]
    kills = draw_shares(options.kills, options.runs, random.Random(options.seed))
    start = time.monotonic()
    attempt_class = Attempt if options.fresh else ForkedAttempt
    # Processes and not threads, because they fork.
    with concurrent.futures.ProcessPoolExecutor(options.jobs) as pool:
        futures = [
            pool.submit(train, run, number, kills[number], options.seed, folder, attempt_class)
            for number, run in enumerate(runs)
        ]
        for future in concurrent.futures.as_completed(futures):
            run = future.result()
            runs[run.seed] = run
            hit = len(hits([run]))
            verdict = "; ".join(run.wrong) or "bit-identical"
            seconds = time.monotonic() - start
            print(f"{seconds:6.0f} s  {run.run_id}: {hit} kills, {verdict}", flush=True)
    seconds = time.monotonic() - start
    left = leftovers({group for run in runs if run.fire for group in run.fire.groups})
    wrong = [f"{run.run_id}: {text}" for run in runs for text in run.wrong]
    wrong += [f"{len(left)} processes still run"] * bool(left)
    text = format_summary(runs, seconds, wrong)
    print(text)
    if options.report:
        write_report(options.report, options, runs, text, seconds, wrong)
    if options.keep:
        print(folder)
    else:
        shutil.rmtree(folder)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
