"""What a run takes from a model of timm: feature maps, and the normalisation of images."""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass
from typing import Any

import torch

from protoseg import files
from protoseg.config.schema import RunSpec
from protoseg.errors import UsageError, find_nearest_name
from protoseg.models.timm_backbone import TimmBackbone, import_timm

INSTALL = "as at the top of requirements-optional.lock"
OTHER_WEIGHTS = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
"""Arguments of timm that name weights, which ``backbone.weights`` names instead."""


@dataclass(frozen=True)
class TimmModel:
    """Feature maps of a model, and the images that its weights were trained with."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: tuple[float, ...]
    """Red, green, blue, from 0 to 255."""
    std: tuple[float, ...]


def load_timm(where: str) -> Any:
    """Import timm.

    Args:
        where: place named in the error message.

    Raises:
        UsageError: timm is not installed, or cannot be imported.
    """
    try:
        return import_timm()
    except ImportError as error:
        reason = "the package timm is not installed"
        if not (isinstance(error, ModuleNotFoundError) and error.name == "timm"):
            reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UsageError(
            f"{where}: {reason}. Install it ({INSTALL}), or choose another backbone."
        ) from error


def fill_backbone(spec: RunSpec) -> tuple[RunSpec, TimmModel | None]:
    """Complete a spec with the channels of its timm model.

    Returns:
        The spec with ``backbone.channels``, and the model; the unchanged spec and None for a
        backbone that is not of timm.

    Raises:
        UsageError: timm is missing, has no such model, or the model has no feature maps.
    """
    backbone = spec.backbone
    if not backbone.timm_model:
        if backbone.settings.get("type") == "TIMMBackbone":
            load_timm("backbone.settings.type")
        return spec, None
    for key in OTHER_WEIGHTS:
        if key in backbone.settings:
            raise UsageError(
                f"backbone.settings.{key}: a run loads only the weights that backbone.weights "
                "names. Remove it, and set backbone.weights."
            )
    model = _read_model(files.canonical_json(backbone.settings).decode())
    if backbone.channels and backbone.channels != model.channels:
        raise UsageError(
            f"backbone.channels: {list(backbone.channels)}, but the feature maps of "
            f"{backbone.timm_model} have {list(model.channels)}. Set backbone.channels=[]."
        )
    filled = dataclasses.replace(backbone, channels=model.channels)
    return dataclasses.replace(spec, backbone=filled), model


def check_model_name(name: str) -> None:
    """Check that timm has a model with this name, and weights with this tag.

    Raises:
        UsageError: with the nearest names.
    """
    timm = load_timm("backbone.name")
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        guess = find_nearest_name(architecture, timm.list_models())
        hint = f" Did you mean '{guess}'?" if guess else ""
        raise UsageError(
            f"backbone.name: timm {timm.__version__} has no model '{architecture}'.{hint} "
            "python -c 'import timm; print(timm.list_models())' lists all."
        )
    known = [n for n in timm.list_pretrained(f"{architecture}.*") if n.startswith(architecture)]
    if tag and name not in known:
        guess = find_nearest_name(name, known)
        hint = f" Did you mean '{guess}'?" if guess else ""
        raise UsageError(
            f"backbone.name: timm {timm.__version__} has no weights '{tag}' of {architecture}."
            f"{hint} Known: {', '.join(known) or 'none'}."
        )


def get_pretrained_settings(name: str) -> Any:
    """The settings of timm for the weights of a model: address, mean and std of images."""
    return import_timm().get_pretrained_cfg(name)


@functools.cache
def _read_model(settings: str) -> TimmModel:
    """Build a model once, without memory for its weights.

    Args:
        settings: ``backbone.settings`` as JSON.
    """
    arguments = {k: v for k, v in json.loads(settings).items() if k not in ("type", "_delete_")}
    name = str(arguments["model_name"])
    check_model_name(name)
    try:
        with torch.device("meta"):
            network = TimmBackbone(**arguments)
    except Exception as error:  # any model of timm; the constructors are not ours
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UsageError(
            f"backbone.name: timm cannot build {name} with feature maps "
            f"({lines[0].rstrip(' .')}). Choose a model with features_only, or change "
            "backbone.settings."
        ) from error
    images = get_pretrained_settings(name)
    mean, std = (tuple(255 * float(v) for v in values) for values in (images.mean, images.std))
    return TimmModel(network.channels, network.strides, mean, std)
