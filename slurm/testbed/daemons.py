"""The daemons of a testbed: their commands, start, stop and failure messages (see testbed.py)."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from testbed.processes import EMPTY_LOOKS, MARK, await_executions, end_processes, find_daemon
from testbed.waiting import DEADLINE_SECONDS, log_tails, poll_until

FOREIGN = ("SLURM", "SBATCH", "SQUEUE", "SACCT", "SRUN", "SCANCEL", "SINFO")
"""Prefixes of variables that change what SLURM's programs do."""
DATABASE_OPTIONS = (
    *("--innodb-log-file-size=4M", "--innodb-flush-log-at-trx-commit=0"),
    *("--innodb-flush-method=nosync", "--skip-innodb-doublewrite"),
)
"""A small database without disk flushes: its data are needed only during a test."""


class TestbedError(Exception):
    """A failure of the testbed, with the daemon's name and the end of its log."""

    __test__ = False  # pytest collects classes whose names start with Test


class Daemons:
    """The daemons of one testbed: munged, mariadbd, slurmdbd, slurmctld, and one slurmd per node.

    Args:
        folder: folder of the testbed.
        env: variables for SLURM's commands.
    """

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder, self.env = folder, env

    def start(self, name: str) -> None:
        """Start a daemon unless it runs; `wait` waits until it is ready."""
        if self.is_running(name):
            return
        if name == "munged":
            (self.folder / "run" / "munge.socket").unlink(missing_ok=True)
        # With setsid --fork the daemon outlives `up` and leaves no zombie.
        with (self.folder / "log" / f"{name}.out").open("ab") as out:
            subprocess.run(
                ["setsid", "--fork", *self._command(name)],
                env=clean_environment() | self.env | {MARK: f"{self.folder}:{name}"},
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=True,
            )  # fmt: skip
        if name == "munged":
            self.wait(name, lambda: accepts_connections(self.folder / "run" / "munge.socket"))

    def stop(self, name: str) -> None:
        """Stop a daemon with SIGTERM, then with SIGKILL."""
        end_processes(find_daemon(self.folder, name), signal.SIGTERM)
        end_processes(find_daemon(self.folder, name), signal.SIGKILL)

    def kill(self, name: str) -> None:
        """Kill a daemon with SIGKILL."""
        end_processes(find_daemon(self.folder, name), signal.SIGKILL)

    def is_running(self, name: str) -> bool:
        """Return whether a daemon runs."""
        for _ in range(EMPTY_LOOKS):
            if find_daemon(self.folder, name):
                return True
            await_executions()
        return False

    def wait(self, name: str, ready: Callable[[], bool], seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until a daemon is ready.

        Raises:
            TestbedError: the daemon has ended, or is not ready after ``seconds``.
        """
        if not poll_until(
            seconds, lambda: ready() or not self.is_running(name)
        ) or not self.is_running(name):
            raise TestbedError(self.describe_failure(name))

    def describe_failure(self, name: str) -> str:
        """Return whether the daemon runs, and the end of its log."""
        file_names = (f"{name}.log", f"slurmd-{name}.log", f"{name}.out")
        state = "does not answer" if self.is_running(name) else "ended"
        return f"{name} {state}\n{log_tails(self.folder / 'log' / file for file in file_names)}"

    def _command(self, name: str) -> list[str]:
        etc, run, log = (self.folder / part for part in ("etc", "run", "log"))
        if name == "munged":
            # Without --force it refuses a socket in a private folder.
            paths = {"socket": run / "munge.socket", "key-file": etc / "munge.key",
                     "log-file": log / "munged.log", "pid-file": run / "munged.pid",
                     "seed-file": run / "munged.seed"}  # fmt: skip
            return ["munged", "--foreground", "--force", "--num-threads=10",
                    *(f"--{key}={path}" for key, path in paths.items())]  # fmt: skip
        if name == "mariadbd":
            return ["mariadbd", "--no-defaults", "--user=root",
                    f"--datadir={self._database()}", f"--socket={run / 'mariadb.socket'}",
                    f"--pid-file={run / 'mariadbd.pid'}", "--bind-address=127.0.0.1",
                    f"--port={(etc / 'mariadb.port').read_text()}",
                    f"--init-file={etc / 'database.sql'}", "--innodb-buffer-pool-size=64M",
                    "--innodb-lock-wait-timeout=900", *DATABASE_OPTIONS]  # fmt: skip
        return [name, "-D"] if name in ("slurmdbd", "slurmctld") else ["slurmd", "-D", "-N", name]

    def _database(self) -> Path:
        """Return the folder of the database, after creating it if it is missing."""
        data = self.folder / "database"
        if not data.exists():
            made = subprocess.run(
                ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}",
                 "--skip-test-db", *DATABASE_OPTIONS],
                env=clean_environment(), capture_output=True, text=True, timeout=DEADLINE_SECONDS,
                check=False,
            )  # fmt: skip
            if made.returncode:
                raise TestbedError(f"mariadb-install-db: {(made.stderr or made.stdout).strip()}")
        return data


def clean_environment() -> dict[str, str]:
    """Return this environment without SLURM's variables, and with the daemons' folders in PATH."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
    return kept | {"PATH": extend_path()}


def extend_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def find_missing(programs: tuple[str, ...]) -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in programs if shutil.which(name, path=extend_path()) is None]


def accepts_connections(path: Path) -> bool:
    """Return whether a process listens at this socket."""
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.connect(str(path))
        return True
    return False
