"""A real SLURM cluster on one machine, for tests; its command line is `testbed.__main__`.

Runs munged, mariadbd, slurmdbd, slurmctld and one slurmd per node from Debian's packages
(PACKAGES), as root, on the loopback interface. It writes only to its folder, so several testbeds
can run at once. It needs only the standard library, so it also runs outside the project.
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
from testbed.daemons import (
    Daemons,
    TestbedError,
    accepts_connections,
    clean_environment,
    find_missing,
)
from testbed.processes import (
    end_processes,
    find_all_processes,
    find_job_processes,
    find_node_processes,
    kill_all,
)
from testbed.waiting import DEADLINE_SECONDS, log_tails, poll_until

PACKAGES = "slurm-wlm munge slurmdbd mariadb-server"
PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "srun")
FOLDER = Path(tempfile.gettempdir()) / "protoseg-testbed"
LONGEST_FOLDER = 60
"""Characters. The kernel allows 107 for the paths of the sockets inside."""


def find_problem() -> str:
    """Return why a testbed cannot run here and what to do; empty if it can run."""
    if sys.platform != "linux":
        return "SLURM needs Linux"
    if names := find_missing(PROGRAMS):
        return f"{', '.join(names)} not found; on Debian 12: apt-get install {PACKAGES}"
    if os.geteuid() != 0:
        return "SLURM's daemons need root; run as root, e.g. in a container"
    return ""


class Testbed:
    """One cluster in one folder. Several objects with the same folder control the same cluster.

    Every method waits until it is done. If a daemon ends or the deadline passes
    (DEADLINE_SECONDS), it raises TestbedError with the end of the daemon's log.

    Args:
        folder: folder of the cluster.
        shape: nodes and settings; by default those of the cluster that runs in the folder.
    """

    __test__ = False  # see TestbedError

    def __init__(self, folder: Path | str = FOLDER, shape: Shape | None = None) -> None:
        self.folder = Path(folder).absolute()
        self._shape = shape
        if not re.fullmatch(rf"[\w./-]{{1,{LONGEST_FOLDER}}}", str(self.folder), re.ASCII):
            raise TestbedError(
                f"{self.folder}: SLURM cannot use this folder. Allowed: at most {LONGEST_FOLDER} "
                "letters, digits and _ . / -. Set another --folder."
            )
        self._daemons = Daemons(self.folder, self.env)

    # Properties.

    @property
    def shape(self) -> Shape:
        """The given shape, or that of the cluster that runs in the folder."""
        if self._shape is None and self._shape_file.exists():
            self._shape = Shape(**json.loads(self._shape_file.read_text()))
        return self._shape or Shape()

    @property
    def _shape_file(self) -> Path:
        return self.folder / "testbed.json"

    @property
    def conf(self) -> Path:
        return self.folder / "etc" / "slurm.conf"

    @property
    def env(self) -> dict[str, str]:
        """Variables with which SLURM's commands use this cluster."""
        return {"SLURM_CONF": str(self.conf)}

    @property
    def nodes(self) -> tuple[str, ...]:
        return self.shape.node_names

    @property
    def daemons(self) -> tuple[str, ...]:
        """Names of all daemons, in their start order."""
        accounting = ("mariadbd", "slurmdbd") if self.shape.accounting else ()
        return ("munged", *accounting, "slurmctld", *self.nodes)

    def status(self) -> dict[str, bool]:
        """Return daemon -> whether it runs."""
        return {name: self._daemons.is_running(name) for name in self.daemons}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on this cluster; its exit status never raises."""
        return subprocess.run(
            command, env=clean_environment() | self.env, text=True, capture_output=True,
            timeout=DEADLINE_SECONDS, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def query(self, *command: str) -> str:
        """Run a command on this cluster and return its output.

        Raises:
            TestbedError: the command failed; with its message.
        """
        done = self.run(*command)
        if done.returncode:
            raise TestbedError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout.strip()

    # Start and stop of the whole cluster.

    def up(self) -> Testbed:
        """Start all daemons; if one fails, stop the others again."""
        if problem := find_problem():
            raise TestbedError(problem)
        if find_all_processes(self.folder, self.conf):
            raise TestbedError(f"{self.folder}: a testbed already runs there. `down` stops it.")
        try:
            self._write_files()
            self._daemons.start("munged")
            if self.shape.accounting:
                self.start_accounting()
                self._register_accounts()
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
        """End all processes and jobs, and remove the folder unless ``keep``."""

        left: list[int] = []

        def ended() -> bool:
            # SIGKILL: the folder is removed, so nothing needs to be saved.
            left[:] = end_processes(find_all_processes(self.folder, self.conf), signal.SIGKILL)
            return not find_all_processes(self.folder, self.conf)

        if not poll_until(DEADLINE_SECONDS, ended):
            raise TestbedError(f"these processes do not end: {' '.join(map(str, left))}")
        for cgroup in self.shape.node_cgroups:
            # In a cgroup file system only folders are removed, innermost first.
            for inner in sorted(cgroup.glob("**/"), reverse=True):
                inner.rmdir()
        if not keep and self._shape_file.exists():
            shutil.rmtree(self.folder)

    # Start and stop of single parts.

    def kill_slurmd(self, node: str) -> None:
        """Kill only the node's slurmd with SIGKILL: its jobs still run."""
        self._daemons.kill(node)

    def start_slurmd(self, node: str, seconds: float = DEADLINE_SECONDS) -> None:
        """Start a node's slurmd and wait until it accepts jobs."""
        self._daemons.start(node)
        self.wait_for_node(node, seconds)

    def kill_node(self, node: str) -> None:
        """Kill slurmd, all slurmstepd and all job processes of a node, as if its machine died."""
        self.kill_slurmd(node)
        kill_all(lambda: find_node_processes(self.folder, self.conf, node))

    def declare_down(self, node: str) -> None:
        """Set a node down in SLURM, as SLURM does if slurmd does not answer for a long time."""
        self.query("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")

    def stop_controller(self) -> None:
        self._daemons.stop("slurmctld")

    def start_controller(self) -> None:
        self._daemons.start("slurmctld")
        self._daemons.wait("slurmctld", lambda: self.run("scontrol", "ping").returncode == 0)

    def restart_controller(self) -> None:
        self.stop_controller()
        self.start_controller()

    def stop_accounting(self) -> None:
        """Stop slurmdbd and its database; the controller keeps its data for them."""
        self._daemons.stop("slurmdbd")
        self._daemons.stop("mariadbd")

    def start_accounting(self) -> None:
        database = self.folder / "run" / "mariadb.socket"
        self._daemons.start("mariadbd")
        self._daemons.wait("mariadbd", lambda: accepts_connections(database))
        self._daemons.start("slurmdbd")
        list_clusters = ("sacctmgr", "--noheader", "list", "cluster")
        self._daemons.wait("slurmdbd", lambda: self.run(*list_clusters).returncode == 0)

    def wait_for_node(self, node: str, seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until the node accepts jobs."""
        self._daemons.wait(node, lambda: self._accepts_jobs(node), seconds)

    def wait_until(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait until a condition is true.

        Args:
            what: description of the condition for the error message.
            condition: polled until it returns True.

        Raises:
            TestbedError: the deadline passed; with the queue, the nodes and the controller's log.
        """
        if not poll_until(DEADLINE_SECONDS, condition):
            commands = ("squeue", "--array", "--states=all"), ("sinfo", "--long")
            state = [self.run(*command).stdout for command in commands]
            log = log_tails([self.folder / "log" / "slurmctld.log"])
            raise TestbedError(
                "\n".join([f"waited {DEADLINE_SECONDS:g} s for {what}", *state, log])
            )

    def restore(self) -> None:
        """Restore the state after ``up``: all daemons run, no jobs, the grace time of ``batch``."""
        if not self._daemons.is_running("slurmctld"):
            self.start_controller()
        if self.shape.accounting and not self._daemons.is_running("slurmdbd"):
            self.start_accounting()
        for node in self.nodes:
            if not self._daemons.is_running(node):
                self.start_slurmd(node)
        self.query("scontrol", "update", "PartitionName=batch", f"GraceTime={self.shape.grace}")

        def empty() -> bool:
            left = self.run("squeue", "--noheader")
            if left.returncode == 0 and left.stdout.strip() == "":
                return True
            # In a loop: a job may requeue itself while it is cancelled.
            self.run("scancel", "--user=root")
            # Jobs that ignore SIGTERM would run until KillWait.
            end_processes(find_job_processes(self.conf), signal.SIGKILL)
            return False

        self.wait_until("an empty queue", empty)
        for node in self.resume_nodes():
            self.wait_for_node(node)

    def resume_nodes(self) -> list[str]:
        """Let the nodes that are down or drained accept jobs; return their names."""
        names = [node for node in self.nodes if not self._accepts_jobs(node)]
        for node in names:
            self.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
        return names

    # Helpers.

    def _accepts_jobs(self, node: str) -> bool:
        states = self.run("sinfo", "--noheader", "--nodes", node, "--format", "%T").stdout.split()
        # A planned node is idle and reserved for a pending job.
        return set(states) in ({"idle"}, {"planned"}, {"mixed"}, {"allocated"})

    def _write_files(self) -> None:
        if self.folder.exists() and any(self.folder.iterdir()):
            if not self._shape_file.exists():
                raise TestbedError(f"{self.folder} is not a testbed. Set an empty --folder.")
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._shape_file.write_text(json.dumps(asdict(self.shape)))
        write_files(self.folder, self.shape)

    def _register_accounts(self) -> None:
        """Add the user, account and limits: SLURM accepts jobs only with an association."""
        for command in (
            f"add cluster {CLUSTER}",
            f"add qos {SMALL_QOS} MaxSubmitJobsPerUser={SMALL_QOS_JOBS}",
            f"add account {ACCOUNT} Cluster={CLUSTER}",
            f"add user root Account={ACCOUNT} Cluster={CLUSTER}",
            f"modify user root set DefaultAccount={ACCOUNT} QOS=normal,{SMALL_QOS}",
        ):
            self.query("sacctmgr", "--immediate", *command.split())
