"""The training loops of protoseg and mmengine, each run one iteration per call."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from protoseg.config.schema import RunSpec
from protoseg.datasets.layout import find_root
from protoseg.runs import claim
from protoseg.runs.folder import RunFolder
from protoseg.training.builders.components import build_components
from protoseg.training.builders.config import build_config
from protoseg.training.builders.recipe_files import load_recipe
from protoseg.training.loop import TrainingLoop
from protoseg.training.signals import StopRequest


class LoopEnded(Exception):  # noqa: N818  not an error
    """Raised inside a loop to end it when the benchmark is over."""


class Gate:
    """Runs a training loop in a thread, one iteration per call."""

    def __init__(self, train: Callable[[], object]) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._train = train
        self._is_closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self._go.acquire()
        try:
            self._train()
        except LoopEnded:
            return
        except BaseException as error:
            self._error = error
        self._done.release()

    def wait_for_call(self) -> None:
        """Block the loop until the next call; the loop calls this once per iteration."""
        self._done.release()
        self._go.acquire()
        if self._is_closed:
            raise LoopEnded

    def __call__(self) -> None:
        """Run one iteration."""
        if self._thread.ident is None:
            self._thread.start()
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the loop at its current iteration."""
        self._is_closed = True
        self._go.release()
        if self._thread.ident is not None:
            self._thread.join()


class GatedStop(StopRequest):
    """A stop request that blocks the loop once per iteration, when the loop checks it."""

    gate: Gate | None = None

    @property  # type: ignore[override]
    def signal_number(self) -> signal.Signals | None:
        if self.gate is not None:
            self.gate.wait_for_call()
        return None

    @signal_number.setter
    def signal_number(self, value: object) -> None:
        pass


def build_protoseg_loop(
    spec: RunSpec, data: Path, path: Path
) -> tuple[Gate, TrainingLoop, claim.Claim]:
    """Build protoseg's loop as the worker runs it: claim, heartbeat, progress, loss curve, log."""
    config = build_config(spec, data_root=find_root(spec.dataset, data))
    folder = RunFolder(path)
    path.mkdir()
    run_claim = claim.acquire(folder.claim)
    assert run_claim is not None
    stop = GatedStop()
    stop.still_mine = run_claim.is_mine
    loop = TrainingLoop(build_components(config, None), folder, spec.schedule.iterations, 1e9, stop)
    stop.gate = Gate(lambda: loop.run(0))
    return stop.gate, loop, run_claim


def close_log_files() -> None:
    """Close the log files in mmengine's logger, which remain open after the Runner ends."""
    logger = MMLogger.get_current_instance()
    for handler in [h for h in logger.handlers if isinstance(h, logging.FileHandler)]:
        logger.removeHandler(handler)
        handler.close()


def build_mmengine_loop(spec: RunSpec, data: Path, path: Path) -> tuple[Gate, Runner]:
    """Build mmengine's Runner with the same config, and mmseg's data set, hooks and runtime."""
    root = find_root(spec.dataset, data)
    config = build_config(spec, data_root=root)
    defaults = load_recipe(spec.schedule.recipe)
    loader = dict(config.train_dataloader)
    pipeline = [dict(step) for step in loader["dataset"]["pipeline"]]
    loader["sampler"] = {"type": "InfiniteSampler", "shuffle": True}
    loader["dataset"] = {
        "type": "BaseSegDataset",
        "data_root": str(root),
        "data_prefix": {"img_path": "images/train", "seg_map_path": "annotations/train"},
        "img_suffix": spec.dataset.image_suffix,
        "seg_map_suffix": spec.dataset.annotation_suffix,
        "metainfo": {"classes": spec.dataset.classes},
        "reduce_zero_label": False,
        "pipeline": [*LOADING_STEPS, *(step for step in pipeline if step["type"] in MMSEG_STEPS)],
    }
    iterations = spec.schedule.iterations
    hooks = defaults.default_hooks.to_dict()
    hooks.pop("visualization")  # draws nothing by default, but prints a warning
    hooks["checkpoint"] = {"type": "CheckpointHook", "by_epoch": False, "interval": 10**9,
                           "save_last": False}  # fmt: skip
    runner = Runner(
        model=config.model,
        work_dir=str(path),
        train_dataloader=loader,
        train_cfg={
            "type": "IterBasedTrainLoop",
            "max_iters": iterations,
            "val_interval": 10**9,
        },
        optim_wrapper=config.optim_wrapper,
        param_scheduler=config.param_scheduler,
        default_hooks=hooks,
        custom_hooks=[hook := GateHook()],
        env_cfg=defaults.env_cfg.to_dict(),
        visualizer={**defaults.visualizer.to_dict(), "name": path.parent.name},
        log_processor=defaults.log_processor.to_dict(),
        log_level="INFO",
        default_scope="mmseg",
        randomness={"seed": spec.seed},
        experiment_name=path.parent.name,
    )
    hook.gate = Gate(runner.train)
    return hook.gate, runner


LOADING_STEPS = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}]
MMSEG_STEPS = ("RandomResize", "RandomCrop", "RandomFlip", "PhotoMetricDistortion", "PackSegInputs")
"""Pipeline steps after loading; both loops use those of mmseg."""


class GateHook(Hook):
    """A hook that blocks the loop after all other hooks of an iteration."""

    priority = "LOWEST"
    gate: Gate | None = None

    def after_train_iter(self, *_: Any, **__: Any) -> None:
        """Block until the next call."""
        assert self.gate is not None
        self.gate.wait_for_call()
