"""A run under fire (campaign.py): killed at chosen moments, its checkpoints spoilt, restarted.

A strike names a phase and is carried out there as the folder and the log show it from outside; the
process itself knows nothing. What phase was really hit is read from what the dead left behind.
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

from campaigns.kills.workers import ITERATIONS, Attempt, launch
from protoseg import files
from protoseg.runs.folder import RunFolder
from protoseg.runs.states import Reason

PHASES = ("start", "training", "checkpoint", "evaluation", "record")
WEIGHTS = {"start": 2, "training": 6, "checkpoint": 5, "evaluation": 3, "record": 2}
SIGNALS = {"SIGKILL": 8, "SIGTERM": 3, "SIGINT": 2, "SIGUSR2": 2, "SIGHUP": 1}
DAMAGES = ("byte flipped", "cut short", "emptied", "note removed", "note torn", "note flipped")
DAMAGE_SHARE = 0.4
EVALUATION_SECONDS = 0.25
"""How long an evaluation takes, about; strikes fall within."""
LOOK_SECONDS = 0.0005
TRACES = (
    "confusion.npz",
    ".confusion*.tmp",
    ".record*.tmp",
    "checkpoints/.iter_*.tmp",
    "checkpoints/iter_*.pth",
)
PASSING = {Reason.CANCELLED, Reason.LOST, Reason.PREEMPTED, Reason.TIMEOUT}
"""How an attempt may end that was struck: any other reason would keep a sweep from going on."""


@dataclass
class Strike:
    """One kill as it is planned, and what became of it."""

    phase: str
    iteration: int
    """In training: not before this one."""
    signal: str
    whom: str
    """``worker`` (of several, any), ``group`` (all processes), or ``loader`` (a loader process)."""
    damage: str = ""
    """Done to the newest checkpoint afterwards."""
    workers: int = 0
    checkpoint_seconds: float = 0.0
    hit: str = ""
    """The phase that was really hit; empty where the run was done before."""
    reached: int = 0
    """Iteration of the newest checkpoint afterwards, before it was damaged."""
    reason: str = ""
    statuses: list[int] = field(default_factory=list)


def plan(draw: random.Random, kills: int) -> list[Strike]:
    """Strikes in an order in which all can happen: a run that is trained can only be evaluated."""
    names, weights = list(WEIGHTS), list(WEIGHTS.values())
    order = {"start": 0, "training": 1, "checkpoint": 1, "evaluation": 2, "record": 3}
    phases = sorted(draw.choices(names, weights, k=kills), key=lambda phase: order[phase])
    trained = sum(order[phase] == 1 for phase in phases)
    marks = iter(sorted(draw.sample(range(1, ITERATIONS - 1), trained)))
    strikes = []
    for phase in phases:
        workers = draw.choice((0, 1, 2))
        whom = draw.choices(("worker", "group", "loader"), (5, 3, 1))[0]
        name = draw.choices(list(SIGNALS), list(SIGNALS.values()))[0]
        if whom == "loader":
            name, workers = "SIGKILL", max(1, workers)
        mark = next(marks) if order[phase] == 1 else 0
        strike = Strike(phase, mark, name, whom, workers=workers)
        strike.checkpoint_seconds = draw.choice((0.0, 0.0, 0.05, 0.4))
        if phase == "checkpoint":
            strike.checkpoint_seconds = 0.0
        if draw.random() < DAMAGE_SHARE:
            strike.damage = draw.choice(DAMAGES)
        strikes.append(strike)
    # Those that hit it as it starts find it at any state.
    early = [s for s in strikes if s.phase == "start"]
    later = [s for s in strikes if s.phase != "start"]
    for strike in early:
        later.insert(draw.randint(0, len(later)), strike)
    return later


@dataclass
class Fire:
    """One run, trained to its record by as many attempts as it takes.

    Args:
        size: processes that train it together.
        data: folder with the data sets.
    """

    folder: RunFolder
    size: int
    data: Path
    strikes: list[Strike]
    draw: random.Random
    kind: type[Attempt] = Attempt
    first_kind: type[Attempt] = Attempt
    """How workers start that are killed as they start."""
    wrong: list[str] = field(default_factory=list)
    damages: Counter[str] = field(default_factory=Counter)
    groups: list[int] = field(default_factory=list)
    attempts: int = 0
    _spoilt: str = ""
    """Name of a checkpoint that is damaged, until an attempt has said so."""

    def run(self) -> None:
        """All strikes, then undisturbed to the end."""
        for strike in self.strikes:
            if self.folder.record.exists():
                return
            self._strike(strike)
        if self.folder.record.exists():
            return
        attempt = self._begin(self.draw.choice((0, 1, 2)), 0.4, self.kind)
        statuses = attempt.wait()
        self._look_back(attempt)
        if any(statuses) or not self.folder.record.exists():
            tail = attempt.log()[-400:] or attempt.beside.read_text()[-400:]
            self.wrong.append(f"left alone it ended with {statuses} and no record: {tail}")

    def _begin(self, workers: int, checkpoint_seconds: float, kind: type[Attempt]) -> Attempt:
        files.write_json(self.folder.launch, launch(self.data, workers, checkpoint_seconds))
        self.attempts += 1
        attempt = kind(self.folder, self.size, step=self.attempts)
        attempt.start()
        self.groups.append(attempt.group)
        return attempt

    def _strike(self, strike: Strike) -> None:
        before, known = self._traces(), len(self.folder.attempts())
        kind = self.first_kind if strike.phase == "start" else self.kind
        attempt = self._begin(strike.workers, strike.checkpoint_seconds, kind)
        try:
            waited = self._wait_for(strike, attempt, before)
            seen = self._phase(attempt, before)
            if waited:
                self._send(strike, attempt)
            strike.statuses = attempt.wait()
        finally:
            attempt.kill()
        if not waited or self.folder.record.exists():
            return  # too late: it had ended, or what it still did was the end
        # What SIGKILL leaves behind is exact; after any other the worker puts things in order.
        strike.hit = self._phase(attempt, before) if strike.signal == "SIGKILL" else seen
        strike.reached = self.folder.checkpoint_iteration()
        found = self.folder.attempts()[known:]
        reason = found[-1].reason if found else None
        strike.reason = reason.value if reason else "no attempt yet"
        if found and reason not in PASSING:
            self.wrong.append(
                f"{strike.signal} to the {strike.whom}: '{reason}', {found[-1].message}"
            )
        if strike.signal != "SIGKILL" and strike.hit != "start" and strike.statuses[0] != 75:
            self.wrong.append(f"{strike.signal} in {strike.hit}: exit {strike.statuses}")
        self._look_back(attempt)
        if strike.damage:
            self._damage(strike)

    def _wait_for(self, strike: Strike, attempt: Attempt, before: set[tuple[str, int]]) -> bool:
        """Wait for the moment; False if the attempt ended before."""
        if strike.phase == "start":
            return self._sleep(attempt, self.draw.uniform(0, attempt.start_seconds))
        mark = strike.iteration
        if strike.phase in ("evaluation", "record"):
            while not attempt.trained():
                if attempt.over():
                    return False
                time.sleep(0.005)
            if strike.phase == "evaluation":
                return self._sleep(attempt, self.draw.uniform(0, EVALUATION_SECONDS))
            while not any(is_end(name) for name, _ in self._traces() - before):
                if attempt.over():
                    return False
                time.sleep(LOOK_SECONDS)
            return self._sleep(attempt, self.draw.uniform(0, 0.004))
        while attempt.iteration() < mark or not attempt.iteration():
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

    def _send(self, strike: Strike, attempt: Attempt) -> None:
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

    def _traces(self) -> set[tuple[str, int]]:
        """What tells that something is being written: half a file, or one without its note."""
        found = set()
        paths = [p for pattern in TRACES for p in self.folder.path.glob(pattern)]
        notes = {path.stem for path in self.folder.checkpoints.glob("iter_*.json")}
        for path in paths:
            if path.suffix != ".pth" or path.stem not in notes:
                with contextlib.suppress(OSError):
                    found.add((path.name, path.stat().st_ino))
        return found

    def _phase(self, attempt: Attempt, before: set[tuple[str, int]]) -> str:
        """The phase that an attempt is in, or died in."""
        new = self._traces() - before
        if any(is_end(name) for name, _ in new):
            return "record"
        if new:
            return "checkpoint"
        if attempt.trained():
            return "evaluation"
        return "training" if attempt.iteration() else "start"

    def _damage(self, strike: Strike) -> None:
        """Spoil the newest checkpoint that is whole."""
        notes = sorted(self.folder.checkpoints.glob("iter_*.json"))
        if not notes or self._spoilt:
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
                words = bytearray(note.read_bytes())
                at = self.draw.choice([n for n, byte in enumerate(words) if byte not in b" \n"])
                words[at] ^= 1 << self.draw.randrange(8)
                note.write_bytes(words)
        self._spoilt = path.name
        self.damages[strike.damage] += 1

    def _look_back(self, attempt: Attempt) -> None:
        """A damaged checkpoint must have been passed over, with a sentence."""
        text = attempt.log()
        if not self._spoilt:
            return
        said = any(self._spoilt in line and "passed over" in line for line in text.splitlines())
        if said:
            self._spoilt = ""
        elif "  iteration " in text or "going on from" in text:
            self.wrong.append(f"{self._spoilt} is damaged, and was not passed over: {text[-400:]}")
            self._spoilt = ""


def is_end(name: str) -> bool:
    """Whether a file belongs to the last step, the confusion counts and the record."""
    return "confusion" in name or "record" in name


def as_row(strike: Strike) -> dict[str, Any]:
    """A strike for the report."""
    return {key: value for key, value in vars(strike).items() if key != "iteration"}
