"""The data sets that must be prepared, by the name of the prepared folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from protoseg.config.schema import DatasetSpec
from protoseg.datasets.prepare import (
    ade20k,
    ade20k_full,
    cityscapes,
    coco_stuff,
    lip,
    pascal_person_part,
    pascal_voc,
)
from protoseg.datasets.prepare.steps import Preparation

PREPARATIONS: dict[str, Callable[[Path, DatasetSpec], Preparation]] = {
    "ade20k": ade20k.plan_preparation,
    "ade20k_full": ade20k_full.plan_preparation,
    "cityscapes": cityscapes.plan_preparation,
    "coco_stuff": coco_stuff.plan_preparation,
    "lip": lip.plan_preparation,
    "pascal_person_part": pascal_person_part.plan_preparation,
    "pascal_voc": pascal_voc.plan_preparation,
}
"""`DatasetSpec.place` -> the function from a published folder to a `Preparation`."""
