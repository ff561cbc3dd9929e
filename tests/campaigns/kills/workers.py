"""The runs and workers of a kill campaign (see campaign.py): small, with all random features on."""

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

from protoseg.config.compose import Composer
from protoseg.config.fields import to_plain
from protoseg.config.identity import run_id
from protoseg.config.overrides import parse_overrides
from protoseg.config.schema import RunSpec
from protoseg.datasets import shapes
from protoseg.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parents[3]
ITERATIONS = 40
PATIENCE = 900.0
"""Time limit of an attempt in seconds; on a busy machine an attempt may take minutes."""
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
# SegFormer's encoder with 1/20 of its width and twice its stochastic depth.
TRANSFORMER = (
    "backbone=mit_b0",
    "backbone.weights=''",
    "backbone.channels=[8,16,40,64]",
    "+backbone.settings.embed_dims=8",
    "+backbone.settings.num_layers=[1,1,1,2]",
    "+backbone.settings.drop_path_rate=0.2",
)
# A memory bank that the iterations fill more than once.
CONTRAST = (
    "contrast=pixel_small",
    "contrast.pixel_queue=40",
    "contrast.region_queue=20",
    "contrast.anchors=64",
    "contrast.positives=32",
    "contrast.negatives=64",
)
TREE = "dataset.hierarchy={ground: null, round: [disk, ring], cornered: [box, triangle, bar]}"
HIERARCHICAL = ("method=hierarchical", "method.triplet_samples=20", TREE)


@dataclass(frozen=True)
class Variant:
    """A training configuration: description and overrides; all use the decoder's dropout."""

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
    Variant("released, K = 3, metrics on the way",
            (*RELEASED, "method.num_prototypes=3", "evaluation.every=3")),
    Variant("parametric, K = 1, metrics on the way, two processes",
            ("method=parametric", "evaluation.every=4"), processes=2),
    Variant("hierarchical, random triplets", HIERARCHICAL),
    Variant("prototype_hierarchical, K = 2, two processes",
            ("method=prototype_hierarchical", "method.num_prototypes=2", TREE), processes=2),
)  # fmt: skip


def composed(variant: Variant, seed: int) -> RunSpec:
    """Compose the spec of a variant with a seed."""
    overrides = (*BASE, "decoder=segformer_64", "backbone=tiny", *variant.overrides)
    overrides = (*overrides, f"seed={seed}")
    settings = [s for _, values in parse_overrides(overrides) for s in values]
    return Composer(ROOT / "experiments").spec(settings, "kill campaign")


def make_run_folder(parent: Path, spec: RunSpec, data: Path) -> RunFolder:
    """Create the folder of a run."""
    folder = RunFolder(parent / run_id(spec))
    folder.create(to_plain(spec), launch_settings(data))
    return folder


def launch_settings(
    data: Path, workers: int = 0, checkpoint_seconds: float = 1e9
) -> dict[str, Any]:
    """Launch settings of one thread."""
    return {
        "data": str(data),
        "weights": str(data / "weights"),
        "threads": 1,
        "workers": workers,
        "checkpoint_seconds": checkpoint_seconds,
    }


def worker_environment(rank: int, size: int, step: int) -> dict[str, str]:
    """Return the variables of a worker; for several processes, those of srun with a false job."""
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
    """The interface of a worker process; `subprocess.Popen` has it too."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit status; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit status."""


@dataclass
class Attempt:
    """The worker processes of one attempt, in their own process group."""

    start_seconds: ClassVar[float] = 6.0
    """Approximate time from the start to the first iteration."""
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
            self.workers.append(self.worker(worker_environment(rank, self.size, self.step), group))

    def worker(self, variables: dict[str, str], group: int) -> Worker:
        """Start the real worker, ``python -m protoseg.training.worker RUN_DIR``."""
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
        """The output file of workers before their log."""
        return self.folder.path.with_suffix(".txt")

    @property
    def group(self) -> int:
        """The id of the process group."""
        return self.workers[0].pid

    def over(self) -> bool:
        """Return whether any of its workers has ended."""
        return any(worker.poll() is not None for worker in self.workers)

    def wait(self, seconds: float = PATIENCE) -> list[int]:
        """Wait for the exit statuses; workers that still run after ``seconds`` are killed.

        Raises:
            TimeoutError, subprocess.TimeoutExpired: a worker still ran.
        """
        end = time.monotonic() + seconds
        try:
            return [worker.wait(max(0.1, end - time.monotonic())) for worker in self.workers]
        finally:
            if any(worker.poll() is None for worker in self.workers):
                self.kill()

    def kill(self) -> None:
        """Kill the whole process group with SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.group, signal.SIGKILL)
        for worker in self.workers:
            worker.wait()

    def loaders(self) -> list[int]:
        """Return the loader processes that run."""
        workers = {worker.pid for worker in self.workers}
        return [
            pid for pid, parent, group in processes() if parent in workers and group == self.group
        ]

    def log(self) -> str:
        """Return the log of this attempt so far."""
        new = [path for path in self._logs() if path not in self._others]
        return new[0].read_text(errors="replace") if new else ""

    def _logs(self) -> list[Path]:
        return list(self.folder.attempts_folder.glob("*/log.txt"))

    def iteration(self) -> int:
        """Return the last trained iteration of this attempt; 0 before the first."""
        iterations = re.findall(r"  iteration (\d+)/", self.log())
        return int(iterations[-1]) if iterations else 0

    def trained(self) -> bool:
        """Return whether only the evaluation is left."""
        log = self.log()
        last = f"iteration {ITERATIONS}/{ITERATIONS}", f"resuming from iteration {ITERATIONS}\n"
        return any(text in log for text in last)


class Child:
    """A forked child of this process with the interface of `Worker`."""

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
    """The same worker, forked from this process, which has imported torch and mmseg."""

    start_seconds: ClassVar[float] = 0.6

    def worker(self, variables: dict[str, str], group: int) -> Child:
        import protoseg.training.run  # noqa: F401
        from protoseg.training import worker

        pid = os.fork()
        if pid:
            with contextlib.suppress(OSError):  # parent and child both set the group
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
    """Return (pid, parent's pid, group) of every process except zombies."""
    rows = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX":
                rows.append((int(path.parent.name), int(fields[1]), int(fields[2])))
    return rows
