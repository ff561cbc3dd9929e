"""protoseg: a benchmark and ablation harness for prototype-based semantic segmentation."""

from __future__ import annotations

import importlib
import os
from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_run"]


def load_run(
    name: str | os.PathLike[str],
    device: str | None = None,
    runs: str | os.PathLike[str] | None = None,
) -> Any:
    """Load the model of a run, to predict images (docs/prediction.md).

    Args:
        name: a run id or a unique part of it; a run folder; or a checkpoint in a run folder.
        device: of torch, such as ``cpu`` or ``cuda:1``; by default a GPU if there is one.
        runs: the folder of runs; by default PROTOSEG_RUNS, or ``runs`` in the checkout.

    Returns:
        A `protoseg.inference.trained_model.TrainedModel`.

    Raises:
        protoseg.errors.ProtosegError: an unknown run or device, or no valid checkpoint.
    """
    # Imported here: torch takes seconds, which planning and tables do not need.
    module = importlib.import_module("protoseg.inference.trained_model")
    return module.load_run(name, device, runs)
