"""Old path of `protoseg.datasets.folder_dataset` and `sampler`, kept for one release."""

from protoseg.datasets.folder_dataset import (
    CHECK,
    LoadImageLabels,
    LoadLabels,
    SegmentationFolder,
)
from protoseg.datasets.sampler import SampleRequest as Draw
from protoseg.datasets.sampler import StatelessSampler, permutation
from protoseg.deprecation import warn_moved

__all__ = [
    "CHECK",
    "Draw",
    "LoadImageLabels",
    "LoadLabels",
    "SegmentationFolder",
    "StatelessSampler",
    "permutation",
]

warn_moved(__name__, "protoseg.datasets.folder_dataset", "protoseg.datasets.sampler")
