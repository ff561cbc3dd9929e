"""The bootstrap over blocks of frames next to the one over single images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from protoseg.report.statistics.bootstrap import bootstrap_differences, frame_blocks
from protoseg.report.statistics.counts import Floats, ImageCounts

SEEDS = 3


def make_run(generator: np.random.Generator, truth: Floats) -> ImageCounts:
    """Make the counts of a run whose accuracy differs from frame to frame."""
    hit = np.floor(truth * generator.uniform(0.6, 0.9, truth.shape))
    return ImageCounts(hit, truth, truth + np.roll(truth - hit, 1, axis=1))


@pytest.mark.parametrize(("frames", "classes"), [(101, 11), (2000, 150)])
def test_blocks(case: Callable[..., None], frames: int, classes: int) -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 5000, (frames, classes)).astype(np.float64)
    sides = [[make_run(generator, truth) for _ in range(SEEDS)] for _ in range(2)]
    blocks = frame_blocks(frames, 10)
    draws = 1000

    def over_blocks() -> Floats:
        return bootstrap_differences(*sides, np.random.default_rng(1), draws, groups=blocks)

    def over_images() -> Floats:
        return bootstrap_differences(*sides, np.random.default_rng(1), draws)

    # Without dependence both estimate the same standard error.
    assert over_blocks().std() == pytest.approx(over_images().std(), rel=0.4)
    name = f"{draws:,} draws, {SEEDS} + {SEEDS} runs, {frames:,} frames, {classes} classes"
    case("bootstrap", name, over_blocks, {"single images": over_images}, rounds=(5, 20))
