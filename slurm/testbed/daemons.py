"""The daemons of a testbed: commands, starting, stopping, last words (see testbed.py)."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from testbed.processes import LOOKS, MARK, await_executions, daemon, end
from testbed.waiting import DEADLINE_SECONDS, log_tails, within

FOREIGN = ("SLURM", "SBATCH", "SQUEUE", "SACCT", "SRUN", "SCANCEL", "SINFO")
"""How the names of variables begin that would talk SLURM's programs into something else."""
DATABASE_OPTIONS = (
    *("--innodb-log-file-size=4M", "--innodb-flush-log-at-trx-commit=0"),
    *("--innodb-flush-method=nosync", "--skip-innodb-doublewrite"),
)
"""The accounting of a test: small, and not worth a flush of the disk."""


class TestbedError(Exception):
    """What could not be done, which daemon it was and its last words."""

    __test__ = False  # not a test, whatever pytest thinks of the name


class Daemons:
    """The daemons of one folder. Names: munged, mariadbd, slurmdbd, slurmctld, and every node's."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder, self.env = folder, env

    def start(self, name: str) -> None:
        """Start one that does not run yet. `wait` finds out whether it works."""
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

    def stop(self, name: str) -> None:
        """Ask it to end, and kill it where it does not."""
        end(daemon(self.folder, name), signal.SIGTERM)
        end(daemon(self.folder, name), signal.SIGKILL)

    def kill(self, name: str) -> None:
        end(daemon(self.folder, name), signal.SIGKILL)

    def runs(self, name: str) -> bool:
        """Whether it is there."""
        for _ in range(LOOKS):
            if daemon(self.folder, name):
                return True
            await_executions()
        return False

    def wait(self, name: str, ready: Callable[[], bool], seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until it is ready; TestbedError as soon as it has ended, or after ``seconds``."""
        if not within(seconds, lambda: ready() or not self.runs(name)) or not self.runs(name):
            raise TestbedError(self.last_words(name))

    def last_words(self, name: str) -> str:
        """Whether the daemon runs, and the end of its log."""
        names = (f"{name}.log", f"slurmd-{name}.log", f"{name}.out")
        state = "does not answer" if self.runs(name) else "ended"
        return f"{name} {state}\n{log_tails(self.folder / 'log' / found for found in names)}"

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
            return ["mariadbd", "--no-defaults", "--user=root",
                    f"--datadir={self._database()}", f"--socket={run / 'mariadb.socket'}",
                    f"--pid-file={run / 'mariadbd.pid'}", "--bind-address=127.0.0.1",
                    f"--port={(etc / 'mariadb.port').read_text()}",
                    f"--init-file={etc / 'database.sql'}", "--innodb-buffer-pool-size=64M",
                    "--innodb-lock-wait-timeout=900", *DATABASE_OPTIONS]  # fmt: skip
        return [name, "-D"] if name in ("slurmdbd", "slurmctld") else ["slurmd", "-D", "-N", name]

    def _database(self) -> Path:
        """The folder of the database, with its own tables made where they are missing."""
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
    """This process's environment without what belongs to another cluster or to a job, and with the
    folders of the daemons in its PATH."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
    return kept | {"PATH": search_path()}


def search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def absent(programs: tuple[str, ...]) -> list[str]:
    """Those that are not installed."""
    return [name for name in programs if shutil.which(name, path=search_path()) is None]


def answers(path: Path) -> bool:
    """Does somebody listen at this socket."""
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.connect(str(path))
        return True
    return False
