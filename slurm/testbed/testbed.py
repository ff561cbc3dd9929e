"""A real SLURM cluster on one machine, for tests; its command line is `testbed.__main__`.

Runs munged, mariadbd, slurmdbd, slurmctld and one slurmd a node from Debian's packages (PACKAGES),
as root, on the loopback interface. It writes only to its folder; several testbeds with different
folders can run at once. Uses the standard library only, so that it also runs outside the project.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from testbed.conf import ACCOUNT, CLUSTER, SMALL_QOS, SMALL_QOS_JOBS, Shape, write_files
from testbed.daemons import Daemons, TestbedError, absent, answers, clean_environment
from testbed.processes import all_processes, end, job_processes, kill_all, node_processes
from testbed.waiting import DEADLINE_SECONDS, log_tails, within

PACKAGES = "slurm-wlm munge slurmdbd mariadb-server"
PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "srun")
FOLDER = Path(tempfile.gettempdir()) / "protoseg-testbed"
LONGEST_FOLDER = 60
"""Characters. The sockets inside have to stay below the kernel's 107."""


def missing() -> str:
    """Why a testbed can not run here and what to do about it; empty where it can."""
    if sys.platform != "linux":
        return "SLURM runs on Linux only"
    if names := absent(PROGRAMS):
        return f"{', '.join(names)} not found; on Debian 12: apt-get install {PACKAGES}"
    if os.geteuid() != 0:
        return "SLURM's daemons need root here; run as root, e.g. in a container"
    return ""


class Testbed:
    """One cluster in one folder. A second object with the same folder finds what the first started.

    Every method waits until what it does is done, and raises TestbedError with the end of the
    daemon's log if a daemon ends or the deadline passes (DEADLINE_SECONDS).
    """

    __test__ = False  # see TestbedError

    def __init__(self, folder: Path | str = FOLDER, shape: Shape | None = None) -> None:
        self.folder = Path(folder).absolute()
        self._shape = shape
        if not re.fullmatch(rf"[\w./-]{{1,{LONGEST_FOLDER}}}", str(self.folder), re.ASCII):
            raise TestbedError(
                f"{self.folder}: letters, digits and _ . / - alone, and {LONGEST_FOLDER} of them "
                "at most, or SLURM does not find its files and sockets; name another --folder"
            )
        self._daemons = Daemons(self.folder, self.env)

    # What it is.

    @property
    def shape(self) -> Shape:
        """As asked for, or as the testbed in this folder was started."""
        if self._shape is None and self._known.exists():
            self._shape = Shape(**json.loads(self._known.read_text()))
        return self._shape or Shape()

    @property
    def _known(self) -> Path:
        return self.folder / "testbed.json"

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

    def status(self) -> dict[str, bool]:
        """Daemon -> does it run."""
        return {name: self._daemons.runs(name) for name in self.daemons}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command that talks to this cluster. Never raises for its exit status."""
        return subprocess.run(
            command, env=clean_environment() | self.env, text=True, capture_output=True,
            timeout=DEADLINE_SECONDS, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def ask(self, *command: str) -> str:
        """What a command answers; TestbedError with its message where it fails."""
        done = self.run(*command)
        if done.returncode:
            raise TestbedError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout.strip()

    # Up and down.

    def up(self) -> Testbed:
        """Starts all of it, or nothing: a daemon that fails takes the others down again."""
        if problem := missing():
            raise TestbedError(problem)
        if all_processes(self.folder, self.conf):
            raise TestbedError(f"{self.folder}: a testbed runs there already; `down` ends it")
        try:
            self._write()
            self._daemons.start("munged")
            if self.shape.accounting:
                self.start_accounting()
                self._register()
            self.start_controller()
            for node in self.nodes:
                self._daemons.start(node)
            for node in self.nodes:
                self.wait_for_node(node)
        except BaseException:
            self.down(keep=True)
            raise
        return self

    def down(self, keep: bool = False) -> None:
        """Ends every process, jobs included, and removes the folder (``keep``: leaves it)."""

        left: list[int] = []

        def ended() -> bool:
            # Not SIGTERM: what they would still write is thrown away in a moment.
            left[:] = end(all_processes(self.folder, self.conf), signal.SIGKILL)
            return not all_processes(self.folder, self.conf)

        if not within(DEADLINE_SECONDS, ended):
            raise TestbedError(f"these processes do not end: {' '.join(map(str, left))}")
        for cgroup in self.shape.node_cgroups:
            # A file system of the kernel's: folders go one by one, the files in them by themselves.
            for inner in sorted(cgroup.glob("**/"), reverse=True):
                inner.rmdir()
        if not keep and self._known.exists():
            shutil.rmtree(self.folder)

    # One part at a time.

    def kill_slurmd(self, node: str) -> None:
        """SIGKILL to the node's slurmd alone: its jobs go on, nobody answers for them."""
        self._daemons.kill(node)

    def start_slurmd(self, node: str, seconds: float = DEADLINE_SECONDS) -> None:
        self._daemons.start(node)
        self.wait_for_node(node, seconds)

    def kill_node(self, node: str) -> None:
        """The machine is dead: SIGKILL to slurmd, every slurmstepd and every process of a job."""
        self.kill_slurmd(node)
        kill_all(lambda: node_processes(self.folder, self.conf, node))

    def declare_down(self, node: str) -> None:
        """Let SLURM give a node up at once, as it does by itself when slurmd is silent for long."""
        self.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")

    def stop_controller(self) -> None:
        self._daemons.stop("slurmctld")

    def start_controller(self) -> None:
        self._daemons.start("slurmctld")
        self._daemons.wait("slurmctld", lambda: self.run("scontrol", "ping").returncode == 0)

    def restart_controller(self) -> None:
        self.stop_controller()
        self.start_controller()

    def stop_accounting(self) -> None:
        """slurmdbd and its database stop answering; the controller keeps what it has to tell."""
        self._daemons.stop("slurmdbd")
        self._daemons.stop("mariadbd")

    def start_accounting(self) -> None:
        database = self.folder / "run" / "mariadb.socket"
        self._daemons.start("mariadbd")
        self._daemons.wait("mariadbd", lambda: answers(database))
        self._daemons.start("slurmdbd")
        known = ("sacctmgr", "--noheader", "list", "cluster")
        self._daemons.wait("slurmdbd", lambda: self.run(*known).returncode == 0)

    def wait_for_node(self, node: str, seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until the node takes jobs."""
        self._daemons.wait(node, lambda: self._takes_jobs(node), seconds)

    def wait_until(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait until a condition is true.

        Raises:
            TestbedError: the deadline passed; with the queue, the nodes and the controller's log.
        """
        if not within(DEADLINE_SECONDS, condition):
            state = [
                self.run(*command).stdout
                for command in (("squeue", "--array", "--states=all"), ("sinfo", "--long"))
            ]
            log = log_tails([self.folder / "log" / "slurmctld.log"])
            raise TestbedError(
                "\n".join([f"waited {DEADLINE_SECONDS:g} s for {what}", *state, log])
            )

    def restore(self) -> None:
        """As after ``up``: every daemon runs, the queue is empty, ``batch`` has its grace time."""
        if not self._daemons.runs("slurmctld"):
            self.start_controller()
        if self.shape.accounting and not self._daemons.runs("slurmdbd"):
            self.start_accounting()
        for node in self.nodes:
            if not self._daemons.runs(node):
                self.start_slurmd(node)
        self.ask("scontrol", "update", "PartitionName=batch", f"GraceTime={self.shape.grace}")

        def empty() -> bool:
            left = self.run("squeue", "--noheader")
            if left.returncode == 0 and left.stdout.strip() == "":
                return True
            # Again and again: a job may requeue itself while it is being cancelled.
            self.run("scancel", "--user=root")
            # Those that ignore SIGTERM would have KillWait.
            end(job_processes(self.conf), signal.SIGKILL)
            return False

        self.wait_until("an empty queue", empty)
        for node in self.nodes:
            if not self._takes_jobs(node):
                self.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
                self.wait_for_node(node)

    # Underneath.

    def _takes_jobs(self, node: str) -> bool:
        states = self.run("sinfo", "--noheader", "--nodes", node, "--format", "%T").stdout.split()
        # A planned node is idle: the scheduler means it for a job that still waits for others.
        return set(states) in ({"idle"}, {"planned"}, {"mixed"}, {"allocated"})

    def _write(self) -> None:
        if self.folder.exists() and any(self.folder.iterdir()):
            if not self._known.exists():
                raise TestbedError(f"{self.folder} holds something else; name an empty --folder")
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._known.write_text(json.dumps(asdict(self.shape)))
        write_files(self.folder, self.shape)

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
