"""The daemons of a testbed: commands, starting, stopping, last words (see testbed.py)."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from testbed_processes import MARK, daemon, end

FOREIGN = ("SLURM", "SBATCH", "SQUEUE", "SACCT", "SRUN", "SCANCEL", "SINFO")
"""How the names of variables begin that would talk SLURM's programs into something else."""


class TestbedError(Exception):
    """What could not be done, which daemon it was and its last words."""

    __test__ = False  # not a test, whatever pytest thinks of the name


class Daemons:
    """The daemons of one folder. Names: munged, mariadbd, slurmdbd, slurmctld, and every node's."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder, self.env = folder, env

    def start(self, name: str) -> None:
        """Starts one that does not run yet and sees it through its first moment."""
        if self.runs(name):
            return
        if name == "munged":
            (self.folder / "run" / "munge.socket").unlink(missing_ok=True)
        # setsid --fork: nobody's child, so it outlives `up` and leaves no zombie to the tests.
        with (self.folder / "log" / f"{name}.out").open("ab") as out:
            subprocess.run(
                ["setsid", "--fork", *self._command(name)],
                env=clean_environment() | self.env | {MARK: f"{self.folder}:{name}"},
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=True,
            )  # fmt: skip
        if name == "munged":
            self.wait(name, lambda: answers(self.folder / "run" / "munge.socket"))
        elif within(0.3, lambda: not self.runs(name)):
            raise TestbedError(self.last_words(name))

    def stop(self, name: str) -> None:
        """Asks it to end, and ends it where that takes longer than 20 s."""
        end(daemon(self.folder, name), signal.SIGTERM, seconds=20)
        end(daemon(self.folder, name), signal.SIGKILL)

    def kill(self, name: str) -> None:
        end(daemon(self.folder, name), signal.SIGKILL)

    def runs(self, name: str) -> bool:
        """Is it there; three looks, since a process shows no environment while it executes."""
        return within(0.2, lambda: bool(daemon(self.folder, name)))

    def wait(self, name: str, ready: Callable[[], bool], seconds: float = 30) -> None:
        """Until it is ready; TestbedError as soon as it has ended, or after ``seconds``."""
        if not within(seconds, lambda: ready() or not self.runs(name)) or not self.runs(name):
            raise TestbedError(self.last_words(name))

    def last_words(self, name: str) -> str:
        """Whether the daemon runs, and the end of its log."""
        names = (f"{name}.log", f"slurmd-{name}.log", f"{name}.out")
        logs = [log for log in (self.folder / "log" / found for found in names) if log.exists()]
        lines = [
            line for log in logs for line in log.read_text(errors="replace").splitlines()[-15:]
        ]
        state = "does not answer" if self.runs(name) else "ended"
        return "\n    ".join([f"{name} {state}; the last lines of its log:", *lines])

    def _command(self, name: str) -> list[str]:
        etc, run, log = (self.folder / part for part in ("etc", "run", "log"))
        if name == "munged":
            # --force: it would refuse a socket in a folder that not everybody may enter.
            paths = {"socket": run / "munge.socket", "key-file": etc / "munge.key",
                     "log-file": log / "munged.log", "pid-file": run / "munged.pid",
                     "seed-file": run / "munged.seed"}  # fmt: skip
            return ["munged", "--foreground", "--force", "--num-threads=10",
                    *(f"--{key}={path}" for key, path in paths.items())]  # fmt: skip
        if name == "mariadbd":
            # Book-keeping of a test: small, and not worth a disk flush for every transaction.
            return ["mariadbd", "--no-defaults", "--user=root",
                    f"--datadir={self._database()}", f"--socket={run / 'mariadb.socket'}",
                    f"--pid-file={run / 'mariadbd.pid'}", "--bind-address=127.0.0.1",
                    f"--port={(etc / 'mariadb.port').read_text()}",
                    f"--init-file={etc / 'database.sql'}", "--innodb-buffer-pool-size=64M",
                    "--innodb-lock-wait-timeout=900",
                    "--innodb-flush-log-at-trx-commit=0"]  # fmt: skip
        return [name, "-D"] if name in ("slurmdbd", "slurmctld") else ["slurmd", "-D", "-N", name]

    def _database(self) -> Path:
        """The folder of the database, with its own tables made where they are missing."""
        data = self.folder / "database"
        if not data.exists():
            made = subprocess.run(
                ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}",
                 "--skip-test-db"],
                env=clean_environment(), capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
            if made.returncode:
                raise TestbedError(f"mariadb-install-db: {(made.stderr or made.stdout).strip()}")
        return data


def clean_environment() -> dict[str, str]:
    """This process's environment without what belongs to another cluster or to a job, and with the
    folders of the daemons in its PATH."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
    return kept | {"PATH": search_path()}


def search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def absent(programs: tuple[str, ...]) -> list[str]:
    """Those that are not installed."""
    return [name for name in programs if shutil.which(name, path=search_path()) is None]


def within(seconds: float, test: Callable[[], bool]) -> bool:
    """Was it true at some moment of the next ``seconds``."""
    deadline = time.monotonic() + seconds
    while not test():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def answers(path: Path) -> bool:
    """Does somebody listen at this socket."""
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.connect(str(path))
        return True
    return False
