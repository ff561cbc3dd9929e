"""A tiny job that shows whether a node sees the run folders, and what its clock says."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from protoseg import files
from protoseg.errors import ProtosegError
from protoseg.slurm.client import SlurmClient
from protoseg.slurm.command import call

WAIT_SECONDS = 120.0
"""How long the job may wait and run; a full cluster says nothing about its file system."""
SETTLE_SECONDS = 30.0
"""How long a file from a node may take to be seen here: network disks remember what was not."""
ASK_SECONDS = 3.0
"""Between questions to the scheduler."""
PARTITION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

SCRIPT = """#!/bin/sh
clock=$(date +%s) lacks=
for program in srun scontrol; do
  command -v $program >/dev/null 2>&1 || lacks="$lacks,$program"
done
{python} -c 'import protoseg, torch' >/dev/null 2>&1 || lacks="$lacks,protoseg"
cd {folder} && read -r nonce < question &&
printf '%s %s %s %s\\n' "$nonce" "$clock" \\
  "${{SLURMD_NODENAME:-$(hostname)}}" "${{lacks:-none}}" > answer.tmp && mv answer.tmp answer
"""


@dataclass(frozen=True)
class Probe:
    """What the job found."""

    job: str
    node: str = ""
    """The node that saw the folder; empty where no answer came."""
    lacks: tuple[str, ...] = ()
    """What the node does not have, of srun, scontrol, and protoseg in this Python."""
    clock_ahead_seconds: float = 0.0
    """By how much the node's clock is ahead of this machine's at least; 0 where they may agree."""
    problem: str = ""
    """Why there is no answer, in one sentence."""
    started: bool = True
    """False: the job did not get its turn in time, so nothing is known."""


def probe(folder: Path, partition: str = "", seconds: float = WAIT_SECONDS) -> Probe:
    """Submit a job that copies a random word inside ``folder``, wait for it, and clean up.

    Args:
        folder: the run folders; made where it is missing.
        partition: where to run; SLURM's default partition without it.

    Raises:
        ProtosegError: no such partition name, the folder can not be written, or SLURM refuses.
    """
    if partition and not PARTITION.fullmatch(partition):
        raise ProtosegError(f"'{partition}' is no name of a partition; see protoseg doctor.")
    nonce = secrets.token_hex(8)
    place = files.make_folder(folder.absolute()) / f".probe-{nonce}"
    job = ""
    ended = False
    try:
        files.make_folder(place)
        files.write_bytes(place / "question", f"{nonce}\n".encode())
        before = time.time()
        job = _submit(place, partition)
        found = _wait(job, place, nonce, before, seconds)
        ended = bool(found.node)
        return found
    finally:
        if job and not ended:
            with contextlib.suppress(ProtosegError):
                SlurmClient().cancel([job])
        shutil.rmtree(place, ignore_errors=True)


def _submit(place: Path, partition: str) -> str:
    chosen = [f"--partition={partition}"] if partition else []
    reply = call(
        ["sbatch", "--parsable", "--job-name=protoseg-probe", "--time=2", "--ntasks=1",
         "--no-requeue", "--chdir=/", "--output=/dev/null", *chosen],
        stdin=SCRIPT.format(
            folder=shlex.quote(os.fspath(place)), python=shlex.quote(sys.executable)
        ),
    )  # fmt: skip
    ids = re.findall(r"^([0-9]+)(?:;\S+)?$", reply.out, re.MULTILINE)
    if not reply.fine or not ids:
        raise ProtosegError(f"the probe job was not submitted: {reply.problem or 'no job id'}.")
    return str(ids[-1])


def _wait(job: str, place: Path, nonce: str, before: float, seconds: float) -> Probe:
    scheduler = SlurmClient()
    until = time.monotonic() + seconds
    asked = time.monotonic()
    ended = None  # when the scheduler was first seen to be done with it
    why = "not asked"
    while True:
        words = _read(place)
        if len(words) == 4 and words[0] == nonce and words[1].isdecimal():
            there, now = float(words[1]), time.time()
            # The node wrote its time, in whole seconds, between `before` and `now`.
            ahead = max(0.0, there - now) + min(0.0, there + 1 - before)
            lacks = tuple(word for word in words[3].split(",") if word not in ("", "none"))
            return Probe(job, words[2], lacks, round(ahead, 1))
        clock = time.monotonic()
        if ended is not None and clock > ended + SETTLE_SECONDS:
            return Probe(job, problem=f"the job ended ({why}), but nothing of it is seen here")
        if ended is None and clock > until:
            problem = f"the job did not end in {seconds:g} s ({why})"
            return Probe(job, problem=problem, started=False)
        if ended is None and clock > asked + ASK_SECONDS:
            asked = clock
            answer = scheduler.ask([job], fresh=True)
            found = answer.jobs.get(job)
            why = f"{found.state} {found.why}".strip() if found else answer.problem or "unknown"
            if found and found.ended:
                ended = clock
                why += f" on {found.node}" if found.node else ""
        time.sleep(0.2)


def _read(place: Path) -> list[str]:
    try:
        os.listdir(place)  # makes network file systems look again
        return (place / "answer").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return []
