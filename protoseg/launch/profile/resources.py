"""What one run asks of a cluster: the part of a profile that becomes a job's resources."""

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

MOST = 100_000
"""More nodes, GPUs or processes than any cluster has: beyond it stands a typing error."""


@dataclass(frozen=True)
class Resources:
    """What one job asks for. Runs with equal resources share a job array.

    ``time`` and ``memory`` are kept in SLURM's own form, whichever they were given in.

    Raises:
        UsageError: a value that SLURM or a shell script could not take as it is meant.
    """

    partition: str = ""
    """Empty, here and below: the site's default, no such option is given to sbatch."""
    account: str = ""
    qos: str = ""
    reservation: str = ""
    constraint: str = ""
    """Features that the nodes must have, as sbatch --constraint takes them."""
    nodes: int = number(1, low=1, high=MOST)
    gpus: int = number(0, low=0, high=MOST)
    """GPUs on each node."""
    gpu_type: str = ""
    """Which GPUs, by the name that the site gave them; empty takes any."""
    processes: int = number(0, low=0, high=MOST)
    """Processes of the run on each node; 0 is one a GPU, or one."""
    cpus: int = number(1, low=1, high=MOST)
    """CPU cores of each process."""
    memory: str = ""
    """Memory of each node, e.g. ``16G``; empty leaves it to the site, ``0`` takes all of it."""
    time: str = "1:00:00"
    """Time limit of one attempt; a run that needs longer goes on in the next one."""
    workers: int = number(0, low=0, high=MOST)
    """Loader processes of each process."""
    threads: int = number(0, low=0, high=MOST)
    """Threads of torch in each process; 0 is one a CPU core."""

    def __post_init__(self) -> None:
        for kind in ("partition", "account", "qos", "reservation", "constraint", "gpu_type"):
            if text := getattr(self, kind):
                checked(kind, check_name, kind, text)
        object.__setattr__(self, "time", checked("time", check_time, self.time))
        if self.memory:
            kibibytes = checked("memory", parse_memory, self.memory)
            object.__setattr__(self, "memory", format_memory(kibibytes))
        if self.gpus and self.processes > self.gpus:
            raise UsageError(
                f"processes: {self.processes} on {self.gpus} GPUs of a node; each process needs a "
                "GPU of its own. Lower it, or leave it 0 for one a GPU."
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
        """The time limit."""
        return parse_time(self.time)

    @property
    def threads_each(self) -> int:
        """Threads of torch in each process."""
        return self.threads or self.cpus

    def __str__(self) -> str:
        """In words, for people: ``2 nodes, each 8 h100 GPUs, 64 cores, 128G; 4:00:00``."""
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
        """The same request with one spelling, so that equal requests are equal values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(Resources)}
        values |= {"processes": self.processes_per_node, "threads": self.threads_each}
        values |= {"gpu_type": self.gpu_type if self.gpus else ""}
        return Resources(**values)


def checked(where: str, check: Callable[..., Any], *arguments: Any) -> Any:
    """What ``check(*arguments)`` returns; its errors name ``where``."""
    try:
        return check(*arguments)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
