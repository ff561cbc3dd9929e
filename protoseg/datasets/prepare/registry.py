"""The data sets that need preparing, by the folder they are prepared into."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from protoseg.config.schema import DatasetSpec
from protoseg.datasets.prepare import ade20k, ade20k_full, cityscapes, coco_stuff, pascal_voc
from protoseg.datasets.prepare.steps import Plan

PLANS: dict[str, Callable[[Path, DatasetSpec], Plan]] = {
    "ade20k": ade20k.plan,
    "ade20k_full": ade20k_full.plan,
    "cityscapes": cityscapes.plan,
    "coco_stuff": coco_stuff.plan,
    "pascal_voc": pascal_voc.plan,
}
"""`DatasetSpec.place` -> from the published folder to a plan."""
