"""Options of the benchmarks, and the fixture that times a case and measures its memory.

`python -m pytest benchmarks` prints pytest-benchmark's table; `make bench` saves a run. With
``--benchmark-disable`` every case is run and checked once without timing.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from interleaved_timing import (
    OURS,
    ReplayTimer,
    Step,
    summarise_ratios,
    summarise_times,
    time_contenders,
)
from peak_memory import measure_peak_bytes

REPLAY_TIMER = ReplayTimer()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("protoseg")
    group.addoption(
        "--seconds", type=float, default=3.0, help="time limit for the rounds of a case (3)"
    )
    group.addoption("--threads", type=int, default=0, help="torch's threads (all cores)")
    group.addoption("--device", choices=["cpu", "cuda"], help="default: cuda if available")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=REPLAY_TIMER, warmup=False))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device of the benchmarks."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(request.config.getoption("--device") or default)


@pytest.fixture(autouse=True)
def _settings(request: pytest.FixtureRequest) -> None:
    threads = request.config.getoption("--threads")
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)


class Case:
    """Times one case next to its references and stores the results."""

    def __init__(self, benchmark: Any, device: torch.device, seconds: float) -> None:
        self.benchmark = benchmark
        self.device = device
        self.seconds = seconds

    def __call__(
        self,
        group: str,
        case: str,
        ours: Step,
        references: Mapping[str, Step] | None = None,
        *,
        memory: bool = False,
        rounds: tuple[int, int] = (7, 60),
        slow: float = 1.0,
        **extra: Any,
    ) -> None:
        """Time ``ours`` next to its references.

        Args:
            group: group of the case.
            case: short description. Group and description identify the case in saved runs, so they
                must never change.
            ours: the step to time.
            references: name -> step to compare with.
            memory: whether to measure the peak memory of each step.
            rounds: fewest and most rounds.
            slow: factor of the time limit.
            extra: values stored in the saved run.
        """
        contenders = {OURS: ours, **(references or {})}
        info = self.benchmark.extra_info
        self.benchmark.group = group
        info.update(case=case, **extra)
        if self.benchmark.disabled:
            for step in contenders.values():
                step()
        if not self.benchmark.disabled:
            times = time_contenders(
                contenders, self.device, seconds=slow * self.seconds, rounds=rounds
            )
            own_times = times.pop(OURS)
            info["ours"] = summarise_times(own_times)
            info["references"] = {
                name: {**summarise_times(seconds), "ratio": summarise_ratios(seconds, own_times)}
                for name, seconds in times.items()
            }
            REPLAY_TIMER.load_times(own_times)
            self.benchmark.pedantic(_do_nothing, rounds=len(own_times))
        else:
            self.benchmark.pedantic(_do_nothing)
        if memory:
            info["memory"] = {
                name: measure_peak_bytes(step, self.device) for name, step in contenders.items()
            }


def _do_nothing() -> None:
    """The function that pytest-benchmark calls while the timer replays measured times."""


@pytest.fixture
def case(
    request: pytest.FixtureRequest, benchmark: Any, device: torch.device
) -> Callable[..., None]:
    """See `Case.__call__`."""
    return Case(benchmark, device, request.config.getoption("--seconds"))


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Store device, versions and commit in a saved run, without host name or path."""
    from protoseg.training.provenance.environment import collect_provenance

    origin = collect_provenance()
    packages = {"torch", "numpy", "onedl-mmsegmentation", "mmsegmentation"} & set(
        origin["packages"]
    )
    versions = {name: origin["packages"][name] for name in sorted(packages)}
    versions["POT"] = importlib.metadata.version("POT")
    versions["python"] = origin["python"]
    machine_info["protoseg"] = {
        "device": origin["device"],
        "platform": origin["platform"],
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "versions": versions,
        "commit": origin["commit"],
        "dirty": origin["dirty"],
    }
