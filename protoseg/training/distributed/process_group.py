"""The processes that train one run together: exchanges between them, and how they end.

Rank 0 alone decides, holds the claim and writes files; the others follow it. Tensors are exchanged
by gloo between CPUs and by NCCL between GPUs, other data through the store of the rendezvous.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from protoseg.core import collective
from protoseg.errors import UsageError
from protoseg.runs.states import Reason
from protoseg.training.distributed import rendezvous
from protoseg.training.distributed.rank import RankInfo
from protoseg.training.distributed.rendezvous import MEETING_SECONDS, RendezvousError

PEER_SECONDS = 1800.0
"""How long the others wait for a process, for example while it writes a checkpoint."""
FAILURE_SECONDS = 1.0
"""How long rank 0 waits for the report of a process whose connection broke."""
GRACE_SECONDS = 10.0
"""How long a process may take to notice the failure of another one by a broken connection."""
LEAVE_SECONDS = 2.0
"""How long rank 0 waits for the others at the end; they need the store until they leave."""
ATTEMPT, FAILURE, JOINED, LEFT = "attempt", "failure", "here", "left"
"""Keys of the store."""


class Processes:
    """The processes of a run, seen from one of them; by default there is only this one.

    Args:
        rank_info: rank of this process and number of processes.
        folder: the run folder.

    Raises:
        ProtosegError: the processes cannot connect.
    """

    def __init__(self, rank_info: RankInfo | None = None, folder: Path | None = None) -> None:
        self.rank_info = rank_info or RankInfo()
        self.rank, self.size = self.rank_info.rank, self.rank_info.size
        self._store: Any = None
        self._file: Path | None = None
        self._joined = False
        if folder is not None and self.size > 1:
            open_store = rendezvous.join_store if self.rank else rendezvous.create_store
            self._store = open_store(folder, self.rank_info)
            self._file = rendezvous.meeting_file(folder, self.rank_info)

    # Values in the store

    def publish(self, name: str, value: Any) -> None:
        """Store a value, as JSON, for the other processes."""
        if self._store is not None:
            self._store.set(name, json.dumps(value))

    def wait_for(self, name: str, seconds: float) -> Any:
        """Wait for a value that another process publishes.

        Raises:
            RendezvousError: no value within the time limit, or rank 0 has ended.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._has_value(name):
                return json.loads(self._store.get(name))
            time.sleep(0.05)
        raise RendezvousError(f"process {self.rank} got no '{name}' within {seconds:.0f} s.")

    def _has_value(self, name: str) -> bool:
        try:
            return bool(self._store.check([name]))
        except (dist.DistError, RuntimeError) as error:
            raise RendezvousError(f"process {self.rank} lost its connection to rank 0.") from error

    # Collective operations

    def join(self) -> None:
        """Wait for all processes and connect them; on GPU nodes each process gets one GPU.

        Raises:
            RendezvousError: some processes did not start, or one failed.
            UsageError: a node has more processes than GPUs.
        """
        if self.size == 1:
            return
        end = time.monotonic() + MEETING_SECONDS
        number = self._store.add(JOINED, 1)
        while number < self.size:
            if time.monotonic() > end:
                raise RendezvousError(
                    f"only {number} of {self.size} processes started within "
                    f"{MEETING_SECONDS:.0f} s. Check the nodes of the job."
                )
            if self._has_value(FAILURE):
                raise RendezvousError("another process failed before all processes had started.")
            time.sleep(0.05)
            number = self._store.add(JOINED, 0)
        if self.rank == 0 and self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)
        if self.rank_info.nodes == 1 and Path("/sys/class/net/lo").exists():
            # On one node gloo needs no lookup of the host name, which may resolve to any address.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(self._select_device())
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("group", self._store),
            rank=self.rank,
            world_size=self.size,
            timeout=timedelta(seconds=PEER_SECONDS),
        )
        self._joined = True

    def _select_device(self) -> int:
        count = torch.cuda.device_count()
        if count == 1:  # SLURM makes one GPU visible to each task
            return 0
        if self.rank_info.local_rank >= count:
            raise UsageError(
                f"process {self.rank_info.local_rank + 1} of this node has no GPU; the node shows "
                f"{count} GPUs. Request one GPU per process."
            )
        return self.rank_info.local_rank

    def agree_on_signal(self, signal_number: int | None) -> int | None:
        """The highest signal number of all processes; a signal to one process stops all."""
        if self.size == 1:
            return signal_number
        return int(collective.all_max(torch.tensor(signal_number or 0))) or None

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """The bytes of every process, by rank; every process gets all of them."""
        if self.size == 1:
            return [data]
        sizes = collective.all_gather(torch.tensor(len(data))).tolist()
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        rows = collective.all_gather(padded)
        return [row[:size].numpy().tobytes() for row, size in zip(rows, sizes, strict=True)]

    # Failures and the end

    def report_failure(self, reason: Reason, message: str) -> None:
        """Report to rank 0 why this process failed; only the first report is kept."""
        report = json.dumps([reason.value, f"process {self.rank} of {self.size}: {message}"])
        with contextlib.suppress(dist.DistError, RuntimeError):
            self._store.compare_set(FAILURE, "", report)

    def read_failure(self, seconds: float = FAILURE_SECONDS) -> tuple[Reason, str] | None:
        """The failure that another process reports within a time limit, or None."""
        try:
            reason, message = self.wait_for(FAILURE, seconds)
        except RendezvousError:
            return None
        return Reason(reason), message

    def watch_failures(self, on_failure: Callable[[Reason, str], None]) -> None:
        """Call ``on_failure`` from a thread `GRACE_SECONDS` after another process failed.

        Usually this process has ended by then, because its connection broke. It has not if it
        waits in an NCCL call, which cannot be interrupted.
        """
        host, port = self._store.host, self._store.port
        token = self._store.get(rendezvous.TOKEN).decode()

        def watch() -> None:
            # A separate connection, which no other thread blocks.
            store = rendezvous.connect_store(host, port, token)
            while store is not None and not store.check([FAILURE]):
                time.sleep(1)
            if store is not None:
                time.sleep(GRACE_SECONDS)
                reason, message = json.loads(store.get(FAILURE))
                on_failure(Reason(reason), message)

        threading.Thread(target=watch, name="watch-processes", daemon=True).start()

    def leave(self) -> None:
        """Leave the group; rank 0 waits, up to a time limit, until all others have left."""
        if self._store is None:
            return
        if self.rank:
            with contextlib.suppress(dist.DistError, RuntimeError):
                self._store.add(LEFT, 1)
            return
        if not self._joined:
            self.publish(ATTEMPT, None)
        # Processes that start late must be able to read that there is no attempt.
        end = time.monotonic() + (LEAVE_SECONDS if self._joined else MEETING_SECONDS)
        while self._store.add(LEFT, 0) < self.size - 1 and time.monotonic() < end:
            time.sleep(0.02)
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)
