"""The classes that a mean over classes averages: as MMSegmentation does, or those of the images.

MMSegmentation averages the classes with a pixel in the ground truth or in the prediction. A class
without ground truth that a model predicts counts with IoU 0, so two models may be averaged over
different classes. The classes with ground truth are the same for all models of one split.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protoseg.report.statistics.bootstrap import miou
from protoseg.report.statistics.counts import ImageCounts

ClassMask = NDArray[np.bool_]
"""One value per class, (C,): whether the mean includes it."""


def averaged_classes(counts: ImageCounts) -> ClassMask:
    """Return the classes with pixels in the ground truth or in the predictions, as mmseg."""
    return np.asarray(counts.union.sum(0) > 0)


def present_classes(counts: ImageCounts) -> ClassMask:
    """Return the classes with pixels in the ground truth of the split."""
    return np.asarray(counts.truth.sum(0) > 0)


def miou_over(counts: ImageCounts, classes: ClassMask) -> float:
    """Compute the mIoU of a run over some classes.

    Args:
        counts: the counts of all images of the split.
        classes: the classes of the mean. One without a pixel in the union is left out, because
            its IoU is 0 / 0.

    Returns:
        mIoU in percent; 0 if no class remains.
    """
    return float(miou(counts.hit.sum(0), counts.union.sum(0), classes))
