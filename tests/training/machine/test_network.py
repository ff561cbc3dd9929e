"""The network is off during a run, except between the processes of the run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from forked import start_forked
from waiting import finish

from protoseg.runs.states import State
from training.launch import environment
from training.small import WORKER_MODULES, ends, log, make_folder, small_spec, work

LOCAL = ("127.0.0.1", "::ffff:127.0.0.1", "::1", "localhost")
FOREIGN = "192.0.2.1"  # an address for documentation, which no machine has (RFC 5737)

GUARD = f"""
import socket, sys
from protoseg.errors import UsageError
from protoseg.training.machine import network

network.turn_network_off()
network.turn_network_off()
with socket.create_server(("127.0.0.1", 0)) as server:
    for host in ("127.0.0.1", "localhost"):
        socket.create_connection((host, server.getsockname()[1])).close()
first, second = socket.socketpair()
first.send(b"x")
socket.gethostbyname(socket.gethostname())
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
tcp = socket.socket()
attempts = [
    lambda: socket.create_connection(("{FOREIGN}", 9), timeout=1),
    lambda: socket.getaddrinfo("example.org", 443),
    lambda: socket.gethostbyname("example.org"),
    lambda: udp.sendto(b"x", ("{FOREIGN}", 9)),
    lambda: udp.sendmsg([b"x"], [], 0, ("{FOREIGN}", 9)),
    lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 9)),
    lambda: tcp.connect_ex(("::ffff:{FOREIGN}"[7:], 9)),
]
for number, attempt in enumerate(attempts):
    try:
        attempt()
    except UsageError as error:
        assert str(error).startswith("network: a connection to "), error
    else:
        sys.exit(f"attempt {{number}} was not refused")
network.allow_host("{FOREIGN}")
udp.connect(("{FOREIGN}", 9))  # sends nothing
"""


def test_only_this_machine_and_the_hosts_of_the_run_can_be_reached() -> None:
    process = start_forked(GUARD, modules=WORKER_MODULES)
    output, _ = finish(process)  # type: ignore[arg-type]
    assert process.returncode == 0, output


BACKBONE = """
import os, urllib.request
from protoseg.models import TinyNet

class Net(TinyNet):
    def __init__(self, channels):
        super().__init__(channels)
        assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == "1"
        {attempt}
"""
ATTEMPTS = {
    "urllib": f'urllib.request.urlopen("http://{FOREIGN}/weights.pth", timeout=5)',
    "torch": (
        "import torch; torch.hub.load_state_dict_from_url("
        f'"http://{FOREIGN}/weights.pth", os.environ["HOME"])'
    ),
    "mmengine": (
        "from mmengine.runner import load_checkpoint; load_checkpoint(self, "
        f'"http://{FOREIGN}/weights.pth")'
    ),
}


@pytest.mark.parametrize("library", ATTEMPTS)
def test_a_backbone_that_downloads_ends_the_run(
    library: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "downloading_net.py").write_text(BACKBONE.format(attempt=ATTEMPTS[library]))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("HOME", str(tmp_path))
    spec = small_spec("backbone.settings.type=downloading_net.Net", "schedule.iterations=3")
    folder = make_folder(tmp_path / "runs", spec, data)
    work(folder, f"sys.path.insert(0, {str(tmp_path)!r})")
    assert ends(folder) == ["bad_config"], log(folder)
    assert f"network: a connection to {FOREIGN} was refused, because runs use no" in log(folder)


WATCH = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void note(const char *call, const char *host) {
    FILE *file = fopen(getenv("WATCHED_CALLS"), "a");
    if (file) { fprintf(file, "%s %s\n", call, host); fclose(file); }
}

static void note_address(const char *call, const struct sockaddr *address) {
    char text[INET6_ADDRSTRLEN] = "";
    if (!address) return;
    if (address->sa_family == AF_INET)
        inet_ntop(AF_INET, &((struct sockaddr_in *)address)->sin_addr, text, sizeof text);
    else if (address->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((struct sockaddr_in6 *)address)->sin6_addr, text, sizeof text);
    else
        return;
    note(call, text);
}

int connect(int fd, const struct sockaddr *address, socklen_t size) {
    int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    note_address("connect", address);
    return next(fd, address, size);
}

ssize_t sendto(int fd, const void *data, size_t length, int flags,
               const struct sockaddr *address, socklen_t size) {
    ssize_t (*next)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) =
        dlsym(RTLD_NEXT, "sendto");
    note_address("sendto", address);
    return next(fd, data, length, flags, address, size);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **result) {
    int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        dlsym(RTLD_NEXT, "getaddrinfo");
    if (node) note("getaddrinfo", node);
    return next(node, service, hints, result);
}
"""
"""A library for LD_PRELOAD: logs the calls of C and C++ code too, and of child processes."""


@pytest.fixture
def watched(tmp_path: Path) -> dict[str, str]:
    """Variables of a process whose connections are logged to ``WATCHED_CALLS``."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source, library = tmp_path / "watch.c", tmp_path / "watch.so"
    source.write_text(WATCH)
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return {"LD_PRELOAD": str(library), "WATCHED_CALLS": str(tmp_path / "calls.txt")}


def read_foreign_calls(watched: dict[str, str]) -> list[str]:
    """The logged calls that name another machine."""
    calls = Path(watched["WATCHED_CALLS"])
    lines = calls.read_text().splitlines() if calls.exists() else []
    return [line for line in lines if line.split()[1] not in LOCAL]


def test_a_connection_of_any_library_is_logged(watched: dict[str, str]) -> None:
    program = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
        f"s.connect(('{FOREIGN}', 9)); s.sendto(b'', ('127.0.0.1', 9)); "
        f"socket.getaddrinfo('{FOREIGN}', 80)"
    )
    subprocess.run([sys.executable, "-c", program], env={**os.environ, **watched}, check=True)
    assert read_foreign_calls(watched) == [f"connect {FOREIGN}", f"getaddrinfo {FOREIGN}"]


@pytest.mark.slow
def test_a_run_connects_only_to_its_own_processes(
    watched: dict[str, str], data: Path, tmp_path: Path
) -> None:
    """Two processes with gloo and loader processes, from the first import to the record."""
    spec = small_spec("schedule.iterations=4")
    folder = make_folder(tmp_path / "runs", spec, data, workers=1)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "protoseg.training.worker", str(folder.path)],
            env={**environment(rank, 2), **watched},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [finish(process)[0] for process in processes]
    assert folder.status().state is State.DONE, [outputs, log(folder)]
    calls = Path(watched["WATCHED_CALLS"]).read_text()
    assert "127.0.0.1" in calls, "the two processes were not seen to connect"
    assert read_foreign_calls(watched) == []
