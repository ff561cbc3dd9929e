"""The configuration files of the testbed's daemons (see testbed.py).

Comments explain every setting that is not SLURM's default.
"""

from __future__ import annotations

import random
import secrets
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CLUSTER = "testbed"
ACCOUNT = "lab"
SMALL_QOS = "small"
MEMORY_CGROUPS = Path("/sys/fs/cgroup/memory")
"""Only version 1: SLURM 22.05 needs systemd for version 2."""
SMALL_QOS_JOBS = 20
"""Most jobs (array tasks) of a user in the queue under ``SMALL_QOS``."""


@dataclass(frozen=True)
class Shape:
    """The nodes of the cluster, the resources that each claims, and the accounting."""

    nodes: int = 2
    cpus: int = 8
    gpus: int = 8
    memory: int = 64_000
    """MB per node. Claimed like the CPUs, and not compared with the machine."""
    accounting: bool = True
    node_timeout: int = 60
    """Seconds without an answer after which SLURM sets a node down; long, for busy machines."""
    grace: int = 0
    """Seconds between the SIGTERM of a preemption and its requeue, for partition ``batch``."""
    cgroups: bool = False
    """The kernel limits the memory of jobs, and SLURM reports OUT_OF_MEMORY. Needs a writable
    MEMORY_CGROUPS and a unique ``name``: the cgroups are named after the nodes."""
    name: str = "node"

    @property
    def node_names(self) -> tuple[str, ...]:
        return tuple(f"{self.name}{number}" for number in range(1, self.nodes + 1))

    @property
    def node_cgroups(self) -> tuple[Path, ...]:
        """SLURM's cgroup folders of the nodes; the only files outside the testbed's folder."""
        names = self.node_names if self.cgroups else ()
        return tuple(MEMORY_CGROUPS / f"slurm_{name}" for name in names)


def write_files(folder: Path, shape: Shape) -> None:
    """Write all files that the daemons need, with ports that are free now."""
    for name in ("etc", "gpus", "log", "run", "state", *(f"spool/{n}" for n in shape.node_names)):
        (folder / name).mkdir(parents=True)
    for node in shape.node_names:
        for gpu in range(shape.gpus):
            (folder / "gpus" / f"{node}-{gpu}").symlink_to("/dev/null")
    host, etc = socket.gethostname().split(".")[0], folder / "etc"
    ports = dict(
        zip(
            ("slurmctld", "slurmdbd", "mariadbd", *shape.node_names),
            _find_free_ports(),
            strict=False,
        )
    )
    password = secrets.token_hex(16)
    _write_private(etc / "munge.key", secrets.token_bytes(128))
    _write_private(
        etc / "slurmdbd.conf", format_slurmdbd_conf(folder, host, ports, password).encode()
    )
    _write_private(etc / "database.sql", format_database_sql(password).encode())
    (etc / "mariadb.port").write_text(str(ports["mariadbd"]))
    (etc / "gres.conf").write_text(format_gres_conf(folder, shape))
    if shape.cgroups:
        (etc / "cgroup.conf").write_text(CGROUP_CONF)
    (etc / "slurm.conf").write_text(format_slurm_conf(folder, shape, host, ports))


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def _find_free_ports() -> Iterator[int]:
    """Yield free ports below the kernel's ephemeral range.

    In that range a client may take the port of a daemon that restarts.
    """
    used: set[int] = set()
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in used:
                used.add(port)
                yield port


def format_slurm_conf(folder: Path, shape: Shape, host: str, ports: dict[str, int]) -> str:
    """Return slurm.conf; ``ports`` holds one port for slurmctld, slurmdbd and each node."""
    # Without cgroups only this setting stops a job that uses more memory than it requested.
    memory = "" if shape.cgroups else "JobAcctGatherParams=OverMemoryKill\n"
    lines = f"""\
{memory}ClusterName={CLUSTER}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports["slurmctld"]}
SlurmUser=root
SlurmdUser=root
MailProg=/bin/true

# All files in one folder, so that several testbeds can run at once.
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
AuthType=auth/munge
# cred_expire is also the delay before a requeued job starts again (default 120 s).
AuthInfo=socket={folder}/run/munge.socket,cred_expire=5

# A container may have no cgroups, and has fewer CPUs than the nodes claim.
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/{"cgroup" if shape.cgroups else "none"}
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=2

SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=4000
GresTypes=gpu
MpiDefault=none

# SLURM restarts a job after a node failure or a preemption.
JobRequeue=1
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE

# A free slot is filled within about 2 s. KillWait gives jobs on a busy machine time to save after
# SIGTERM (default 30).
SlurmdTimeout={shape.node_timeout}
SlurmctldTimeout=15
KillWait=60
SchedulerParameters=sched_interval=5,sched_min_interval=200000,batch_sched_delay=1,bf_interval=2,\
default_queue_depth=2000,bf_max_job_test=2000,preempt_youngest_first
# SLURM's defaults, written here because tests check them.
MaxArraySize=1001
MaxJobCount=10000
MinJobAge=300
"""
    if shape.accounting:
        lines += f"""
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports["slurmdbd"]}
# Not a password: munge's socket for slurmdbd's clients, which do not use AuthInfo.
AccountingStoragePass={folder}/run/munge.socket
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=limits,qos
"""
    else:
        lines += "\nAccountingStorageType=accounting_storage/none\n"
    gres = f" Gres=gpu:{shape.gpus}" if shape.gpus else ""
    for name in shape.node_names:
        lines += (
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[name]}"
            f" CPUs={shape.cpus} RealMemory={shape.memory}{gres} State=UNKNOWN\n"
        )
    everywhere = f"Nodes={','.join(shape.node_names)} State=UP"
    return lines + (
        f"PartitionName=batch {everywhere} Default=YES DefaultTime=60 MaxTime=INFINITE"
        f" PriorityTier=1 PreemptMode=REQUEUE GraceTime={shape.grace}\n"
        # Its jobs preempt those of `batch`, and cannot be preempted.
        f"PartitionName=urgent {everywhere} DefaultTime=60 MaxTime=INFINITE"
        f" PriorityTier=10 PreemptMode=OFF\n"
        f"PartitionName=short {everywhere} DefaultTime=1 MaxTime=2 PriorityTier=1\n"
    )


CGROUP_CONF = f"""\
CgroupPlugin=cgroup/v1
CgroupMountpoint={MEMORY_CGROUPS.parent}
ConstrainRAMSpace=yes
"""


def format_gres_conf(folder: Path, shape: Shape) -> str:
    """Return gres.conf; SLURM only needs a path to some device for each GPU."""
    numbers = f"[0-{shape.gpus - 1}]" if shape.gpus > 1 else "0"
    return "".join(
        f"NodeName={name} Name=gpu File={folder}/gpus/{name}-{numbers} Flags=nvidia_gpu_env\n"
        for name in shape.node_names
        if shape.gpus
    )


def format_slurmdbd_conf(folder: Path, host: str, ports: dict[str, int], password: str) -> str:
    """Return slurmdbd.conf; it contains the password, so only SLURM's user may read the file."""
    return f"""\
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={ports["slurmdbd"]}
SlurmUser=root
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports["mariadbd"]}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm
"""


def format_database_sql(password: str) -> str:
    """Return the SQL of every database start: it creates one user and one database."""
    return f"""\
CREATE DATABASE IF NOT EXISTS slurm;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY '{password}';
CREATE USER IF NOT EXISTS 'slurm'@'localhost' IDENTIFIED BY '{password}';
GRANT ALL ON slurm.* TO 'slurm'@'127.0.0.1';
GRANT ALL ON slurm.* TO 'slurm'@'localhost';
"""
