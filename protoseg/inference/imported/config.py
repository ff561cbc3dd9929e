"""Reads the mmengine config of a network that protoseg did not train.

Used are ``model`` and the preparation of an image (``test_pipeline``, or that of
``test_dataloader``). A config is Python code that runs when it is read.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmseg.registry import TRANSFORMS

from protoseg.errors import UsageError
from protoseg.training.builders.components import use_mmseg
from protoseg.training.builders.config import first_line

LOADERS = {
    "LoadImageFromFile": {"backend_args", "to_float32"},
    "LoadAnnotations": {"backend_args", "reduce_zero_label", "imdecode_backend"},
}
"""Transforms that protoseg's readers replace, and their arguments that change nothing here."""
PACK = "PackSegInputs"
SINGLE_SCALE = "Evaluation is at a single scale without random changes: keep Resize only."


@dataclass(frozen=True)
class ImportedConfig:
    """The parts of a config that an evaluation uses."""

    path: Path
    model: dict[str, Any]
    """mmseg's ``model``, without the auxiliary head and without initial weights."""
    pipeline: list[dict[str, Any]]
    """Transforms between reading and packing an image."""

    @property
    def test_cfg(self) -> dict[str, Any]:
        """mmseg's ``test_cfg``: whole image or sliding window."""
        test_cfg: dict[str, Any] = make_plain(self.model["test_cfg"])
        return test_cfg

    @property
    def sha256(self) -> str:
        """SHA-256 of model and pipeline, 64 hex digits; other parts of the file do not count."""
        content = [make_plain(self.model), make_plain(self.pipeline)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_config(path: Path) -> ImportedConfig:
    """Read a config with ``mmengine.Config.fromfile``.

    Raises:
        UsageError: the file cannot be read, has no model or no test pipeline, or prepares images in
            a way that the evaluation does not.
    """
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file. Name the mmseg config of the weights.")
    try:
        config = Config.fromfile(path)
    except Exception as error:  # the config is code, which can raise anything
        raise UsageError(
            f"{path}: mmengine cannot read this config ({type(error).__name__}: "
            f"{first_line(error)}). Name the config that the weights were trained with."
        ) from error
    model = config.get("model")
    if not isinstance(model, Mapping) or "type" not in model:
        raise UsageError(f"{path}: has no 'model' with a type. Name a config of mmseg 1.x.")
    return ImportedConfig(path, _prepare_model(model), _read_pipeline(config, path))


def check_transforms(config: ImportedConfig) -> None:
    """Build each transform of a config once, so that a wrong one is refused before all work.

    Raises:
        UsageError: a transform is not registered, or refuses its arguments.
    """
    use_mmseg()
    for step in config.pipeline:
        name = make_plain(step.get("type"))
        try:
            TRANSFORMS.build(dict(step))
        except Exception as error:  # the constructors of any package
            is_unknown = isinstance(error, KeyError)
            reason = "mmseg has no transform of this name" if is_unknown else first_line(error)
            raise UsageError(
                f"{config.path}: test_pipeline: {name}: {reason}. Install the package that it "
                "needs and name it in custom_imports, or correct the config."
            ) from error


def make_plain(value: Any) -> Any:
    """Convert a part of a config to JSON types; classes become their names."""
    if isinstance(value, Mapping):
        return {str(key): make_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [make_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__qualname__", None) or repr(value)


def _prepare_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a model without what only training uses; mmseg's ``init_model`` does the same."""
    prepared = {key: copy.deepcopy(value) for key, value in model.items()}
    prepared.pop("auxiliary_head", None)
    prepared.pop("pretrained", None)
    prepared["train_cfg"] = None
    prepared["test_cfg"] = prepared.get("test_cfg") or {"mode": "whole"}
    backbone = prepared.get("backbone")
    if isinstance(backbone, dict):
        backbone.pop("init_cfg", None)
        if "pretrained" in backbone:  # timm would download weights
            backbone["pretrained"] = False if backbone.get("type") == "TIMMBackbone" else None
    return prepared


def _read_pipeline(config: Config, path: Path) -> list[dict[str, Any]]:
    steps = config.get("test_pipeline")
    if steps is None:
        loader = config.get("test_dataloader") or {}
        steps = (loader.get("dataset") or {}).get("pipeline")
    if not isinstance(steps, list | tuple) or not steps:
        raise UsageError(
            f"{path}: has no test_pipeline, so the preparation of images is unknown. Add "
            "test_pipeline = [...] as in the configs of mmseg."
        )
    kept = []
    for step in map(dict, steps):
        name = make_plain(step.get("type")).rpartition(".")[2]
        if name in LOADERS:
            others = {key for key, value in step.items() if value is not None} - LOADERS[name]
            for key in sorted(others - {"type"}):
                raise UsageError(
                    f"{path}: test_pipeline: {name} has the argument '{key}'. Photographs are read "
                    "with three channels and label maps as the data set declares. Remove it."
                )
        elif name.startswith(("Random", "PhotoMetric")) or "Aug" in name:
            raise UsageError(f"{path}: test_pipeline: {name} is refused. {SINGLE_SCALE}")
        elif name != PACK:
            kept.append(step)
    return kept
