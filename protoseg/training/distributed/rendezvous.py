"""The rendezvous of a run's processes: rank 0 opens a store, the others read its address.

The kernel chooses the store's port, so that two runs on a node never use the same one. Rank 0
writes the address to a file in the run folder, named after job, restart count and step; the others
wait for this file. A random token proves that they reached the right store.
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
from protoseg.training.machine.network import allow_host

MEETING_SECONDS = 300.0
"""Time limit for all processes to connect at the start."""
CALL_SECONDS = 60.0
"""Time limit of a call to the store."""
LOOPBACK = "127.0.0.1"
TOKEN = "token"


class RendezvousError(ProtosegError):
    """The processes of a run could not connect, or lost their connection."""


def meeting_file(folder: Path, rank_info: RankInfo) -> Path:
    """The file to which rank 0 writes the address of the store."""
    return folder / f".meeting.{rank_info.name}.json"


def create_store(folder: Path, rank_info: RankInfo) -> TCPStore:
    """Open the store of a run and publish its address; called by rank 0.

    Raises:
        ProtosegError: the run folder cannot be written.
    """
    listener = _listen(rank_info)
    port = listener.getsockname()[1]
    store = TCPStore(
        LOOPBACK,
        port,
        is_master=True,
        timeout=timedelta(seconds=CALL_SECONDS),
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    token = secrets.token_hex(16)
    store.set(TOKEN, token)
    _remove_old_files(folder)
    address = {"addresses": list_addresses(rank_info), "port": port, "word": token}
    files.write_json(meeting_file(folder, rank_info), address)
    return store


def join_store(folder: Path, rank_info: RankInfo, seconds: float | None = None) -> TCPStore:
    """Connect to the store that rank 0 opened; called by all other ranks.

    Args:
        seconds: time limit; by default `MEETING_SECONDS`.

    Raises:
        RendezvousError: the store was not found, or did not answer, within the time limit.
    """
    file = meeting_file(folder, rank_info)
    seconds = MEETING_SECONDS if seconds is None else seconds
    end = time.monotonic() + seconds
    problem = f"{file.name} did not appear in the run folder"
    while time.monotonic() < end:
        # Listing the folder makes a network file system forget that the file was missing.
        with contextlib.suppress(OSError):
            os.listdir(folder)
        match files.read_json(file):
            case {"addresses": list(hosts), "port": int(port), "word": str(token)}:
                for host in hosts:
                    store = connect_store(str(host), port, token)
                    if store is not None:
                        return store
                problem = f"no answer at port {port} of {', '.join(map(str, hosts))}"
        time.sleep(0.1)
    raise RendezvousError(
        f"process {rank_info.rank} of {rank_info.size} could not reach process 0 within "
        f"{seconds:.0f} s: {problem}. Check that all nodes share the file system of the run folder."
    )


def connect_store(host: str, port: int, token: str) -> TCPStore | None:
    """Connect to the store at an address; None if it does not answer or has another token."""
    allow_host(host)
    try:
        # Test the port first: TCPStore waits much longer for a store that does not exist.
        socket.create_connection((host, port), timeout=3).close()
        store = TCPStore(
            host,
            port,
            is_master=False,
            timeout=timedelta(seconds=CALL_SECONDS),
            wait_for_workers=False,
        )
        if store.check([TOKEN]) and store.get(TOKEN).decode() == token:
            return store
    except (OSError, DistError, RuntimeError):
        pass
    return None


def list_addresses(rank_info: RankInfo) -> list[str]:
    """The addresses of this machine for the other processes, the most likely one first."""
    if rank_info.nodes == 1:
        return [LOOPBACK]
    name = socket.gethostname()
    addresses = [name, socket.getfqdn()]
    with contextlib.suppress(OSError):
        addresses += [str(info[4][0]) for info in socket.getaddrinfo(name, None)]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; the kernel selects the local address
        addresses.append(probe.getsockname()[0])
    return [*dict.fromkeys(addresses), LOOPBACK]


def _listen(rank_info: RankInfo) -> socket.socket:
    """Listen on a port chosen by the kernel; on a single node only for this machine."""
    if rank_info.nodes == 1:
        return socket.create_server((LOOPBACK, 0), backlog=rank_info.size + 16)
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=rank_info.size + 16
        )
    return socket.create_server(("", 0), backlog=rank_info.size + 16)


def _remove_old_files(folder: Path) -> None:
    """Remove meeting files whose time limit passed long ago."""
    for path in folder.glob(".meeting.*.json"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 2 * MEETING_SECONDS:
                path.unlink()
