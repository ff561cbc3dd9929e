"""How the processes of a run find each other: through a file in the run folder.

The first process opens a store on a port that the kernel picks, so that no two runs on a node can
want the same, and publishes where it is in a file named after job, restart and step; the others
wait for the file. A word drawn for the occasion tells them that they reached the right store.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from datetime import timedelta
from pathlib import Path

from torch.distributed import DistError, TCPStore

from protoseg import files
from protoseg.errors import ProtosegError
from protoseg.training.distributed.rank import RankInfo

MEETING_SECONDS = 300.0
"""How long processes wait for each other at the start."""
CALL_SECONDS = 60.0
"""The longest that a question to the store may take."""
LOOPBACK = "127.0.0.1"
WORD = "word"


class RendezvousError(ProtosegError):
    """The processes of a run did not come together, or lost each other."""


def meeting_file(folder: Path, place: RankInfo) -> Path:
    """Where the first process publishes how to reach it."""
    return folder / f".meeting.{place.name}.json"


def create_store(folder: Path, place: RankInfo) -> TCPStore:
    """The store of a run, opened and published; for the first process.

    Raises:
        ProtosegError: the run folder can not be written.
    """
    listener = _listen(place)
    port = listener.getsockname()[1]
    store = TCPStore(
        LOOPBACK,
        port,
        is_master=True,
        timeout=timedelta(seconds=CALL_SECONDS),
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    word = secrets.token_hex(16)
    store.set(WORD, word)
    _remove_old(folder)
    where = {"addresses": addresses(place), "port": port, "word": word}
    files.write_json(meeting_file(folder, place), where)
    return store


def join_store(folder: Path, place: RankInfo, seconds: float | None = None) -> TCPStore:
    """The store that the first process opened; for the others.

    Args:
        seconds: how long to look; by default `MEETING_SECONDS`.

    Raises:
        MeetingError: it was not found, or could not be reached, in time.
    """
    file = meeting_file(folder, place)
    seconds = MEETING_SECONDS if seconds is None else seconds
    end = time.monotonic() + seconds
    found = f"{file.name} did not appear in the run folder"
    while time.monotonic() < end:
        # A network file system may remember that a file was missing, until its folder is read.
        with contextlib.suppress(OSError):
            os.listdir(folder)
        match files.read_json(file):
            case {"addresses": list(hosts), "port": int(port), "word": str(word)}:
                for host in hosts:
                    store = connect(str(host), port, word)
                    if store is not None:
                        return store
                found = f"nothing answers at port {port} of {', '.join(map(str, hosts))}"
        time.sleep(0.1)
    raise RendezvousError(
        f"process {place.rank} of {place.size} waited {seconds:.0f} s in vain for the first one: "
        f"{found}. Is the run folder on a file system that all nodes share?"
    )


def connect(host: str, port: int, word: str) -> TCPStore | None:
    """The store at an address, if it is the one that knows the word."""
    try:
        # Asked for first: a store that is not there would be waited for much longer.
        socket.create_connection((host, port), timeout=3).close()
        store = TCPStore(
            host,
            port,
            is_master=False,
            timeout=timedelta(seconds=CALL_SECONDS),
            wait_for_workers=False,
        )
        if store.check([WORD]) and store.get(WORD).decode() == word:
            return store
    except (OSError, DistError, RuntimeError):
        pass
    return None


def addresses(place: RankInfo) -> list[str]:
    """Under what this machine can be reached by the others, the likeliest first."""
    if place.nodes == 1:
        return [LOOPBACK]
    name = socket.gethostname()
    found = [name, socket.getfqdn()]
    with contextlib.suppress(OSError):
        found += [str(info[4][0]) for info in socket.getaddrinfo(name, None)]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; the kernel picks the way out
        found.append(probe.getsockname()[0])
    return [*dict.fromkeys(found), LOOPBACK]


def _listen(place: RankInfo) -> socket.socket:
    """A socket on a port of the kernel's choice; on one node nobody else can reach it."""
    if place.nodes == 1:
        return socket.create_server((LOOPBACK, 0), backlog=place.size + 16)
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=place.size + 16
        )
    return socket.create_server(("", 0), backlog=place.size + 16)


def _remove_old(folder: Path) -> None:
    """Remove the files of meetings that are long over, one way or another."""
    for path in folder.glob(".meeting.*.json"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 2 * MEETING_SECONDS:
                path.unlink()
