"""Two training loops side by side, an iteration of each at a time: protoseg's and mmengine's."""

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
from protoseg.training.build.components import build_components
from protoseg.training.build.config import build_config, recipe
from protoseg.training.loop import TrainingLoop
from protoseg.training.signals import StopRequest


class Ended(Exception):  # noqa: N818  not an error
    """The benchmark is over; raised inside a loop that would go on."""


class Gate:
    """Lets a loop, which runs in a thread of its own, do one iteration at a call."""

    def __init__(self, train: Callable[[], object]) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._train = train
        self._over = False
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self._go.acquire()
        try:
            self._train()
        except Ended:
            return
        except BaseException as error:
            self._problem = error
        self._done.release()

    def passed(self) -> None:
        """Called by the loop, once an iteration, always at the same place."""
        self._done.release()
        self._go.acquire()
        if self._over:
            raise Ended

    def __call__(self) -> None:
        """One iteration."""
        if self._thread.ident is None:
            self._thread.start()
        self._go.release()
        self._done.acquire()
        if self._problem is not None:
            raise self._problem

    def close(self) -> None:
        """End the loop where it stands."""
        self._over = True
        self._go.release()
        if self._thread.ident is not None:
            self._thread.join()


class GatedStop(StopRequest):
    """The loop asks it once an iteration whether to stop."""

    gate: Gate | None = None

    @property  # type: ignore[override]
    def signal_number(self) -> signal.Signals | None:
        if self.gate is not None:
            self.gate.passed()
        return None

    @signal_number.setter
    def signal_number(self, value: object) -> None:
        pass


def ours(spec: RunSpec, data: Path, place: Path) -> tuple[Gate, TrainingLoop, claim.Claim]:
    """protoseg's loop as the worker runs it: claim with heartbeat, progress, loss curve, log."""
    config = build_config(spec, data_root=find_root(spec.dataset, data))
    folder = RunFolder(place)
    place.mkdir()
    held = claim.acquire(folder.claim)
    assert held is not None
    stop = GatedStop()
    stop.still_mine = held.is_mine
    loop = TrainingLoop(build_components(config, None), folder, spec.schedule.iterations, 1e9, stop)
    stop.gate = Gate(lambda: loop.run(0))
    return stop.gate, loop, held


def forget_log() -> None:
    """Takes the file of a Runner's log out of mmengine's logger, which outlives the Runner."""
    logger = MMLogger.get_current_instance()
    for handler in [one for one in logger.handlers if isinstance(one, logging.FileHandler)]:
        logger.removeHandler(handler)
        handler.close()


def plain(spec: RunSpec, data: Path, place: Path) -> tuple[Gate, Runner]:
    """mmseg's own way: the same config with mmseg's data set, hooks and runtime, and its Runner."""
    root = find_root(spec.dataset, data)
    config = build_config(spec, data_root=root)
    defaults = recipe(spec.schedule.recipe)
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
        "pipeline": [*LOADING, *(step for step in pipeline if step["type"] in MMSEG)],
    }
    iterations = spec.schedule.iterations
    hooks = defaults.default_hooks.to_dict()
    hooks.pop("visualization")  # draws nothing unless told to, and warns of it
    hooks["checkpoint"] = {"type": "CheckpointHook", "by_epoch": False, "interval": 10**9,
                           "save_last": False}  # fmt: skip
    runner = Runner(
        model=config.model,
        work_dir=str(place),
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
        visualizer={**defaults.visualizer.to_dict(), "name": place.parent.name},
        log_processor=defaults.log_processor.to_dict(),
        log_level="INFO",
        default_scope="mmseg",
        randomness={"seed": spec.seed},
        experiment_name=place.parent.name,
    )
    hook.gate = Gate(runner.train)
    return hook.gate, runner


LOADING = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}]
MMSEG = ("RandomResize", "RandomCrop", "RandomFlip", "PhotoMetricDistortion", "PackSegInputs")
"""The steps after loading, which are mmseg's own in both."""


class GateHook(Hook):
    """After everything else that is done in an iteration."""

    priority = "LOWEST"
    gate: Gate | None = None

    def after_train_iter(self, *_: Any, **__: Any) -> None:
        """Wait for the next call."""
        assert self.gate is not None
        self.gate.passed()
