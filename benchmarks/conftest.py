"""Options, and the fixture that checks, races and weighs one case.

`python -m pytest benchmarks` prints pytest-benchmark's own table; `make bench` saves a run. With
``--benchmark-disable`` every case is run and checked once, and nothing is timed.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from interleaved_timing import OURS, Replay, Step, race, ratios, summary
from peak_memory import peak_bytes

REPLAY = Replay()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("protoseg")
    group.addoption("--seconds", type=float, default=3.0, help="for the rounds of a case (3)")
    group.addoption("--threads", type=int, default=0, help="torch's threads (all cores)")
    group.addoption("--device", choices=["cpu", "cuda"], help="cuda where there is one")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=REPLAY, warmup=False))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where the cases run."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(request.config.getoption("--device") or default)


@pytest.fixture(autouse=True)
def _settings(request: pytest.FixtureRequest) -> None:
    threads = request.config.getoption("--threads")
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)


class Case:
    """One case: ours, what it is compared with, and what is kept of both."""

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
        """Time ``ours`` side by side with its references; the peak bytes of each, if asked for.

        Args:
            case: what is timed, in a few words; with the group it is the case's name for good.
            slow: by how much the time for the rounds is stretched.
            extra: kept in the saved run.
        """
        contenders = {OURS: ours, **(references or {})}
        info = self.benchmark.extra_info
        self.benchmark.group = group
        info.update(case=case, **extra)
        if self.benchmark.disabled:
            for step in contenders.values():
                step()
        if not self.benchmark.disabled:
            found = race(contenders, self.device, seconds=slow * self.seconds, rounds=rounds)
            mine = found.pop(OURS)
            info["ours"] = summary(mine)
            info["references"] = {
                name: {**summary(seconds), "ratio": ratios(seconds, mine)}
                for name, seconds in found.items()
            }
            REPLAY.load(mine)
            self.benchmark.pedantic(_nothing, rounds=len(mine))
        else:
            self.benchmark.pedantic(_nothing)
        if memory:
            info["memory"] = {
                name: peak_bytes(step, self.device) for name, step in contenders.items()
            }


def _nothing() -> None:
    """What pytest-benchmark calls while it is told what the race has measured."""


@pytest.fixture
def case(
    request: pytest.FixtureRequest, benchmark: Any, device: torch.device
) -> Callable[..., None]:
    """See `Case.__call__`."""
    return Case(benchmark, device, request.config.getoption("--seconds"))


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """What a saved run says of where it was made: no host name, no path."""
    from protoseg.training.provenance.environment import provenance

    found = provenance()
    packages = {"torch", "numpy", "onedl-mmsegmentation", "mmsegmentation"} & set(found["packages"])
    versions = {name: found["packages"][name] for name in sorted(packages)}
    versions["POT"] = importlib.metadata.version("POT")
    versions["python"] = found["python"]
    machine_info["protoseg"] = {
        "device": found["device"],
        "platform": found["platform"],
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "versions": versions,
        "commit": found["commit"],
        "dirty": found["dirty"],
    }
