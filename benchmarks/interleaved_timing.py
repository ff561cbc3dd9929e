"""Interleaved timing of several functions, for machines with other load.

Only times of the same minute are comparable. A round times each function once, in an order that
rotates from round to round. Each round gives one ratio per reference; the result is the median
ratio with an interval.
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
"""A faster function is called several times per round, and the mean is used."""


def time_calls(step: Step, calls: int, device: torch.device) -> float:
    """Return the mean seconds per call of several calls; uses CUDA events on a GPU."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(calls):
            step()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1000 / calls
    started = time.perf_counter()
    for _ in range(calls):
        step()
    return (time.perf_counter() - started) / calls


def time_contenders(
    contenders: Mapping[str, Step],
    device: torch.device,
    *,
    seconds: float,
    rounds: tuple[int, int] = (7, 60),
) -> dict[str, list[float]]:
    """Return the seconds per call of each function in each round.

    Args:
        contenders: name -> function.
        device: device of the functions.
        seconds: time limit; the fewest and the most rounds take precedence.
        rounds: fewest and most rounds.
    """
    calls = {}
    for name, step in contenders.items():
        once = time_calls(step, 1, device)  # warm-up: compilation, allocation, threads
        if once < 0.5:
            once = min(time_calls(step, 1, device) for _ in range(2))
        calls[name] = max(1, min(200, math.ceil(BLOCK_SECONDS / once)))
        calls[name] = calls[name] if once < BLOCK_SECONDS else 1
    started = time.perf_counter()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds[1]):
            if number >= rounds[0] and time.perf_counter() - started > seconds:
                break
            turn = number % len(names)
            for name in (*names[turn:], *names[:turn]):
                times[name].append(time_calls(contenders[name], calls[name], device))
    finally:
        if collects:
            gc.enable()
    return times


def summarise_times(values: Sequence[float]) -> dict[str, float]:
    """Return the median and its 95% confidence interval from order statistics.

    With fewer than six values the interval is the minimum and maximum.
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


def summarise_ratios(of: Sequence[float], to: Sequence[float]) -> dict[str, float]:
    """Return `summarise_times` of the ratios ``of / to`` of each round."""
    return summarise_times([a / b for a, b in zip(of, to, strict=True)])


class ReplayTimer:
    """A timer for pytest-benchmark that replays times measured by `time_contenders`.

    pytest-benchmark can time only one function, so it is used only to store the results.
    """

    __name__ = "benchmarks.interleaved_timing"

    def __init__(self) -> None:
        self._clock = 0.0
        self._remaining: list[float] = []
        self._running = False

    def load_times(self, seconds: Sequence[float]) -> None:
        """Set the seconds of the next rounds."""
        self._clock, self._remaining, self._running = 0.0, list(reversed(seconds)), False

    def __call__(self) -> float:
        """Return the replayed clock; every second call ends a round."""
        if self._running:
            self._clock += self._remaining.pop()
        self._running = not self._running
        return self._clock
