"""The two sets of classes that a mean over classes can have."""

from __future__ import annotations

import numpy as np
import pytest

from protoseg.report.statistics.class_sets import averaged_classes, miou_over, present_classes
from protoseg.report.statistics.counts import ImageCounts

COUNTS = ImageCounts(
    hit=np.array([[4.0, 0.0, 0.0, 0.0], [2.0, 0.0, 1.0, 0.0]]),
    truth=np.array([[5.0, 0.0, 1.0, 0.0], [5.0, 0.0, 1.0, 0.0]]),
    union=np.array([[6.0, 1.0, 1.0, 0.0], [6.0, 1.0, 1.0, 0.0]]),
)
"""Two images: class 1 is predicted and not in the ground truth, class 3 is neither."""


def test_classes_that_are_only_predicted_are_averaged_but_not_present() -> None:
    assert averaged_classes(COUNTS).tolist() == [True, True, True, False]
    assert present_classes(COUNTS).tolist() == [True, False, True, False]


def test_miou_over_both_sets() -> None:
    assert miou_over(COUNTS, averaged_classes(COUNTS)) == pytest.approx(100 * (0.5 + 0 + 0.5) / 3)
    assert miou_over(COUNTS, present_classes(COUNTS)) == pytest.approx(50.0)
    everything = np.ones(4, dtype=bool)
    assert miou_over(COUNTS, everything) == miou_over(COUNTS, averaged_classes(COUNTS))
    assert miou_over(COUNTS, np.array([False, False, False, True])) == 0
