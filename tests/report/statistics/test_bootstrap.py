"""The bootstrap over images, compared with a loop and with simulated data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from protoseg.errors import ProtosegError
from protoseg.report.statistics import bootstrap
from protoseg.report.statistics.counts import ImageCounts


def make_counts(generator: np.random.Generator, truth: Any, accuracy: float) -> ImageCounts:
    """Counts of a model with this accuracy for the pixels of each class."""
    classes = truth.shape[1]
    hit = generator.binomial(truth.astype(int), accuracy).astype(float)
    wrong = (truth - hit).sum(1).astype(int)
    stray = np.array([generator.multinomial(w, np.full(classes, 1 / classes)) for w in wrong])
    return ImageCounts(hit, truth, truth + stray)


def make_truth(generator: np.random.Generator, images: int, classes: int = 5) -> Any:
    return generator.integers(0, 300, (images, classes)) * generator.integers(
        0, 2, (images, classes)
    ).astype(float)


def slow_miou(run: ImageCounts, images: Any) -> float:
    """mIoU of the images of a draw, computed in loops over classes and images."""
    values = []
    for c in range(run.hit.shape[1]):
        union = sum(run.union[i, c] for i in images)
        if union:
            values.append(sum(run.hit[i, c] for i in images) / union)
    return 100 * sum(values) / len(values)


def test_the_bootstrap_agrees_with_a_loop_over_draws() -> None:
    generator = np.random.default_rng(0)
    truth = make_truth(generator, 9)
    truth[:, 4] = 0  # a class that only predictions contain, and that some draws lack
    ours = [make_counts(generator, truth, accuracy) for accuracy in (0.8, 0.82)]
    theirs = [make_counts(generator, truth, 0.7)]
    differences = bootstrap.bootstrap_differences(ours, theirs, np.random.default_rng(5), 300)
    drawn = np.random.default_rng(5)
    for start in range(0, 300, bootstrap.CHUNK):
        size = min(bootstrap.CHUNK, 300 - start)
        for row, images in enumerate(bootstrap.draw_images(drawn, size, 9)):
            expected = np.mean([slow_miou(r, images) for r in ours]) - slow_miou(theirs[0], images)
            assert differences[start + row] == pytest.approx(expected, abs=1e-9)


def test_classes_without_pixels_are_left_out_of_the_mean() -> None:
    hit = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 6.0], [0.0, 0.0, 0.0]])
    union = np.array([[4.0, 0.0, 0.0], [4.0, 2.0, 8.0], [0.0, 0.0, 0.0]])
    assert bootstrap.miou(hit, union).tolist() == [25.0, 100 * (0.25 + 0 + 0.75) / 3, 0.0]


def test_the_interval_leaves_out_the_same_share_at_both_ends() -> None:
    values = np.arange(1001.0)
    assert bootstrap.percentile_interval(values, 0.9) == pytest.approx((50.0, 950.0))
    assert bootstrap.percentile_interval(values, 0.5) == pytest.approx((250.0, 750.0))


def test_by_default_10_000_draws_are_made() -> None:
    truth = np.ones((2, 2))
    run = ImageCounts(truth, truth, truth)
    differences = bootstrap.bootstrap_differences([run], [run], np.random.default_rng(0))
    assert differences.tolist() == [0.0] * 10_000


def test_equal_generators_give_equal_draws() -> None:
    generator = np.random.default_rng(1)
    truth = make_truth(generator, 12)
    sides = [make_counts(generator, truth, 0.8)], [make_counts(generator, truth, 0.7)]
    first, again, other = (
        bootstrap.bootstrap_differences(*sides, np.random.default_rng(seed), 50)
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_interval_covers_the_true_difference_of_simulated_data() -> None:
    """Draw splits of 80 images from a large set with a known mIoU difference."""
    generator = np.random.default_rng(7)
    truth = make_truth(generator, 20_000)
    models = [make_counts(generator, truth, accuracy) for accuracy in (0.8, 0.75)]
    expected = np.subtract(*(bootstrap.miou(run.hit.sum(0), run.union.sum(0)) for run in models))
    covered = 0
    trials = 200
    for _ in range(trials):
        chosen = generator.choice(len(truth), 80, replace=False)
        split = [
            ImageCounts(run.hit[chosen], run.truth[chosen], run.union[chosen]) for run in models
        ]
        drawn = bootstrap.bootstrap_differences(split[:1], split[1:], generator, 300)
        low, high = bootstrap.percentile_interval(drawn, 0.95)
        covered += low <= expected <= high
    assert 0.89 <= covered / trials <= 0.99  # 95% within about three standard errors


def test_runs_on_different_images_are_refused() -> None:
    generator = np.random.default_rng(1)
    one, other = (make_counts(generator, make_truth(generator, n), 0.8) for n in (12, 12))
    with pytest.raises(ProtosegError, match="not evaluated on the same images"):
        bootstrap.bootstrap_differences([one], [other], generator, 10)
    fewer = ImageCounts(one.hit[:-1], one.truth[:-1], one.union[:-1])
    with pytest.raises(ProtosegError, match="not evaluated on the same images"):
        bootstrap.check_same_images([one, one, fewer])
