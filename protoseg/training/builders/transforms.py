"""Transforms of mmseg by name, ``augmentation.pipeline``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from mmengine.registry import DefaultScope
from mmseg.registry import TRANSFORMS

from protoseg.config.fields import to_plain
from protoseg.config.schema import DatasetSpec, RunSpec
from protoseg.datasets.labels import ignored_label, list_flip_pairs
from protoseg.errors import UsageError, find_nearest_name

LOADING = ("Load", "Pack")
"""Beginnings of the names of transforms that read and pack samples, which protoseg adds."""
SEVERAL_IMAGES = ("RandomMosaic", "MultiImageMixDataset")
"""Transforms that combine images of a data set."""
IGNORED = ("ignore_index", "seg_pad_val")
"""Arguments for the ignored label, set to that of the run."""
SWAP = "swap_seg_labels"
"""Argument of mmseg's ``RandomFlip``: the pairs of class numbers that it swaps."""
MIRRORING = ("RandomRotFlip", "BioMedical3DRandomFlip", "Albu")
"""Other transforms of mmseg that can mirror an image; they swap no classes, or others."""


def make_flip_settings(dataset: DatasetSpec) -> dict[str, Any]:
    """The settings of ``RandomFlip`` that swap the ``flip_pairs``; empty without them."""
    pairs = list_flip_pairs(dataset)
    return {SWAP: pairs} if pairs else {}


def build_pipeline(spec: RunSpec) -> list[dict[str, Any]]:
    """Build the settings of the transforms of ``augmentation.pipeline``.

    Raises:
        UsageError: an unknown transform, settings that it refuses, or one that does not fit.
    """
    importlib.import_module("mmseg.datasets.transforms")
    steps = []
    for index, step in enumerate(spec.augmentation.pipeline):
        where = f"augmentation.pipeline[{index}]"
        name = step.get("type")
        if not isinstance(name, str):
            raise UsageError(f"{where}: names no transform. Set type, e.g. type: RandomFlip.")
        if name.startswith(LOADING) or name in SEVERAL_IMAGES:
            raise UsageError(
                f"{where}: {name} does not fit: protoseg reads, draws and packs the samples. "
                "Remove it."
            )
        settings = {key: _make_tuples(value) for key, value in to_plain(step).items()}
        if "transforms" in settings:
            raise UsageError(
                f"{where}: {name} holds other transforms, which is not supported. Name each "
                "transform in the list, most of them have a probability."
            )
        with DefaultScope.overwrite_default_scope("mmseg"):
            cls = TRANSFORMS.get(name)
        if cls is None:
            guess = find_nearest_name(name, _list_names())
            hint = f" Did you mean '{guess}'?" if guess else ""
            raise UsageError(f"{where}: mmseg has no transform '{name}'.{hint} See its docs.")
        if spec.dataset.flip_pairs:
            _check_mirroring(where, cls.__name__, settings)
            if SWAP in inspect.signature(cls).parameters:
                settings |= make_flip_settings(spec.dataset)
        for key in IGNORED:
            if key in inspect.signature(cls).parameters:
                settings.setdefault(key, ignored_label(spec.dataset))
        if name == "Pad":
            settings.setdefault("pad_val", {"img": 0, "seg": ignored_label(spec.dataset)})
        try:
            with DefaultScope.overwrite_default_scope("mmseg"):
                TRANSFORMS.build(dict(settings))
        except Exception as error:  # the constructors are not ours
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(" .")
            raise UsageError(f"{where}: {name} cannot be built: {reason}. Correct it.") from error
        steps.append(settings)
    if not any("Crop" in step["type"] for step in steps):
        height, width = spec.augmentation.crop_size
        raise UsageError(
            "augmentation.pipeline: no transform crops, so images larger than crop_size would be "
            f"trained whole. Add {{type: RandomCrop, crop_size: [{height}, {width}]}}."
        )
    return steps


def _check_mirroring(where: str, name: str, settings: Mapping[str, Any]) -> None:
    """Refuse a transform that would mirror an image without swapping its ``flip_pairs``."""
    if name in MIRRORING:
        raise UsageError(
            f"{where}: {name} can mirror an image, but it does not swap dataset.flip_pairs. Use "
            "RandomFlip."
        )
    if SWAP in settings:
        raise UsageError(
            f"{where}: {SWAP} is set by dataset.flip_pairs. Remove it here, or change the pairs."
        )
    if name == "RandomFlip" and "diagonal" in settings.get("direction", ""):
        raise UsageError(
            f"{where}: a diagonal flip turns an image by 180 degrees, so left and right stay, but "
            "RandomFlip would swap dataset.flip_pairs. Use horizontal or vertical."
        )


def _make_tuples(value: Any) -> Any:
    """Change lists of numbers to tuples: transforms refuse lists as sizes."""
    if not isinstance(value, list):
        return value
    is_size = all(isinstance(item, int | float) for item in value)
    return tuple(value) if is_size else [_make_tuples(item) for item in value]


def _list_names() -> list[str]:
    registries = (TRANSFORMS, TRANSFORMS.parent)
    return [name for registry in registries for name in registry.module_dict]
