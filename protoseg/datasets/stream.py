"""Deprecated path of `protoseg.datasets.folder_dataset` and `protoseg.datasets.sampler`.

Kept for one release.
"""

import warnings

from protoseg.datasets.folder_dataset import (
    CHECK,
    LoadImageLabels,
    LoadLabels,
    SegmentationFolder,
)
from protoseg.datasets.sampler import SampleRequest as Draw
from protoseg.datasets.sampler import StatelessSampler, permutation

__all__ = [
    "CHECK",
    "Draw",
    "LoadImageLabels",
    "LoadLabels",
    "SegmentationFolder",
    "StatelessSampler",
    "permutation",
]

warnings.warn(
    "protoseg.datasets.stream is deprecated. Import SegmentationFolder, LoadLabels and "
    "LoadImageLabels from protoseg.datasets.folder_dataset; StatelessSampler, permutation and "
    "SampleRequest (was Draw) from protoseg.datasets.sampler.",
    DeprecationWarning,
    stacklevel=2,
)
