"""Transforms of mmseg by name, ``augmentation.pipeline``."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from mmengine.registry import DefaultScope
from mmseg.registry import TRANSFORMS

from protoseg.config.fields import to_plain
from protoseg.config.schema import RunSpec
from protoseg.datasets.labels import ignored_label
from protoseg.errors import UsageError, find_nearest_name

LOADING = ("Load", "Pack")
"""Beginnings of the names of transforms that read and pack samples, which protoseg adds."""
SEVERAL_IMAGES = ("RandomMosaic", "MultiImageMixDataset")
"""Transforms that combine images of a data set."""
IGNORED = ("ignore_index", "seg_pad_val")
"""Arguments for the ignored label, set to that of the run."""


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


def _make_tuples(value: Any) -> Any:
    """Change lists of numbers to tuples: transforms refuse lists as sizes."""
    if not isinstance(value, list):
        return value
    is_size = all(isinstance(item, int | float) for item in value)
    return tuple(value) if is_size else [_make_tuples(item) for item in value]


def _list_names() -> list[str]:
    registries = (TRANSFORMS, TRANSFORMS.parent)
    return [name for registry in registries for name in registry.module_dict]
