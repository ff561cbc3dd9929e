"""A tiny job that checks whether a node sees the run folders, and how far its clock is off."""

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
from protoseg.slurm.command import run_command

WAIT_SECONDS = 120.0
"""How long the job may wait and run."""
FILE_DELAY_SECONDS = 30.0
"""How long a file from a node may take to appear here; network file systems cache its absence."""
ASK_SECONDS = 3.0
"""Time between two queries to SLURM."""
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
class ProbeResult:
    """The result of the job."""

    job: str
    node: str = ""
    """The node that saw the folder; empty without an answer."""
    lacks: tuple[str, ...] = ()
    """Which of srun, scontrol, and protoseg in this Python the node does not have."""
    clock_ahead_seconds: float = 0.0
    """Least offset of the node's clock from this machine's; 0 if they may agree."""
    problem: str = ""
    """Why there is no answer, in one sentence."""
    started: bool = True
    """False if the job did not start in time: then nothing is known."""


def run_probe_job(folder: Path, partition: str = "", seconds: float = WAIT_SECONDS) -> ProbeResult:
    """Submit a job that copies a random token inside ``folder``, wait for it, and clean up.

    Args:
        folder: the run folders; created if missing.
        partition: partition of the job; empty for SLURM's default.
        seconds: how long the job may wait and run.

    Raises:
        ProtosegError: an invalid partition name, a folder that cannot be written, or SLURM refuses.
    """
    if partition and not PARTITION.fullmatch(partition):
        raise ProtosegError(
            f"'{partition}' is not a partition name. Run protoseg doctor for names."
        )
    nonce = secrets.token_hex(8)
    probe_folder = files.make_folder(folder.absolute()) / f".probe-{nonce}"
    job = ""
    has_ended = False
    try:
        files.make_folder(probe_folder)
        files.write_bytes(probe_folder / "question", f"{nonce}\n".encode())
        before = time.time()
        job = _submit_job(probe_folder, partition)
        result = _wait_for_answer(job, probe_folder, nonce, before, seconds)
        has_ended = bool(result.node)
        return result
    finally:
        if job and not has_ended:
            with contextlib.suppress(ProtosegError):
                SlurmClient().cancel([job])
        shutil.rmtree(probe_folder, ignore_errors=True)


def _submit_job(probe_folder: Path, partition: str) -> str:
    chosen = [f"--partition={partition}"] if partition else []
    reply = run_command(
        ["sbatch", "--parsable", "--job-name=protoseg-probe", "--time=2", "--ntasks=1",
         "--no-requeue", "--chdir=/", "--output=/dev/null", *chosen],
        stdin=SCRIPT.format(
            folder=shlex.quote(os.fspath(probe_folder)), python=shlex.quote(sys.executable)
        ),
    )  # fmt: skip
    ids = re.findall(r"^([0-9]+)(?:;\S+)?$", reply.out, re.MULTILINE)
    if not reply.is_ok or not ids:
        raise ProtosegError(f"the probe job was not submitted: {reply.problem or 'no job id'}.")
    return str(ids[-1])


def _wait_for_answer(
    job_id: str, probe_folder: Path, nonce: str, before: float, seconds: float
) -> ProbeResult:
    client = SlurmClient()
    until = time.monotonic() + seconds
    queried_at = time.monotonic()
    ended_at = None  # when SLURM first showed the job as ended
    state = "not queried"
    while True:
        values = _read_answer(probe_folder)
        if len(values) == 4 and values[0] == nonce and values[1].isdecimal():
            node_time, now = float(values[1]), time.time()
            # The node wrote its time, in whole seconds, between `before` and `now`.
            ahead = max(0.0, node_time - now) + min(0.0, node_time + 1 - before)
            lacks = tuple(name for name in values[3].split(",") if name not in ("", "none"))
            return ProbeResult(job_id, values[2], lacks, round(ahead, 1))
        clock = time.monotonic()
        if ended_at is not None and clock > ended_at + FILE_DELAY_SECONDS:
            problem = f"the job ended ({state}), but its answer does not appear on this machine"
            return ProbeResult(job_id, problem=problem)
        if ended_at is None and clock > until:
            problem = f"the job did not end in {seconds:g} s ({state})"
            return ProbeResult(job_id, problem=problem, started=False)
        if ended_at is None and clock > queried_at + ASK_SECONDS:
            queried_at = clock
            report = client.query_jobs([job_id], fresh=True)
            job = report.jobs.get(job_id)
            state = f"{job.state} {job.why}".strip() if job else report.problem or "unknown"
            if job and job.has_ended:
                ended_at = clock
                state += f" on {job.node}" if job.node else ""
        time.sleep(0.2)


def _read_answer(probe_folder: Path) -> list[str]:
    try:
        os.listdir(probe_folder)  # lets network file systems look again
        return (probe_folder / "answer").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return []
