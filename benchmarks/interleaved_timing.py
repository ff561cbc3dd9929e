"""Timing side by side: on a machine that others use too, only what ran in the same minute compares.

One round times each contender once, in an order that turns from round to round; a round gives one
ratio to each reference, and the median of the ratios is reported with an interval.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

Step = Callable[[], object]
OURS = "ProtoSeg"

BLOCK_SECONDS = 0.004
"""A contender that takes less is called several times in a row, and the mean is taken."""


def watch(step: Step, calls: int, device: torch.device) -> float:
    """Seconds of one call, the mean of some in a row; by CUDA events on a GPU."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(calls):
            step()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1000 / calls
    begun = time.perf_counter()
    for _ in range(calls):
        step()
    return (time.perf_counter() - begun) / calls


def race(
    contenders: Mapping[str, Step],
    device: torch.device,
    *,
    seconds: float,
    rounds: tuple[int, int] = (7, 60),
) -> dict[str, list[float]]:
    """Seconds of one call of each contender, round by round.

    Args:
        seconds: how long the whole may take, as far as the fewest and the most ``rounds`` allow.
    """
    calls = {}
    for name, step in contenders.items():
        once = watch(step, 1, device)  # the first call compiles, allocates, starts threads
        if once < 0.5:
            once = min(watch(step, 1, device) for _ in range(2))
        calls[name] = max(1, min(200, math.ceil(BLOCK_SECONDS / once)))
        calls[name] = calls[name] if once < BLOCK_SECONDS else 1
    begun = time.perf_counter()
    found: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds[1]):
            if number >= rounds[0] and time.perf_counter() - begun > seconds:
                break
            turn = number % len(names)
            for name in (*names[turn:], *names[:turn]):
                found[name].append(watch(contenders[name], calls[name], device))
    finally:
        if collects:
            gc.enable()
    return found


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, and an interval that holds the true median in 95 % of cases (order statistics).

    Fewer than six values can not give one: then it is the lowest and the highest.
    """
    ordered, n = sorted(values), len(values)
    outside, k = 0.0, 0
    while k < n // 2:
        outside += 2 * math.comb(n, k) / 2**n
        if outside > 0.05:
            break
        k += 1
    at = max(k - 1, 0)
    return {"median": statistics.median(ordered), "low": ordered[at], "high": ordered[n - 1 - at]}


def ratios(of: Sequence[float], to: Sequence[float]) -> dict[str, float]:
    """`summary` of how many times as long ``of`` took as ``to``, round by round."""
    return summary([a / b for a, b in zip(of, to, strict=True)])


class Replay:
    """A timer for pytest-benchmark that tells the seconds which a race has measured already.

    pytest-benchmark times one function; it keeps the books here, and the race holds the watch.
    """

    __name__ = "benchmarks.race"

    def __init__(self) -> None:
        self._clock = 0.0
        self._left: list[float] = []
        self._running = False

    def load(self, seconds: Sequence[float]) -> None:
        """What the next rounds are to take."""
        self._clock, self._left, self._running = 0.0, list(reversed(seconds)), False

    def __call__(self) -> float:
        """The time; every second call ends a round."""
        if self._running:
            self._clock += self._left.pop()
        self._running = not self._running
        return self._clock
