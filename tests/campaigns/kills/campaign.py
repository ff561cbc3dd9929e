"""Real training runs killed at random moments, and compared bit for bit with undisturbed ones.

    python tests/campaigns/kills/campaign.py [--runs 22] [--kills 120] [--seed 0] [--jobs 2]
                                       [--fresh] [--report FILE.md]

Every run (workers.py) is trained once in peace, by one loader-free worker that saves nothing but
its end. Then it is trained again under fire (faults.py): its worker processes get SIGKILL,
SIGTERM, SIGINT, SIGUSR2 or SIGHUP as they start, train, write checkpoints, evaluate, or write the
record; between two attempts the newest checkpoint may be damaged; every attempt has another number
of loader processes. At the end everything that training leaves behind must be equal, to the bit.

Exit status: 0 if everything is, 1 if not.
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
from campaigns.kills.faults import Fire, plan
from campaigns.kills.report import Run, hits, summary, write_report
from campaigns.kills.workers import VARIANTS, Attempt, ForkedAttempt, composed, make, processes
from protoseg.datasets.layout import find_root

LEAVE_SECONDS = 15.0
"""How long an orphaned loader process may take to see that its worker is gone."""


def train(
    run: Run,
    number: int,
    kills: int,
    seed: int,
    place: Path,
    kind: type[Attempt] = Attempt,
    first_kind: type[Attempt] = Attempt,
) -> Run:
    """Train one run in peace and under fire, and compare.

    Args:
        number: of the run; with the seed it decides all that is drawn.
        place: a folder with the data sets in ``data``.
        kind: how workers are started.
        first_kind: how those that train undisturbed, or are killed as they start.
    """
    draw = random.Random(f"{seed} {number}")
    spec = composed(run.variant, run.seed)
    peace = make(place / "peace", spec, place / "data")
    run.run_id = peace.run_id
    alone = first_kind(peace, run.variant.processes, step=0)
    alone.start()
    statuses = alone.wait()
    if any(statuses) or not peace.record.exists():
        run.wrong.append(f"undisturbed it ended with {statuses}: {alone.log()[-400:]}")
        return run
    folder = make(place / "fire", spec, place / "data")
    strikes = plan(draw, kills)
    size = run.variant.processes
    run.fire = Fire(folder, size, place / "data", strikes, draw, kind, first_kind)
    try:
        run.fire.run()
    except (TimeoutError, subprocess.TimeoutExpired) as error:
        run.fire.wrong.append(f"a worker hangs: {error}")
    run.wrong += run.fire.wrong
    if folder.record.exists():
        run.same = compare(peace, folder)
        run.wrong += [f"differs from the undisturbed run: {what}" for what in run.same.names]
    return run


def leftovers(groups: set[int]) -> list[int]:
    """Processes of the campaign that are still there some time after its end."""
    end = time.monotonic() + LEAVE_SECONDS
    while True:
        left = [pid for pid, _, group in processes() if group in groups]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.5)


def shares(kills: int, runs: int, draw: random.Random) -> list[int]:
    """How many kills each run is to get: as many as the others, or a few more or less."""
    found = [kills // runs] * runs
    for number in draw.sample(range(runs), kills % runs):
        found[number] += 1
    for _ in range(runs):
        one, other = draw.randrange(runs), draw.randrange(runs)
        if found[one] > 1:
            found[one], found[other] = found[one] - 1, found[other] + 1
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="campaign.py", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=22)
    parser.add_argument("--kills", type=int, default=120, help="planned; some come too late")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, each on one thread")
    parser.add_argument(
        "--fresh", action="store_true", help="import torch anew in every attempt: five times slower"
    )
    parser.add_argument("--keep", action="store_true", help="leave the folders for a look")
    parser.add_argument("--report", type=Path, help="Markdown; every kill goes beside it as JSON")
    options = parser.parse_args(arguments)
    if options.runs < 1 or options.kills < options.runs:
        parser.error("--kills: at least one a run")
    place = Path(tempfile.mkdtemp(prefix="kills-"))
    (place / "data").mkdir()
    find_root(composed(VARIANTS[0], 0).dataset, place / "data")
    runs = [Run(VARIANTS[n % len(VARIANTS)], seed=n) for n in range(options.runs)]
    kills = shares(options.kills, options.runs, random.Random(options.seed))
    begun = time.monotonic()
    kind = Attempt if options.fresh else ForkedAttempt
    # Processes, not threads: they fork.
    with concurrent.futures.ProcessPoolExecutor(options.jobs) as pool:
        waiting = [
            pool.submit(train, run, number, kills[number], options.seed, place, kind)
            for number, run in enumerate(runs)
        ]
        for done in concurrent.futures.as_completed(waiting):
            run = done.result()
            runs[run.seed] = run
            hit = len(hits([run]))
            verdict = "; ".join(run.wrong) or "the same bits"
            seconds = time.monotonic() - begun
            print(f"{seconds:6.0f} s  {run.run_id}: {hit} kills, {verdict}", flush=True)
    seconds = time.monotonic() - begun
    left = leftovers({group for run in runs if run.fire for group in run.fire.groups})
    wrong = [f"{run.run_id}: {text}" for run in runs for text in run.wrong]
    wrong += [f"{len(left)} processes were left behind"] * bool(left)
    text = summary(runs, seconds, wrong)
    print(text)
    if options.report:
        write_report(options.report, options, runs, text, seconds, wrong)
    if options.keep:
        print(place)
    else:
        shutil.rmtree(place)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
