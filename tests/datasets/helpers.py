"""Helpers of several tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from protoseg.config.fields import build
from protoseg.config.schema import DatasetSpec

REPOSITORY = Path(__file__).parents[2]


def write_labels(path: Path, labels: np.ndarray) -> None:
    """Write a label map."""
    Image.fromarray(labels).save(path)


def read_spec(name: str) -> DatasetSpec:
    """The data set of ``experiments/dataset/<name>.yaml``."""
    path = REPOSITORY / "experiments" / "dataset" / f"{name}.yaml"
    fields: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    fields.pop("defaults", None)  # a key of Hydra
    fields.pop("hierarchy", None)  # the composer reads it
    return build(DatasetSpec, fields, str(path))
