"""The configuration files of the testbed's daemons, as text (see testbed.py).

Every setting that is not SLURM's default says why it is there.
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
"""Version 1 alone: what SLURM 22.05 does with version 2 needs systemd."""
SMALL_QOS_JOBS = 20
"""How many jobs (array tasks) a user may have in the queue at once under ``SMALL_QOS``."""


@dataclass(frozen=True)
class Shape:
    """What the cluster looks like: its nodes, what each claims to have, its book-keeping."""

    nodes: int = 2
    cpus: int = 8
    gpus: int = 8
    memory: int = 64_000
    """MB a node. Claimed like the CPUs; nobody checks it against the machine."""
    accounting: bool = True
    node_timeout: int = 60
    """Seconds after which SLURM gives a silent node up. A busy machine must not look dead."""
    grace: int = 0
    """Seconds between the SIGTERM of a preemption and its requeue, for partition ``batch``."""
    cgroups: bool = False
    """The kernel holds jobs to their memory, and SLURM says OUT_OF_MEMORY. Needs MEMORY_CGROUPS to
    be writable, and a ``name`` of its own: the cgroups of a node are called after it."""
    name: str = "node"

    @property
    def node_names(self) -> tuple[str, ...]:
        return tuple(f"{self.name}{number}" for number in range(1, self.nodes + 1))

    @property
    def node_cgroups(self) -> tuple[Path, ...]:
        """Where SLURM keeps the cgroups of each node's jobs; the one thing outside the folder."""
        names = self.node_names if self.cgroups else ()
        return tuple(MEMORY_CGROUPS / f"slurm_{name}" for name in names)


def write_files(folder: Path, shape: Shape) -> None:
    """Everything the daemons need before they start, with ports that are free now."""
    for name in ("etc", "gpus", "log", "run", "state", *(f"spool/{n}" for n in shape.node_names)):
        (folder / name).mkdir(parents=True)
    for node in shape.node_names:
        for gpu in range(shape.gpus):
            (folder / "gpus" / f"{node}-{gpu}").symlink_to("/dev/null")
    host, etc = socket.gethostname().split(".")[0], folder / "etc"
    ports = dict(
        zip(("slurmctld", "slurmdbd", "mariadbd", *shape.node_names), _ports(), strict=False)
    )
    password = secrets.token_hex(16)
    _private(etc / "munge.key", secrets.token_bytes(128))
    _private(etc / "slurmdbd.conf", slurmdbd_conf(folder, host, ports, password).encode())
    _private(etc / "database.sql", database_sql(password).encode())
    (etc / "mariadb.port").write_text(str(ports["mariadbd"]))
    (etc / "gres.conf").write_text(gres_conf(folder, shape))
    if shape.cgroups:
        (etc / "cgroup.conf").write_text(CGROUP_CONF)
    (etc / "slurm.conf").write_text(slurm_conf(folder, shape, host, ports))


def _private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def _ports() -> Iterator[int]:
    """Free ports, for ever. Below the kernel's own range, or a passing client may take the port of
    a daemon that is being restarted."""
    given: set[int] = set()
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in given:
                given.add(port)
                yield port


def slurm_conf(folder: Path, shape: Shape, host: str, ports: dict[str, int]) -> str:
    """slurm.conf. ``ports`` has one for ``slurmctld``, ``slurmdbd`` and every node."""
    # Without cgroups nothing else stops a job that takes more memory than it asked for.
    memory = "" if shape.cgroups else "JobAcctGatherParams=OverMemoryKill\n"
    lines = f"""\
{memory}ClusterName={CLUSTER}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports["slurmctld"]}
SlurmUser=root
SlurmdUser=root
MailProg=/bin/true

# Everything in one folder, so that two testbeds do not meet.
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
AuthType=auth/munge
# cred_expire is also how long a requeued job waits before it may start again (default 120 s).
AuthInfo=socket={folder}/run/munge.socket,cred_expire=5

# A container may have no cgroups to give away, and has fewer CPUs than the nodes claim.
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

# A job that lost its node or its place starts again by itself.
JobRequeue=1
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE

# A free place is filled within a second or two. A job has time to save after SIGTERM, also on a
# busy machine (default 30).
SlurmdTimeout={shape.node_timeout}
SlurmctldTimeout=15
KillWait=60
SchedulerParameters=sched_interval=5,sched_min_interval=200000,batch_sched_delay=1,bf_interval=2,\
default_queue_depth=2000,bf_max_job_test=2000,preempt_youngest_first
# SLURM's own defaults, written down because tests are about them.
MaxArraySize=1001
MaxJobCount=10000
MinJobAge=300
"""
    if shape.accounting:
        lines += f"""
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports["slurmdbd"]}
# Not a password: where slurmdbd's clients find munge (AuthInfo is not asked for that).
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
        # Its jobs take the place of those in `batch`, and nobody takes theirs.
        f"PartitionName=urgent {everywhere} DefaultTime=60 MaxTime=INFINITE"
        f" PriorityTier=10 PreemptMode=OFF\n"
        f"PartitionName=short {everywhere} DefaultTime=1 MaxTime=2 PriorityTier=1\n"
    )


CGROUP_CONF = f"""\
CgroupPlugin=cgroup/v1
CgroupMountpoint={MEMORY_CGROUPS.parent}
ConstrainRAMSpace=yes
"""


def gres_conf(folder: Path, shape: Shape) -> str:
    """gres.conf: a GPU is a path that leads to a device, which is all SLURM asks of it."""
    numbers = f"[0-{shape.gpus - 1}]" if shape.gpus > 1 else "0"
    return "".join(
        f"NodeName={name} Name=gpu File={folder}/gpus/{name}-{numbers} Flags=nvidia_gpu_env\n"
        for name in shape.node_names
        if shape.gpus
    )


def slurmdbd_conf(folder: Path, host: str, ports: dict[str, int], password: str) -> str:
    """slurmdbd.conf. SLURM wants it readable by its user alone: it holds the password."""
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


def database_sql(password: str) -> str:
    """What the database runs at every start: its one user and its one database."""
    return f"""\
CREATE DATABASE IF NOT EXISTS slurm;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY '{password}';
CREATE USER IF NOT EXISTS 'slurm'@'localhost' IDENTIFIED BY '{password}';
GRANT ALL ON slurm.* TO 'slurm'@'127.0.0.1';
GRANT ALL ON slurm.* TO 'slurm'@'localhost';
"""
