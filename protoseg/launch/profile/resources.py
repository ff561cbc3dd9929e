"""The resources of a job: the part of a cluster profile that one run needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from protoseg.config.fields import number
from protoseg.errors import UsageError
from protoseg.launch.profile.values import (
    check_name,
    check_time,
    format_memory,
    parse_memory,
    parse_time,
)

MAX_COUNT = 100_000
"""More nodes, GPUs or processes than any cluster has; a larger value is a typing error."""


@dataclass(frozen=True)
class Resources:
    """The resources of one job. Runs with equal resources share a job array.

    ``time`` and ``memory`` are converted to one form of SLURM.

    Raises:
        UsageError: SLURM or a shell script would not accept a value.
    """

    partition: str = ""
    """Empty, here and below: the cluster's default; sbatch gets no such option."""
    account: str = ""
    qos: str = ""
    reservation: str = ""
    constraint: str = ""
    """Features of the nodes in the form of sbatch --constraint."""
    nodes: int = number(1, low=1, high=MAX_COUNT)
    gpus: int = number(0, low=0, high=MAX_COUNT)
    """GPUs on each node."""
    gpu_type: str = ""
    """The cluster's name of the GPU type; empty accepts any."""
    processes: int = number(0, low=0, high=MAX_COUNT)
    """Processes of the run on each node; 0 is one per GPU, or one without GPUs."""
    cpus: int = number(1, low=1, high=MAX_COUNT)
    """CPU cores of each process."""
    memory: str = ""
    """Memory of each node, e.g. ``16G``; empty is the cluster's default, ``0`` all of the node."""
    time: str = "1:00:00"
    """Time limit of one attempt; a longer run is resumed in the next attempt."""
    workers: int = number(0, low=0, high=MAX_COUNT)
    """Data loader workers of each process."""
    threads: int = number(0, low=0, high=MAX_COUNT)
    """Threads of torch in each process; 0 is one per CPU core."""

    def __post_init__(self) -> None:
        for key in ("partition", "account", "qos", "reservation", "constraint", "gpu_type"):
            if text := getattr(self, key):
                check_value(key, check_name, key, text)
        object.__setattr__(self, "time", check_value("time", check_time, self.time))
        if self.memory:
            kibibytes = check_value("memory", parse_memory, self.memory)
            object.__setattr__(self, "memory", format_memory(kibibytes))
        if self.gpus and self.processes > self.gpus:
            raise UsageError(
                f"processes: {self.processes} processes on {self.gpus} GPUs of a node. Allowed: at "
                "most one process per GPU. Lower it, or set 0 for one per GPU."
            )

    @property
    def processes_per_node(self) -> int:
        """Processes of the run on each node."""
        return self.processes or self.gpus or 1

    @property
    def processes_total(self) -> int:
        """Processes of the run on all its nodes together."""
        return self.nodes * self.processes_per_node

    @property
    def seconds(self) -> int:
        """The time limit in seconds."""
        return parse_time(self.time)

    @property
    def threads_per_process(self) -> int:
        """Threads of torch in each process."""
        return self.threads or self.cpus

    def __str__(self) -> str:
        """One line for the terminal: ``2 nodes, each 8 h100 GPUs, 64 cores, 128G; 4:00:00``."""
        cores = self.processes_per_node * self.cpus
        each = [
            f"{self.gpus} {self.gpu_type} GPU{'s' * (self.gpus > 1)}" if self.gpus else "",
            f"{cores} core{'s' * (cores > 1)}",
            "all its memory" if self.memory == "0" else self.memory,
        ]
        text = ", ".join(" ".join(part.split()) for part in each if part)
        nodes = f"{self.nodes} nodes, each " if self.nodes > 1 else ""
        return f"{nodes}{text}; {self.time}"

    def normalised(self) -> Resources:
        """Return the resources with defaults filled in, so that equal requests compare equal."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(Resources)}
        values |= {"processes": self.processes_per_node, "threads": self.threads_per_process}
        values |= {"gpu_type": self.gpu_type if self.gpus else ""}
        return Resources(**values)


def check_value(where: str, check: Callable[..., Any], *arguments: Any) -> Any:
    """Return ``check(*arguments)``; error messages start with ``where``."""
    try:
        return check(*arguments)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
