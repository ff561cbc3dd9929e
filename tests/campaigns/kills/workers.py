"""The runs of a kill campaign (campaign.py): small and real, with all that is random on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from protoseg.config.compose import Composer, parse_overrides
from protoseg.config.fields import plain
from protoseg.config.identity import run_id
from protoseg.config.schema import RunSpec
from protoseg.datasets import shapes
from protoseg.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parents[3]
ITERATIONS = 40
PATIENCE = 900.0
"""Seconds after which an attempt hangs; on a machine with much else to do it may take minutes."""
GENERATOR = {"name": "shapes", "version": 1, "seed": 0, "size": 48, "train": 16, "val": 48}
BASE = (
    *(f"dataset.generator.{key}={value}" for key, value in GENERATOR.items()),
    f"dataset.digest={shapes.generator_digest(GENERATOR)}",
    f"dataset.counts.train={GENERATOR['train']}",
    f"dataset.counts.val={GENERATOR['val']}",
    "augmentation.scale=[48,48]",
    "augmentation.crop_size=[48,48]",
    "augmentation.photometric=true",
    f"schedule.iterations={ITERATIONS}",
    "schedule.batch_size=4",
    "schedule.warmup_iterations=7",
)
PAPER = ("method=paper", "method.momentum=0.9")
RELEASED = ("method=released", "method.momentum=0.9")
# SegFormer's encoder, a twentieth as wide; its stochastic depth is that of the recipe, doubled.
TRANSFORMER = (
    "backbone=mit_b0",
    "backbone.weights=''",
    "backbone.channels=[8,16,40,64]",
    "+backbone.settings.embed_dims=8",
    "+backbone.settings.num_layers=[1,1,1,2]",
    "+backbone.settings.drop_path_rate=0.2",
)
# A memory that this many iterations fill and turn over.
CONTRAST = (
    "contrast=pixel_small",
    "contrast.pixel_queue=40",
    "contrast.region_queue=20",
    "contrast.anchors=64",
    "contrast.positives=32",
    "contrast.negatives=64",
)


@dataclass(frozen=True)
class Variant:
    """A way to train, in words and in overrides; all have the decoder's dropout."""

    words: str
    overrides: tuple[str, ...]
    processes: int = 1


VARIANTS = (
    Variant("released, K = 3", (*RELEASED, "method.num_prototypes=3")),
    Variant("parametric, K = 1", ("method=parametric",)),
    Variant("paper, K = 3", (*PAPER, "method.num_prototypes=3")),
    Variant(
        "released, K = 2, two processes", (*RELEASED, "method.num_prototypes=2"), processes=2
    ),
    Variant("parametric, K = 3", ("method=parametric", "method.num_prototypes=3")),
    Variant(
        "released, K = 3, stochastic depth",
        (*RELEASED, "method.num_prototypes=3", *TRANSFORMER),
    ),
    Variant("paper, K = 1", (*PAPER, "method.num_prototypes=1")),
    Variant("released, K = 1, bf16", (*RELEASED, "method.num_prototypes=1", "precision=bf16")),
    Variant(
        "paper, K = 2, from pixels, Euclidean",
        (*PAPER, "method.num_prototypes=2", "method.init=pixels", "method.distance=euclidean"),
    ),
    Variant(
        "parametric, K = 1, auxiliary head, stochastic depth",
        ("method=parametric", *TRANSFORMER, "decoder=upernet", "decoder.channels=16",
         "decoder.auxiliary=true"),
    ),
    Variant("parametric, K = 1, two processes", ("method=parametric",), processes=2),
    Variant("released, K = 2, pixel contrast",
            (*RELEASED, "method.num_prototypes=2", *CONTRAST)),
    Variant("parametric, K = 1, pixel contrast, two processes",
            ("method=parametric", *CONTRAST), processes=2),
)  # fmt: skip


def composed(variant: Variant, seed: int) -> RunSpec:
    """The spec of a variant with a seed."""
    overrides = (*BASE, "decoder=segformer_64", "backbone=tiny", *variant.overrides)
    overrides = (*overrides, f"seed={seed}")
    settings = [s for _, values in parse_overrides(overrides) for s in values]
    return Composer(ROOT / "experiments").spec(settings, "kill campaign")


def make(place: Path, spec: RunSpec, data: Path) -> RunFolder:
    """The folder of a run that waits for its worker."""
    folder = RunFolder(place / run_id(spec))
    folder.create(plain(spec), launch(data))
    return folder


def launch(data: Path, workers: int = 0, checkpoint_seconds: float = 1e9) -> dict[str, Any]:
    """Launch settings of one thread."""
    return {
        "data": str(data),
        "weights": str(data / "weights"),
        "threads": 1,
        "workers": workers,
        "checkpoint_seconds": checkpoint_seconds,
    }


def environment(rank: int, size: int, step: int) -> dict[str, str]:
    """The variables of a worker; of several, those that srun would set for a job nobody knows."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    clean |= {"OMP_NUM_THREADS": "1"}
    if size == 1:
        return clean
    return {
        **clean,
        "SLURM_CONF": "/dev/null",
        "SLURM_JOB_ID": "4000000000",
        "SLURM_RESTART_COUNT": "0",
        "SLURM_STEP_ID": str(step),
        "SLURM_STEP_NUM_TASKS": str(size),
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURMD_NODENAME": "node1",
    }


class Worker(Protocol):
    """What an attempt needs to know of a process; a `subprocess.Popen` is one."""

    pid: int

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, once it has ended."""


@dataclass
class Attempt:
    """The worker processes of one attempt, in a process group of their own."""

    start_seconds: ClassVar[float] = 6.0
    """From the start to the first iteration, about."""
    folder: RunFolder
    size: int
    step: int
    workers: list[Worker] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Start the workers."""
        self._others = set(self._logs())
        for rank in range(self.size):
            group = self.workers[0].pid if self.workers else 0
            self.workers.append(self.worker(environment(rank, self.size, self.step), group))

    def worker(self, variables: dict[str, str], group: int) -> Worker:
        """The real worker, ``python -m protoseg.training.worker RUN_DIR``."""
        with open(self.beside, "ab") as beside:
            return subprocess.Popen(
                [sys.executable, "-m", "protoseg.training.worker", str(self.folder.path)],
                cwd=ROOT,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=beside,
                stderr=beside,
                process_group=group,
            )

    @property
    def beside(self) -> Path:
        """What workers print that have no log yet."""
        return self.folder.path.with_suffix(".txt")

    @property
    def group(self) -> int:
        """The number of its process group."""
        return self.workers[0].pid

    def over(self) -> bool:
        """Whether any of its workers has ended."""
        return any(worker.poll() is not None for worker in self.workers)

    def wait(self, seconds: float = PATIENCE) -> list[int]:
        """The exit statuses; what has not ended by then is killed and raises."""
        end = time.monotonic() + seconds
        try:
            return [worker.wait(max(0.1, end - time.monotonic())) for worker in self.workers]
        finally:
            if any(worker.poll() is None for worker in self.workers):
                self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole group, as far as it still lives."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.group, signal.SIGKILL)
        for worker in self.workers:
            worker.wait()

    def loaders(self) -> list[int]:
        """The loader processes alive."""
        mine = {worker.pid for worker in self.workers}
        return [pid for pid, parent, group in processes() if parent in mine and group == self.group]

    def log(self) -> str:
        """What this attempt has written into its log so far."""
        new = [path for path in self._logs() if path not in self._others]
        return new[0].read_text(errors="replace") if new else ""

    def _logs(self) -> list[Path]:
        return list(self.folder.attempts_folder.glob("*/log.txt"))

    def iteration(self) -> int:
        """The last iteration that this attempt has trained; 0 before the first."""
        found = re.findall(r"  iteration (\d+)/", self.log())
        return int(found[-1]) if found else 0

    def trained(self) -> bool:
        """Whether nothing but the evaluation is left."""
        text = self.log()
        whole = f"iteration {ITERATIONS}/{ITERATIONS}", f"going on from iteration {ITERATIONS}\n"
        return any(words in text for words in whole)


class Child:
    """A child of this process, with as much of `subprocess.Popen` as is needed."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None

    def poll(self) -> int | None:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (timeout or 60)
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                raise TimeoutError(f"process {self.pid} does not end")
            time.sleep(0.005)
        return status


class ForkedAttempt(Attempt):
    """The same worker, forked from this process, which has imported torch and mmseg for it."""

    start_seconds: ClassVar[float] = 0.6

    def worker(self, variables: dict[str, str], group: int) -> Child:
        import protoseg.training.run  # noqa: F401
        from protoseg.training import worker

        pid = os.fork()
        if pid:
            with contextlib.suppress(OSError):  # whoever of the two comes first
                os.setpgid(pid, group)
            return Child(pid)
        status = 70
        try:
            os.setpgid(0, group)
            os.environ.clear()
            os.environ.update(variables)
            beside = os.open(self.beside, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            for number in (1, 2):
                os.dup2(beside, number)
            sys.stdout = sys.stderr = open(1, "w", closefd=False)  # noqa: SIM115
            status = worker.main([str(self.folder.path)])
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)


def processes() -> list[tuple[int, int, int]]:
    """Every process of this machine that is no zombie: its number, its parent's, its group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX":
                found.append((int(path.parent.name), int(fields[1]), int(fields[2])))
    return found
