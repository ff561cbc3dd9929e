"""A real SLURM cluster on one machine, for tests.

    python slurm/testbed.py up [--folder DIR] [--nodes 2] [--cpus 8] [--gpus 8] [--no-accounting]
    eval "$(python slurm/testbed.py env [--folder DIR])"
    python slurm/testbed.py status|down [--folder DIR]

Runs munged, mariadbd, slurmdbd, slurmctld and one slurmd a node from Debian's packages (PACKAGES),
as root, on the loopback interface. Everything it writes is in its folder; two testbeds with two
folders do not meet. Standard library alone, so that it also runs outside the project.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from testbed_conf import (
    ACCOUNT,
    CLUSTER,
    SMALL_QOS,
    SMALL_QOS_JOBS,
    Shape,
    database_sql,
    gres_conf,
    slurm_conf,
    slurmdbd_conf,
)
from testbed_processes import daemon, end, node_processes, testbed_processes

PACKAGES = "slurm-wlm munge slurmdbd mariadb-server"
PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "srun")
FOLDER = Path(tempfile.gettempdir()) / "protoseg-testbed"
LONGEST_FOLDER = 60
"""Characters. The sockets inside have to stay below the kernel's 107."""


class TestbedError(Exception):
    """What could not be done, which daemon it was and its last words."""


def missing() -> str:
    """Why a testbed can not run here and what to do about it; empty where it can."""
    if sys.platform != "linux":
        return "SLURM runs on Linux only"
    absent = [name for name in PROGRAMS if shutil.which(name, path=search_path()) is None]
    if absent:
        return f"{', '.join(absent)} not found; on Debian 12: apt-get install {PACKAGES}"
    if os.geteuid() != 0:
        return "SLURM's daemons need root here; run as root, e.g. in a container"
    return ""


def search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


class Testbed:
    """One cluster in one folder. A second object with the same folder finds what the first started.

    Every method waits until what it does is done, but never longer than a bound, and raises
    TestbedError with the end of the daemon's log where that is not enough.
    """

    __test__ = False  # not a test, whatever pytest thinks of the name

    def __init__(self, folder: Path | str = FOLDER, shape: Shape | None = None) -> None:
        self.folder = Path(folder).absolute()
        self._shape = shape
        if len(str(self.folder)) > LONGEST_FOLDER:
            raise TestbedError(
                f"{self.folder}: more than {LONGEST_FOLDER} characters, too long for the paths of "
                "the sockets inside; name a shorter --folder"
            )

    # What it is.

    @property
    def shape(self) -> Shape:
        if self._shape is None:
            known = self.folder / "testbed.json"
            self._shape = (
                Shape(**json.loads(known.read_text())["shape"]) if known.exists() else Shape()
            )
        return self._shape

    @property
    def conf(self) -> Path:
        return self.folder / "etc" / "slurm.conf"

    @property
    def env(self) -> dict[str, str]:
        """What a process needs in its environment to talk to this cluster."""
        return {"SLURM_CONF": str(self.conf)}

    @property
    def nodes(self) -> tuple[str, ...]:
        return self.shape.node_names

    @property
    def daemons(self) -> tuple[str, ...]:
        """Names of all daemons, in the order in which they start."""
        accounting = ("mariadbd", "slurmdbd") if self.shape.accounting else ()
        return ("munged", *accounting, "slurmctld", *self.nodes)

    def run(self, *command: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """A command with this cluster's SLURM_CONF. Never raises for its exit status."""
        return subprocess.run(
            command, env={**os.environ, **self.env, "PATH": search_path()}, text=True,
            capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def ask(self, *command: str, timeout: float = 30) -> str:
        """What a command answers; TestbedError with its message where it fails."""
        done = self.run(*command, timeout=timeout)
        if done.returncode:
            raise TestbedError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout.strip()

    # Up and down.

    def up(self) -> Testbed:
        """Starts all of it, or nothing: a daemon that fails takes the others down again."""
        if problem := missing():
            raise TestbedError(problem)
        if list(testbed_processes(self.folder, self.conf)):
            raise TestbedError(f"{self.folder}: a testbed runs there already; `down` ends it")
        try:
            self._write()
            self._start("munged")
            if self.shape.accounting:
                self.start_accounting()
                self._register()
            self.start_controller()
            for node in self.nodes:
                self._start(node)
            for node in self.nodes:
                self.wait_for_node(node)
        except BaseException:
            self.down(keep=True)
            raise
        return self

    def down(self, keep: bool = False) -> None:
        """Ends every process of this testbed and removes its folder (``keep``: leaves it)."""
        for name in reversed(self.daemons):
            # The controller first writes its state, the database its tables.
            end(daemon(self.folder, name), signal.SIGTERM, seconds=0)
        for node in self.nodes:
            self.kill_node(node)
        end(testbed_processes(self.folder, self.conf), signal.SIGTERM, seconds=10)
        end(testbed_processes(self.folder, self.conf), signal.SIGKILL, seconds=10)
        if not keep and (self.folder / "testbed.json").exists():
            shutil.rmtree(self.folder)

    def status(self) -> dict[str, bool]:
        """Daemon -> does it run."""
        return {name: bool(daemon(self.folder, name)) for name in self.daemons}

    # One part at a time.

    def kill_slurmd(self, node: str) -> None:
        """SIGKILL to the node's slurmd alone: its jobs go on, nobody answers for them."""
        end(daemon(self.folder, node), signal.SIGKILL)

    def start_slurmd(self, node: str) -> None:
        self._start(node)
        self.wait_for_node(node)

    def kill_node(self, node: str) -> None:
        """The machine is dead: SIGKILL to slurmd, every slurmstepd and every process of a job."""
        self.kill_slurmd(node)
        # Twice: a process may have started another while the first list was read.
        for _ in range(2):
            end(node_processes(self.folder, self.conf, node), signal.SIGKILL)

    def stop_controller(self) -> None:
        self._stop("slurmctld")

    def start_controller(self) -> None:
        self._start("slurmctld")
        self._wait("slurmctld", lambda: self.run("scontrol", "ping").returncode == 0)

    def restart_controller(self) -> None:
        self.stop_controller()
        self.start_controller()

    def stop_accounting(self) -> None:
        """slurmdbd and its database stop answering; the controller keeps what it has to tell."""
        self._stop("slurmdbd")
        self._stop("mariadbd")

    def start_accounting(self) -> None:
        self._start("mariadbd")
        socket_path = self.folder / "run" / "mariadb.socket"
        self._wait("mariadbd", lambda: _answers(socket_path), seconds=60)
        self._start("slurmdbd")
        known = ("sacctmgr", "--noheader", "list", "cluster")
        self._wait("slurmdbd", lambda: self.run(*known).returncode == 0, seconds=60)

    def wait_for_node(self, node: str, seconds: float = 60) -> None:
        """Until the node takes jobs."""
        states = ("sinfo", "--noheader", "--nodes", node, "--format", "%T")
        up = {"idle", "mixed", "allocated", "completing"}
        self._wait(node, lambda: set(self.run(*states).stdout.split()) <= up, seconds)

    def wait_until(self, what: str, test: Callable[[], bool], seconds: float = 60) -> None:
        """Until ``test`` is true; TestbedError that says ``what`` and what the queue looks like."""
        if not _within(seconds, test):
            queue = self.run("squeue", "--array", "--states=all").stdout
            raise TestbedError(f"not within {seconds:g} s: {what}\n{queue}")

    # Underneath.

    def _write(self) -> None:
        if self.folder.exists() and any(self.folder.iterdir()):
            if not (self.folder / "testbed.json").exists():
                raise TestbedError(f"{self.folder} holds something else; name an empty --folder")
            shutil.rmtree(self.folder)
        for name in ("etc", "gpus", "log", "run", "spool", "state"):
            (self.folder / name).mkdir(parents=True)
        known = json.dumps({"shape": asdict(self.shape)}, indent=1)
        (self.folder / "testbed.json").write_text(known)
        for node in self.nodes:
            (self.folder / "spool" / node).mkdir()
            for gpu in range(self.shape.gpus):
                (self.folder / "gpus" / f"{node}-{gpu}").touch()
        host, etc = socket.gethostname().split(".")[0], self.folder / "etc"
        names = ("slurmctld", "slurmdbd", "mariadbd", *self.nodes)
        ports = dict(zip(names, _ports(), strict=False))
        password = secrets.token_hex(16)
        self._private(etc / "munge.key", secrets.token_bytes(128))
        self._private(etc / "slurmdbd.conf", slurmdbd_conf(self.folder, host, ports, password))
        self._private(etc / "database.sql", database_sql(password))
        (etc / "gres.conf").write_text(gres_conf(self.folder, self.shape))
        (etc / "mariadb.port").write_text(str(ports["mariadbd"]))
        self.conf.write_text(slurm_conf(self.folder, self.shape, host, ports))

    @staticmethod
    def _private(path: Path, content: str | bytes) -> None:
        path.touch(mode=0o600)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def _command(self, name: str) -> list[str]:
        etc, run, log = self.folder / "etc", self.folder / "run", self.folder / "log"
        if name == "munged":
            # --force: it would refuse a socket in a folder that not everybody may enter.
            paths = {"socket": run / "munge.socket", "key-file": etc / "munge.key",
                     "log-file": log / "munged.log", "pid-file": run / "munged.pid",
                     "seed-file": run / "munged.seed"}  # fmt: skip
            return ["munged", "--foreground", "--force", "--num-threads=4",
                    *(f"--{key}={path}" for key, path in paths.items())]  # fmt: skip
        if name == "mariadbd":
            data = self.folder / "database"
            if not data.exists():
                self.ask("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}",
                         "--skip-test-db", timeout=120)  # fmt: skip
            # A test's book-keeping: small, and not worth a disk flush for every transaction.
            return ["mariadbd", "--no-defaults", "--user=root", f"--datadir={data}",
                    f"--socket={run / 'mariadb.socket'}", f"--pid-file={run / 'mariadbd.pid'}",
                    "--bind-address=127.0.0.1", f"--port={(etc / 'mariadb.port').read_text()}",
                    f"--init-file={etc / 'database.sql'}", "--innodb-buffer-pool-size=64M",
                    "--innodb-lock-wait-timeout=900",
                    "--innodb-flush-log-at-trx-commit=0"]  # fmt: skip
        return [name, "-D"] if name in ("slurmdbd", "slurmctld") else ["slurmd", "-D", "-N", name]

    def _start(self, name: str) -> None:
        """Starts one daemon in the foreground, marked in its environment (testbed_processes.py)."""
        if daemon(self.folder, name):
            return
        if name == "munged":
            (self.folder / "run" / "munge.socket").unlink(missing_ok=True)
        command = self._command(name)
        command[0] = shutil.which(command[0], path=search_path()) or command[0]
        # A daemon belongs to no job, whatever started the testbed, and talks to one cluster.
        foreign = ("SLURM", "SBATCH", "SQUEUE", "SACCT", "SRUN", "SCANCEL", "SINFO")
        env = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        env |= {**self.env, "PATH": search_path(), "TESTBED_DAEMON": f"{self.folder}:{name}"}
        with (self.folder / "log" / f"{name}.out").open("ab") as out:
            process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True, cwd=self.folder,
            )  # fmt: skip
        if name == "munged":
            self._wait(name, lambda: _answers(self.folder / "run" / "munge.socket"))
        elif _within(0.3, lambda: process.poll() is not None):
            raise TestbedError(self._last_words(name))

    def _stop(self, name: str) -> None:
        end(daemon(self.folder, name), signal.SIGTERM, seconds=20)
        end(daemon(self.folder, name), signal.SIGKILL)

    def _wait(self, name: str, ready: Callable[[], bool], seconds: float = 30) -> None:
        def settled() -> bool:
            return ready() or not daemon(self.folder, name)

        if not _within(seconds, settled) or not daemon(self.folder, name):
            raise TestbedError(self._last_words(name))

    def _last_words(self, name: str) -> str:
        """Which daemon, does it run, and the end of its log."""
        running = "does not answer" if daemon(self.folder, name) else "ended"
        names = (f"{name}.log", f"slurmd-{name}.log", f"{name}.out")
        logs = [log for log in (self.folder / "log" / found for found in names) if log.exists()]
        tail = [line for log in logs for line in log.read_text(errors="replace").splitlines()[-15:]]
        return "\n    ".join([f"{name} {running}; the last lines of its log:", *tail])

    def _register(self) -> None:
        """Users, accounts and limits: without an association nobody may submit."""
        for words in (
            f"add cluster {CLUSTER}",
            f"add qos {SMALL_QOS} MaxSubmitJobsPerUser={SMALL_QOS_JOBS}",
            f"add account {ACCOUNT} Cluster={CLUSTER}",
            f"add user root Account={ACCOUNT} Cluster={CLUSTER}",
            f"modify user root set DefaultAccount={ACCOUNT} QOS=normal,{SMALL_QOS}",
        ):
            self.ask("sacctmgr", "--immediate", *words.split())


def _within(seconds: float, test: Callable[[], bool]) -> bool:
    end_time = time.monotonic() + seconds
    while not test():
        if time.monotonic() > end_time:
            return False
        time.sleep(0.1)
    return True


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.connect(str(path))
        return True
    return False


def _ports() -> Iterable[int]:
    """Free ports, for ever. Below the kernel's own range, or a passing client may take the port of
    a daemon that is being restarted."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            yield port


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="testbed.py", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, help_text in (
        ("up", "start it"),
        ("down", "end every process of it and remove its folder"),
        ("status", "which daemons run, and SLURM's view of nodes and queue"),
        ("env", "print the line for your shell"),
    ):
        sub = verbs.add_parser(verb, help=help_text)
        sub.add_argument("--folder", type=Path, default=FOLDER, help=f"default: {FOLDER}")
        if verb == "up":
            for name in ("nodes", "cpus", "gpus", "grace"):
                sub.add_argument(f"--{name}", type=int, default=getattr(Shape, name))
            sub.add_argument("--no-accounting", action="store_true")
    options = parser.parse_args(arguments)
    shape = None
    if options.verb == "up":
        shape = Shape(options.nodes, options.cpus, options.gpus, grace=options.grace,
                      accounting=not options.no_accounting)  # fmt: skip
    try:
        testbed = Testbed(options.folder, shape)
        if options.verb == "up":
            testbed.up()
        if options.verb == "down":
            testbed.down()
        if options.verb in ("up", "env"):
            print(f"export SLURM_CONF={testbed.conf}")
        if options.verb == "status":
            running = testbed.status()
            for name, runs in running.items():
                print(f"{name:12}{'runs' if runs else 'does not run'}")
            print(testbed.run("sinfo").stdout, testbed.run("squeue").stdout, sep="", end="")
            return 0 if all(running.values()) else 1
    except TestbedError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
