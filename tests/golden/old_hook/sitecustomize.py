"""Changes the training loop of the old code, in every Python process that has this on its path.

``OLD_PAUSE="SEED ITERATION"``: a training with this seed waits for ever after this iteration, once
its checkpoint is on disk; it writes its process id to the file ``OLD_PAUSED``.
``OLD_FAIL="SEED ITERATION"``: a training with this seed raises an error after this iteration.

The names are those of the old code, which do not change.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import time
from typing import Any

MODULE = "protoseg.training.loop"


class LoopHook(importlib.abc.MetaPathFinder):
    """Imports the module of the training loop and changes its class."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_change(module: Any) -> None:
            execute(module)
            change_loop(module.TrainingLoop)

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


def change_loop(loop_class: Any) -> None:
    """Let trainings pause or fail after an iteration is reported."""
    report = loop_class._report

    def report_and_stop(loop: Any, done: int) -> None:
        report(loop, done)
        if is_at("OLD_FAIL", loop, done):
            raise RuntimeError("the test fails this run")
        if is_at("OLD_PAUSE", loop, done):
            path = os.environ["OLD_PAUSED"]
            with open(f"{path}.new", "w") as file:
                file.write(str(os.getpid()))
            os.replace(f"{path}.new", path)
            while True:
                time.sleep(0.1)

    loop_class._report = report_and_stop


def is_at(variable: str, loop: Any, done: int) -> bool:
    """Whether a variable names the seed of this training and this iteration."""
    seed, iteration = os.environ.get(variable, "0 0").split()
    return f"-s{seed}-" in loop.folder.run_id and done == int(iteration)


sys.meta_path.insert(0, LoopHook())
