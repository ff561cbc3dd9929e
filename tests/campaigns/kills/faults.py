"""A run with kills (see campaign.py): killed in chosen phases, with damaged checkpoints, restarted.

A strike is a kill in a phase. The run folder and the log show the phase from outside; the worker
has no part in it. The files after the kill show which phase was really hit.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaigns.kills.workers import ITERATIONS, Attempt, launch_settings
from protoseg import files
from protoseg.runs.folder import RunFolder
from protoseg.runs.states import Reason

PHASES = ("start", "training", "checkpoint", "evaluation", "record")
WEIGHTS = {"start": 2, "training": 6, "checkpoint": 5, "evaluation": 3, "record": 2}
SIGNALS = {"SIGKILL": 8, "SIGTERM": 3, "SIGINT": 2, "SIGUSR2": 2, "SIGHUP": 1}
DAMAGES = ("byte flipped", "cut short", "emptied", "note removed", "note torn", "note flipped")
DAMAGE_SHARE = 0.4
EVALUATION_SECONDS = 0.25
"""Approximate time of an evaluation, in which strikes are drawn."""
LOOK_SECONDS = 0.0005
TRACES = (
    "confusion.npz",
    ".confusion*.tmp",
    ".record*.tmp",
    "checkpoints/.iter_*.tmp",
    "checkpoints/iter_*.pth",
)
TEMPORARY = {Reason.CANCELLED, Reason.LOST, Reason.PREEMPTED, Reason.TIMEOUT}
"""Allowed reasons of a killed attempt: with any other reason, a sweep would not resume the run."""


@dataclass
class Strike:
    """One planned kill and its result."""

    phase: str
    iteration: int
    """First iteration for a kill during training."""
    signal: str
    whom: str
    """``worker`` (any of them), ``group`` (all processes), or ``loader`` (a loader process)."""
    damage: str = ""
    """Damage to the newest checkpoint after the kill."""
    workers: int = 0
    checkpoint_seconds: float = 0.0
    hit: str = ""
    """The phase that was hit; empty if the run ended before."""
    reached: int = 0
    """Iteration of the newest checkpoint after the kill, before the damage."""
    reason: str = ""
    statuses: list[int] = field(default_factory=list)


def draw_strikes(draw: random.Random, kills: int) -> list[Strike]:
    """Draw strikes in a possible order: training first, then evaluation, then the record."""
    names, weights = list(WEIGHTS), list(WEIGHTS.values())
    order = {"start": 0, "training": 1, "checkpoint": 1, "evaluation": 2, "record": 3}
    phases = sorted(draw.choices(names, weights, k=kills), key=lambda phase: order[phase])
    trained = sum(order[phase] == 1 for phase in phases)
    iterations = iter(sorted(draw.sample(range(1, ITERATIONS - 1), trained)))
    strikes = []
    for phase in phases:
        workers = draw.choice((0, 1, 2))
        target = draw.choices(("worker", "group", "loader"), (5, 3, 1))[0]
        name = draw.choices(list(SIGNALS), list(SIGNALS.values()))[0]
        if target == "loader":
            name, workers = "SIGKILL", max(1, workers)
        iteration = next(iterations) if order[phase] == 1 else 0
        strike = Strike(phase, iteration, name, target, workers=workers)
        strike.checkpoint_seconds = draw.choice((0.0, 0.0, 0.05, 0.4))
        if phase == "checkpoint":
            strike.checkpoint_seconds = 0.0
        if draw.random() < DAMAGE_SHARE:
            strike.damage = draw.choice(DAMAGES)
        strikes.append(strike)
    # A kill during the start is possible at any progress.
    early = [s for s in strikes if s.phase == "start"]
    later = [s for s in strikes if s.phase != "start"]
    for strike in early:
        later.insert(draw.randint(0, len(later)), strike)
    return later


@dataclass
class FaultRun:
    """One run that is trained to its record, with all its strikes.

    Args:
        folder: folder of the run.
        size: number of processes of the run.
        data: folder with the data sets.
        strikes: the planned kills.
        draw: source of random choices.
    """

    folder: RunFolder
    size: int
    data: Path
    strikes: list[Strike]
    draw: random.Random
    kind: type[Attempt] = Attempt
    first_kind: type[Attempt] = Attempt
    """Class for workers that are killed during their start."""
    wrong: list[str] = field(default_factory=list)
    damages: Counter[str] = field(default_factory=Counter)
    groups: list[int] = field(default_factory=list)
    attempts: int = 0
    _damaged: str = ""
    """Name of a damaged checkpoint, until an attempt reports it."""

    def run(self) -> None:
        """Apply all strikes, then train undisturbed to the end."""
        for strike in self.strikes:
            if self.folder.record.exists():
                return
            self._apply_strike(strike)
        if self.folder.record.exists():
            return
        attempt = self._start_attempt(self.draw.choice((0, 1, 2)), 0.4, self.kind)
        statuses = attempt.wait()
        self._check_damage_noticed(attempt)
        if any(statuses) or not self.folder.record.exists():
            tail = attempt.log()[-400:] or attempt.beside.read_text()[-400:]
            self.wrong.append(f"the last attempt ended with {statuses} and no record: {tail}")

    def _start_attempt(
        self, workers: int, checkpoint_seconds: float, attempt_class: type[Attempt]
    ) -> Attempt:
        files.write_json(
            self.folder.launch, launch_settings(self.data, workers, checkpoint_seconds)
        )
        self.attempts += 1
        attempt = attempt_class(self.folder, self.size, step=self.attempts)
        attempt.start()
        self.groups.append(attempt.group)
        return attempt

    def _apply_strike(self, strike: Strike) -> None:
        before, known = self._list_unfinished_files(), len(self.folder.attempts())
        attempt_class = self.first_kind if strike.phase == "start" else self.kind
        attempt = self._start_attempt(strike.workers, strike.checkpoint_seconds, attempt_class)
        try:
            waited = self._wait_for(strike, attempt, before)
            phase_before = self._find_phase(attempt, before)
            if waited:
                self._send_signal(strike, attempt)
            strike.statuses = attempt.wait()
        finally:
            attempt.kill()
        if not waited or self.folder.record.exists():
            return  # too late: the attempt had ended or wrote its record
        # After SIGKILL the files show the phase; after other signals the worker cleans up.
        strike.hit = (
            self._find_phase(attempt, before) if strike.signal == "SIGKILL" else phase_before
        )
        strike.reached = self.folder.checkpoint_iteration()
        attempts = self.folder.attempts()[known:]
        reason = attempts[-1].reason if attempts else None
        strike.reason = reason.value if reason else "no attempt yet"
        if attempts and reason not in TEMPORARY:
            self.wrong.append(
                f"{strike.signal} to the {strike.whom}: '{reason}', {attempts[-1].message}"
            )
        if strike.signal != "SIGKILL" and strike.hit != "start" and strike.statuses[0] != 75:
            self.wrong.append(f"{strike.signal} in {strike.hit}: exit {strike.statuses}")
        self._check_damage_noticed(attempt)
        if strike.damage:
            self._damage_checkpoint(strike)

    def _wait_for(self, strike: Strike, attempt: Attempt, before: set[tuple[str, int]]) -> bool:
        """Wait for the moment of a strike; return False if the attempt ends before."""
        if strike.phase == "start":
            return self._sleep(attempt, self.draw.uniform(0, attempt.start_seconds))
        if strike.phase in ("evaluation", "record"):
            while not attempt.trained():
                if attempt.over():
                    return False
                time.sleep(0.005)
            if strike.phase == "evaluation":
                return self._sleep(attempt, self.draw.uniform(0, EVALUATION_SECONDS))
            while not any(
                is_record_file(name) for name, _ in self._list_unfinished_files() - before
            ):
                if attempt.over():
                    return False
                time.sleep(LOOK_SECONDS)
            return self._sleep(attempt, self.draw.uniform(0, 0.004))
        while attempt.iteration() < strike.iteration or not attempt.iteration():
            if attempt.over():
                return False
            if attempt.trained():
                break
            time.sleep(0.005)
        if strike.phase == "training":
            return self._sleep(attempt, self.draw.uniform(0, 0.06))
        while not list(self.folder.checkpoints.glob(".iter_*.tmp")):
            if attempt.over():
                return False
            if attempt.trained():
                break
            time.sleep(LOOK_SECONDS)
        return self._sleep(attempt, self.draw.uniform(0, 0.008))

    def _sleep(self, attempt: Attempt, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not attempt.over():
            time.sleep(min(0.02, max(0.0, end - time.monotonic())))
        return not attempt.over()

    def _send_signal(self, strike: Strike, attempt: Attempt) -> None:
        number = signal.Signals[strike.signal]
        loaders = attempt.loaders() if strike.whom == "loader" else []
        with contextlib.suppress(ProcessLookupError):
            if strike.whom == "group":
                os.killpg(attempt.group, number)
            elif loaders:
                os.kill(self.draw.choice(loaders), number)
            else:
                strike.whom = "worker"
                os.kill(self.draw.choice(attempt.workers).pid, number)

    def _list_unfinished_files(self) -> set[tuple[str, int]]:
        """Return (name, inode) of files that are being written: temporary, or without a digest."""
        unfinished = set()
        paths = [p for pattern in TRACES for p in self.folder.path.glob(pattern)]
        notes = {path.stem for path in self.folder.checkpoints.glob("iter_*.json")}
        for path in paths:
            if path.suffix != ".pth" or path.stem not in notes:
                with contextlib.suppress(OSError):
                    unfinished.add((path.name, path.stat().st_ino))
        return unfinished

    def _find_phase(self, attempt: Attempt, before: set[tuple[str, int]]) -> str:
        """Return the phase in which an attempt is, or was when it died."""
        new = self._list_unfinished_files() - before
        if any(is_record_file(name) for name, _ in new):
            return "record"
        if new:
            return "checkpoint"
        if attempt.trained():
            return "evaluation"
        return "training" if attempt.iteration() else "start"

    def _damage_checkpoint(self, strike: Strike) -> None:
        """Damage the newest complete checkpoint."""
        notes = sorted(self.folder.checkpoints.glob("iter_*.json"))
        if not notes or self._damaged:
            strike.damage = ""
            return
        note, path = notes[-1], notes[-1].with_suffix(".pth")
        content = bytearray(path.read_bytes())
        match strike.damage:
            case "byte flipped":
                content[self.draw.randrange(len(content))] ^= 1 << self.draw.randrange(8)
                path.write_bytes(content)
            case "cut short":
                path.write_bytes(content[: self.draw.randrange(len(content))])
            case "emptied":
                path.write_bytes(b"")
            case "note removed":
                note.unlink()
            case "note torn":
                note.write_bytes(note.read_bytes()[: self.draw.randrange(20)])
            case "note flipped":
                text = bytearray(note.read_bytes())
                at = self.draw.choice([n for n, byte in enumerate(text) if byte not in b" \n"])
                text[at] ^= 1 << self.draw.randrange(8)
                note.write_bytes(text)
        self._damaged = path.name
        self.damages[strike.damage] += 1

    def _check_damage_noticed(self, attempt: Attempt) -> None:
        """Check that the attempt reported and skipped a damaged checkpoint."""
        text = attempt.log()
        if not self._damaged:
            return
        lines = text.splitlines()
        is_reported = any(self._damaged in line and "skipped" in line for line in lines)
        if is_reported:
            self._damaged = ""
        elif "  iteration " in text or "resuming from" in text:
            self.wrong.append(f"{self._damaged} is damaged, but was not skipped: {text[-400:]}")
            self._damaged = ""


def is_record_file(name: str) -> bool:
    """Return whether a file belongs to the record phase (confusion counts and record)."""
    return "confusion" in name or "record" in name


def format_strike(strike: Strike) -> dict[str, Any]:
    """Return a strike as a row of the report."""
    return {key: value for key, value in vars(strike).items() if key != "iteration"}
