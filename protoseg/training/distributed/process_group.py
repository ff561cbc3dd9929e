"""The processes that train one run together: what they tell each other, and how they end.

The first process (rank 0) alone decides, holds the claim and writes; the others follow. Numbers
travel by gloo between CPUs and by NCCL between GPUs, words through the store of the meeting.
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
"""How long one process may keep the others waiting, for instance while it writes a checkpoint."""
FAILURE_SECONDS = 1.0
"""How long the first process waits for the word of another one whose connection broke."""
GRACE_SECONDS = 10.0
"""How long it may take until a failure elsewhere is noticed by itself."""
LEAVE_SECONDS = 2.0
"""How long the first process waits for the others to leave, lest its end is the end of theirs."""
ATTEMPT, FAILURE, HERE, LEFT = "attempt", "failure", "here", "left"


class Processes:
    """The processes of a run, seen from one of them; by default it is alone.

    Args:
        place: which one this is.
        folder: of the run.

    Raises:
        ProtosegError: they can not meet.
    """

    def __init__(self, place: RankInfo | None = None, folder: Path | None = None) -> None:
        self.place = place or RankInfo()
        self.rank, self.size = self.place.rank, self.place.size
        self._store: Any = None
        self._file: Path | None = None
        self._joined = False
        if folder is not None and self.size > 1:
            meet = rendezvous.join_store if self.rank else rendezvous.create_store
            self._store = meet(folder, self.place)
            self._file = rendezvous.meeting_file(folder, self.place)

    # Words, through the store

    def publish(self, name: str, value: Any) -> None:
        """Leave plain data for the others under a name."""
        if self._store is not None:
            self._store.set(name, json.dumps(value))

    def wait_for(self, name: str, seconds: float) -> Any:
        """What another process told under a name; waits for it.

        Raises:
            MeetingError: nothing was told in time, or the first process is gone.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._knows(name):
                return json.loads(self._store.get(name))
            time.sleep(0.05)
        raise RendezvousError(f"process {self.rank} waited {seconds:.0f} s in vain for '{name}'.")

    def _knows(self, name: str) -> bool:
        try:
            return bool(self._store.check([name]))
        except (dist.DistError, RuntimeError) as error:
            raise RendezvousError(f"process {self.rank}: the first process is gone.") from error

    # Together

    def join(self) -> None:
        """Wait until all are here, and connect them; each with its own GPU where there are any.

        Raises:
            MeetingError: some did not come.
            UsageError: a node has more processes than GPUs.
        """
        if self.size == 1:
            return
        end = time.monotonic() + MEETING_SECONDS
        here = self._store.add(HERE, 1)
        while here < self.size:
            if time.monotonic() > end:
                raise RendezvousError(
                    f"{here} of {self.size} processes came together within {MEETING_SECONDS:.0f} s."
                )
            if self._knows(FAILURE):
                raise RendezvousError("another process failed before all were here.")
            time.sleep(0.05)
            here = self._store.add(HERE, 0)
        if self.rank == 0 and self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)
        if self.place.nodes == 1 and Path("/sys/class/net/lo").exists():
            # The name of a machine may lead anywhere; on one node there is no need to ask.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(self._device())
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("group", self._store),
            rank=self.rank,
            world_size=self.size,
            timeout=timedelta(seconds=PEER_SECONDS),
        )
        self._joined = True

    def _device(self) -> int:
        count = torch.cuda.device_count()
        if count == 1:  # the scheduler shows each task its own
            return 0
        if self.place.local_rank >= count:
            raise UsageError(
                f"process {self.place.local_rank + 1} of this node finds {count} GPUs; ask for one "
                "GPU a process."
            )
        return self.place.local_rank

    def agree(self, number: int | None) -> int | None:
        """The highest number that any process has; a stop that one was asked for stops all."""
        if self.size == 1:
            return number
        return int(collective.all_max(torch.tensor(number or 0))) or None

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """The bytes of every process, by rank; every process gets all of them."""
        if self.size == 1:
            return [data]
        sizes = collective.all_gather(torch.tensor(len(data))).tolist()
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        rows = collective.all_gather(padded)
        return [row[:size].numpy().tobytes() for row, size in zip(rows, sizes, strict=True)]

    # How it ends

    def report(self, reason: Reason, message: str) -> None:
        """Tell the first process why this one fails; the first report counts."""
        told = json.dumps([reason.value, f"process {self.rank} of {self.size}: {message}"])
        with contextlib.suppress(dist.DistError, RuntimeError):
            self._store.compare_set(FAILURE, "", told)

    def failure(self, seconds: float = FAILURE_SECONDS) -> tuple[Reason, str] | None:
        """What another process reported, if it does so within some seconds."""
        try:
            reason, message = self.wait_for(FAILURE, seconds)
        except RendezvousError:
            return None
        return Reason(reason), message

    def watch(self, on_failure: Callable[[Reason, str], None]) -> None:
        """Call back, from a thread, some time after another process reported its failure.

        By then this process has noticed by itself and is gone, unless it waits for the other one
        in a way that nothing can end (NCCL).
        """
        host, port = self._store.host, self._store.port
        word = self._store.get(rendezvous.WORD).decode()

        def look() -> None:
            store = rendezvous.connect(host, port, word)  # a connection that nobody else blocks
            while store is not None and not store.check([FAILURE]):
                time.sleep(1)
            if store is not None:
                time.sleep(GRACE_SECONDS)
                reason, message = json.loads(store.get(FAILURE))
                on_failure(Reason(reason), message)

        threading.Thread(target=look, name="watch-processes", daemon=True).start()

    def leave(self) -> None:
        """The last word of this process; the first one waits, within bounds, for all others'."""
        if self._store is None:
            return
        if self.rank:
            with contextlib.suppress(dist.DistError, RuntimeError):
                self._store.add(LEFT, 1)
            return
        if not self._joined:
            self.publish(ATTEMPT, None)
        # Those that are still on their way must find out that they are not needed.
        end = time.monotonic() + (LEAVE_SECONDS if self._joined else MEETING_SECONDS)
        while self._store.add(LEFT, 0) < self.size - 1 and time.monotonic() < end:
            time.sleep(0.02)
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)
