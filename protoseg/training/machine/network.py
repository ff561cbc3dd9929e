"""Turns the network off in a worker: a result must not depend on what a server answers.

Switches tell libraries to stay offline. An audit hook of Python then refuses every connection and
every name look-up, except of this machine and of the hosts of the run's own processes. Connections
of C++ code (gloo, NCCL) are not seen by the hook; they go to the run's own processes only.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import sys
from typing import Any

from protoseg.errors import UsageError

OFFLINE = {
    "HF_HUB_OFFLINE": "1",  # huggingface_hub, and timm's models with it
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Variables that libraries read when they are imported. torch.hub and mmengine have no such switch;
the audit hook refuses their downloads."""
CONNECTIONS = ("socket.connect", "socket.sendto", "socket.sendmsg")
LOOK_UPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
REMOTE_FAMILIES = (socket.AF_INET, socket.AF_INET6)
LOCAL_NAMES = ("", "localhost")

_hosts: set[str] = set()
_is_off = False


def set_offline_switches() -> None:
    """Set the switches of libraries, for this process and its children."""
    os.environ.update(OFFLINE)


def turn_network_off() -> None:
    """Set the switches, and refuse connections from now on until the process ends."""
    global _is_off
    set_offline_switches()
    if not _is_off:
        _is_off = True
        _hosts.add(socket.gethostname())
        sys.addaudithook(_refuse_connections)


def allow_host(host: str) -> None:
    """Allow connections to a host on which another process of this run is."""
    _hosts.add(host)
    with contextlib.suppress(OSError):
        _hosts.update(str(info[4][0]) for info in socket.getaddrinfo(host, None))


def _refuse_connections(event: str, arguments: tuple[Any, ...]) -> None:
    if event in CONNECTIONS:
        connection, address = arguments
        # A connected socket sends without an address.
        if connection.family not in REMOTE_FAMILIES or not isinstance(address, tuple):
            return
        host = address[0]
    elif event in LOOK_UPS:
        host = arguments[0]
    else:
        return
    name = host.decode(errors="replace") if isinstance(host, bytes) else str(host or "")
    if name not in _hosts and not _is_local(name):
        raise UsageError(
            f"network: a connection to {name} was refused, because runs use no network. Put the "
            "file into the weights folder and name it in backbone.weights."
        )


def _is_local(name: str) -> bool:
    if name in LOCAL_NAMES:
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)
