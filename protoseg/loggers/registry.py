"""The loggers by name: ours and those of other packages, by Python entry points.

A package registers a class in its pyproject.toml, under ``protoseg.loggers``. Reading the entry
points imports none of the classes.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable
from typing import Any

from protoseg.errors import UsageError, describe_unknown_name
from protoseg.loggers.interface import Logger

GROUP = "protoseg.loggers"
METHODS = ("start", "log", "log_metrics", "finish")
BUILT_IN = {
    "jsonl": "protoseg.loggers.jsonl:JsonlLogger",
    "tensorboard": "protoseg.loggers.tensorboard:TensorBoardLogger",
    "wandb": "protoseg.loggers.wandb:WandbLogger",
    "mlflow": "protoseg.loggers.mlflow:MLflowLogger",
}
"""Also in pyproject.toml. An editable installation keeps the entry points of its first day, so the
names are here too."""
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
"""Logger -> the package that it imports; ``pip install 'protoseg[LOGGER]'`` installs it."""


def list_loggers() -> dict[str, str]:
    """List the loggers: name -> ``module:Class``. Our names cannot be replaced."""
    points = importlib.metadata.entry_points(group=GROUP)
    return {point.name: point.value for point in points} | BUILT_IN


def check_loggers(names: Iterable[str], where: str) -> list[str]:
    """Check the names of loggers before a run starts, and return them, each once.

    Args:
        names: the names.
        where: named in error messages, for instance ``--logger``.

    Raises:
        UsageError: an unknown name, or a logger whose package is not installed.
    """
    unique = list(dict.fromkeys(names))
    known = list_loggers()
    for name in unique:
        if name not in known:
            raise UsageError(describe_unknown_name("logger", name, where, known))
        package = PACKAGES.get(name)
        if package and importlib.util.find_spec(package) is None:
            raise UsageError(f"{where}: {describe_missing(name, package)}")
    return unique


def describe_missing(name: str, package: str) -> str:
    """Describe a package that a logger needs, and how to install it."""
    advice = f"pip install 'protoseg[{name}]'" if name in PACKAGES else f"pip install {package}"
    return f"logger {name}: the package {package} is not installed. Run {advice}."


def make_logger(name: str) -> Logger:
    """Import the class of a logger and make an object of it.

    Raises:
        UsageError: an unknown name, or a class without the methods of a logger.
        Exception: whatever the import or the constructor raises.
    """
    known = list_loggers()
    if name not in known:
        raise UsageError(describe_unknown_name("logger", name, GROUP, known))
    module_name, _, attribute = known[name].partition(":")
    logger: Any = getattr(importlib.import_module(module_name), attribute)()
    missing = [method for method in METHODS if not callable(getattr(logger, method, None))]
    if missing:
        raise UsageError(
            f"logger {name}: {known[name]} has no method {missing[0]}. Required: "
            f"{', '.join(METHODS)}. See docs/your_logger.md."
        )
    return logger
