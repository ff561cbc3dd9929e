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


def test_a_draw_of_groups_takes_all_images_of_each_group() -> None:
    generator = np.random.default_rng(0)
    truth = make_truth(generator, 9)
    ours = [make_counts(generator, truth, accuracy) for accuracy in (0.8, 0.82)]
    theirs = [make_counts(generator, truth, 0.7)]
    groups = np.array([0, 7, 7, 0, 3, 5, 5, 5, 0])  # numbers with gaps, images not consecutive
    members = [np.flatnonzero(groups == number) for number in (0, 3, 5, 7)]
    differences = bootstrap.bootstrap_differences(
        ours, theirs, np.random.default_rng(5), 100, groups=groups
    )
    for row, drawn in enumerate(bootstrap.draw_images(np.random.default_rng(5), 100, 4)):
        images = np.concatenate([members[number] for number in drawn])
        expected = np.mean([slow_miou(r, images) for r in ours]) - slow_miou(theirs[0], images)
        assert differences[row] == pytest.approx(expected, abs=1e-9)


def test_groups_of_one_image_give_the_draws_of_single_images() -> None:
    generator = np.random.default_rng(2)
    truth = make_truth(generator, 12)
    sides = [make_counts(generator, truth, 0.8)], [make_counts(generator, truth, 0.7)]
    alone = bootstrap.bootstrap_differences(*sides, np.random.default_rng(3), 50)
    grouped = bootstrap.bootstrap_differences(
        *sides, np.random.default_rng(3), 50, groups=np.arange(12)
    )
    assert np.array_equal(alone, grouped)


def test_groups_of_other_images_are_refused() -> None:
    truth = np.ones((4, 2))
    run = ImageCounts(truth, truth, truth)
    with pytest.raises(ProtosegError, match="those of 3 images, but the runs were evaluated on 4"):
        bootstrap.bootstrap_differences(
            [run], [run], np.random.default_rng(0), 5, groups=np.arange(3)
        )


def test_only_the_classes_of_the_mask_are_averaged() -> None:
    generator = np.random.default_rng(0)
    truth = make_truth(generator, 9)
    truth[:, 4] = 0
    ours, theirs = ([make_counts(generator, truth, accuracy)] for accuracy in (0.8, 0.7))
    differences = bootstrap.bootstrap_differences(
        ours, theirs, np.random.default_rng(5), 40, classes=truth.sum(0) > 0
    )
    first_four = [
        [ImageCounts(run.hit[:, :4], run.truth[:, :4], run.union[:, :4]) for run in side]
        for side in (ours, theirs)
    ]
    expected = bootstrap.bootstrap_differences(*first_four, np.random.default_rng(5), 40)
    assert differences == pytest.approx(expected)
    as_mmseg = bootstrap.bootstrap_differences(ours, theirs, np.random.default_rng(5), 40)
    assert not np.allclose(differences, as_mmseg)


def test_a_class_of_the_mask_without_pixels_is_left_out() -> None:
    hit = np.array([[1.0, 0.0, 3.0], [0.0, 0.0, 6.0]])
    union = np.array([[4.0, 0.0, 4.0], [0.0, 0.0, 8.0]])
    mask = np.array([True, True, False])
    assert bootstrap.miou(hit, union, mask).tolist() == [25.0, 0.0]
    assert bootstrap.miou(hit, union).tolist() == [50.0, 75.0]


@pytest.mark.parametrize(
    ("images", "size", "lengths"),
    [
        (9, 3, [3, 3, 3]),
        (10, 3, [3, 3, 4]),  # a rest of 1 joins the last block
        (11, 3, [3, 3, 3, 2]),  # a rest of 2 is a block
        (34, 10, [10, 10, 14]),
        (35, 10, [10, 10, 10, 5]),
        (5, 2, [2, 2, 1]),
        (101, 10, [10] * 9 + [11]),
    ],
)
def test_frames_are_grouped_into_consecutive_blocks(
    images: int, size: int, lengths: list[int]
) -> None:
    blocks = bootstrap.frame_blocks(images, size)
    assert blocks.tolist() == np.repeat(np.arange(len(lengths)), lengths).tolist()


@pytest.mark.parametrize(
    ("images", "size", "message"),
    [
        (101, 1, "a block of 1 images is not a group. Use at least 2 images"),
        (101, 0, "a block of 0 images is not a group"),
        (101, 50, r"blocks of 50 of 101 images make 2 groups, .* at least 3\. Use smaller"),
        (101, 300, "blocks of 300 of 101 images make 1 group, but"),
    ],
)
def test_blocks_that_are_too_small_or_too_few_are_refused(
    images: int, size: int, message: str
) -> None:
    with pytest.raises(ProtosegError, match=message):
        bootstrap.frame_blocks(images, size)


NAMES = ("0016E5_00390.png", "Seq05VD_f00000.png", "0016E5_00420.png", "0001TP_006690.png")


@pytest.mark.parametrize("pattern", ["^[^_]+", "^([^_]+)_(.*)$", r"(\w+?)_"])
def test_images_are_grouped_by_a_part_of_their_names(pattern: str) -> None:
    assert bootstrap.groups_by_pattern(NAMES, pattern).tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("([", r"pattern '\(\[' is not a valid regular expression: "),
        ("^0", "does not match the image 'Seq05VD_f00000.png'. It must match every image name"),
        ("^(0)?", "does not match the image 'Seq05VD_f00000.png'"),
        (r"\.png", r"puts all 4 images into one group \('\.png'\)\. Match a part"),
        (".*", "puts each of the 4 images into a separate group. Match a part"),
        ("^[0S]", "makes 2 groups, but the bootstrap needs at least 3"),
    ],
)
def test_patterns_without_useful_groups_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(ProtosegError, match=message):
        bootstrap.groups_by_pattern(NAMES, pattern)


def test_without_images_there_are_no_groups() -> None:
    with pytest.raises(ProtosegError, match="makes 0 groups"):
        bootstrap.groups_by_pattern([], ".*")


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
