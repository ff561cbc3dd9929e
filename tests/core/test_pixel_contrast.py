"""Pixel contrast: anchors, samples and loss against float64 loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from core import contrast_reference as reference
from core.batches import draw_vectors
from protoseg.core import pixel_contrast
from protoseg.core.losses import IGNORED
from protoseg.core.pixel_contrast import choose_anchors, choose_samples, compute_contrast_loss

CLASSES, CHANNELS = 4, 8


def make_batch(seed: int = 0, num_pixels: int = 90):
    """Return labels (some ignored, one rare and one absent class), hard pixels, random keys."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([IGNORED, 0, 1, 3], num_pixels, p=[0.2, 0.5, 0.27, 0.03])
    labels[:2] = 3
    return labels, rng.random(num_pixels) < 0.3, rng.random(num_pixels).astype(np.float32)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_anchors_equal_those_of_the_loop(share):
    labels, hard, random_keys = make_batch()
    hard = hard if 0 < share < 1 else np.full(len(labels), bool(share))
    for count in (1, 2, 3, 10, 40, 90, 500):
        pixel, own = choose_anchors(
            torch.tensor(labels), torch.tensor(hard), CLASSES, count, torch.tensor(random_keys)
        )
        expected = reference.choose_anchors(labels.tolist(), hard, count, random_keys)
        is_valid = own != IGNORED
        assert pixel[is_valid].tolist() == expected, count
        assert own[is_valid].tolist() == labels[expected].tolist(), count
        assert len(pixel) == min(count, len(labels)), "the shape must not depend on labels"


def test_half_of_the_anchors_are_hard_and_classes_have_equal_shares():
    labels = torch.arange(600) % 3
    hard = torch.rand(600) < 0.5
    pixel, own = choose_anchors(labels, hard, 3, 60, torch.rand(600))
    assert own.bincount().tolist() == [20, 20, 20]
    for c in range(3):
        assert hard[pixel[own == c]].sum() == 10
    assert len(set(pixel.tolist())) == 60


@pytest.mark.parametrize("num_pixels", [1, 5])
def test_a_batch_of_ignored_pixels_has_no_anchor(num_pixels):
    labels = torch.full((num_pixels,), IGNORED)
    _, own = choose_anchors(
        labels, torch.ones(num_pixels).bool(), CLASSES, 3, torch.rand(num_pixels)
    )
    assert (own == IGNORED).all()


def make_samples(seed: int, size: int = 120, empty: float = 0.3):
    """Return unit vectors, their classes (some slots are empty), and random keys."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, size)
    labels[rng.random(size) < empty] = IGNORED
    return draw_vectors(rng, size, CHANNELS), labels, rng.random(size).astype(np.float32)


def make_case(seed: int = 0, anchors: int = 12, **samples):
    """Return anchors and labels, samples and labels, anchor indices among samples, random keys."""
    rows, labels, random_keys = make_samples(seed, **samples)
    anchor_samples = np.arange(len(rows) - anchors, len(rows))
    return rows[anchor_samples], labels[anchor_samples], rows, labels, anchor_samples, random_keys


def run_contrast(
    anchors,
    labels,
    rows,
    sample_labels,
    anchor_samples,
    random_keys,
    temperature=0.1,
    max_per_class=None,
    **choice,
):
    """Return the loss, the chosen samples, and the anchors as a leaf tensor."""
    leaf = torch.tensor(anchors).requires_grad_()
    samples = torch.tensor(rows)
    chosen = choose_samples(
        leaf,
        torch.tensor(labels),
        samples,
        torch.tensor(sample_labels),
        torch.tensor(anchor_samples),
        CLASSES,
        random_keys=torch.tensor(random_keys),
        max_per_class=max_per_class and int(np.bincount(sample_labels[sample_labels >= 0]).max()),
        **choice,
    )
    return compute_contrast_loss(leaf, samples, chosen, temperature), chosen, leaf


CHOICES = [
    {"positives": p, "negatives": n, "hard": hard}
    for p, n in ((6, 10), (1, 1), (2, 30), (1000, 1000))
    for hard in (True, False)
]
every_choice = pytest.mark.parametrize("choice", CHOICES, ids=str)


@every_choice
def test_samples_equal_those_of_the_loop(choice, monkeypatch):
    arguments = make_case()
    anchors, labels, rows, sample_labels, anchor_samples, random_keys = arguments
    expected = [
        ([], [])
        if label == IGNORED
        else reference.choose_samples(
            anchor, label, rows, sample_labels, own_sample, random_keys=random_keys, **choice
        )
        for anchor, label, own_sample in zip(anchors, labels, anchor_samples, strict=True)
    ]
    # Small blocks and one block; with and without the size of the largest class.
    for block, max_per_class in itertools.product((1, 300, 2**24), (False, True)):
        monkeypatch.setattr(pixel_contrast, "BLOCK", block)
        _, chosen, _ = run_contrast(*arguments, max_per_class=max_per_class, **choice)
        parts = slice(0, chosen.positives), slice(chosen.positives, None)
        for i, of_anchor in enumerate(expected):
            actual = [chosen.columns[i, part][chosen.counts[i, part]].tolist() for part in parts]
            assert [sorted(each) for each in actual] == [sorted(each) for each in of_anchor]


@every_choice
def test_the_loss_equals_that_of_the_loop(choice):
    arguments = make_case(1)
    *parts, random_keys = arguments
    for temperature in (0.07, 0.1, 1.0):
        loss, _, _ = run_contrast(*arguments, temperature=temperature, **choice)
        expected = reference.compute_contrast_loss(
            *parts, temperature, random_keys=random_keys, **choice
        )
        assert expected > 0.1
        assert loss.item() == pytest.approx(expected, rel=1e-5), temperature


def test_the_gradient_equals_that_of_the_formula():
    arguments = make_case(2)
    choice = {"positives": 6, "negatives": 10, "hard": True}
    loss, chosen, leaf = run_contrast(*arguments, **choice)
    loss.backward()
    anchors = torch.tensor(arguments[0], dtype=torch.float64, requires_grad=True)
    products = anchors @ torch.tensor(arguments[2], dtype=torch.float64).t() / 0.1
    terms = []
    for i in range(len(anchors)):
        counts = chosen.counts[i]
        row = products[i, chosen.columns[i]]
        split = torch.arange(len(row)) < chosen.positives
        positive, negative = row[counts & split], row[counts & ~split]
        if len(positive):
            total = negative.exp().sum()
            terms.append(-(positive.exp() / (positive.exp() + total)).log().mean())
    torch.stack(terms).mean().backward()
    torch.testing.assert_close(leaf.grad.double(), anchors.grad, rtol=1e-4, atol=1e-6)
    is_ignored = torch.tensor(arguments[1]) == IGNORED
    assert is_ignored.any()
    assert (leaf.grad[is_ignored] == 0).all()
    assert leaf.grad[~is_ignored].ne(0).any(1).all()


def test_samples_of_the_batch_get_no_gradient():
    anchors, labels, rows, sample_labels, anchor_samples, random_keys = map(
        torch.tensor, make_case(3)
    )
    anchors.requires_grad_()
    rows.requires_grad_()
    chosen = choose_samples(
        anchors, labels, rows, sample_labels, anchor_samples, CLASSES,
        positives=4, negatives=4, hard=True, random_keys=random_keys,
    )  # fmt: skip
    compute_contrast_loss(anchors, rows, chosen, 0.1).backward()
    assert rows.grad is None
    assert anchors.grad is not None


def list_degenerate_batches():
    """Yield (name, arguments) of batches that must have a finite loss and gradient."""
    anchors, labels, rows, sample_labels, anchor_samples, random_keys = make_case(4)
    yield "all ignored", (anchors, labels * 0 - 1, rows, sample_labels, anchor_samples, random_keys)
    one = np.full_like(sample_labels, 2)
    yield "one class only", (anchors, one[anchor_samples], rows, one, anchor_samples, random_keys)
    single_label = np.full_like(sample_labels, IGNORED)
    single_label[anchor_samples[0]] = 1
    yield (
        "one pixel, memory empty",
        (anchors, single_label[anchor_samples], rows, single_label, anchor_samples, random_keys),
    )
    apart = np.full_like(sample_labels, IGNORED)
    apart[anchor_samples[:4]] = range(4)
    yield (
        "one pixel a class",
        (anchors, apart[anchor_samples], rows, apart, anchor_samples, random_keys),
    )
    yield (
        "all alike",
        (anchors * 0 + 0.3, labels, rows * 0 + 0.3, sample_labels, anchor_samples, random_keys),
    )


@pytest.mark.parametrize(
    ("name", "arguments"),
    list(list_degenerate_batches()),
    ids=lambda v: v if type(v) is str else "",
)
@pytest.mark.parametrize("hard", [True, False])
def test_degenerate_batches_have_finite_gradients(name, arguments, hard):
    loss, _, leaf = run_contrast(*arguments, positives=6, negatives=10, hard=hard)
    loss.backward()
    assert leaf.grad.isfinite().all()
    if name == "all alike":
        assert loss.item() > 0
        return
    assert loss.item() == 0, "there is no positive or no negative"
    assert (leaf.grad == 0).all()


def test_hard_samples_have_a_higher_loss():
    arguments = make_case(5, size=400, anchors=40, empty=0.0)
    hard, random = (
        run_contrast(*arguments, positives=8, negatives=16, hard=h)[0].item() for h in (True, False)
    )
    assert hard > random + 0.5


def test_the_matrix_of_all_products_is_not_saved():
    arguments = make_case(6, size=4000, anchors=50)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        run_contrast(*arguments, positives=4, negatives=8, hard=True)
    assert max(t.numel() for t in saved) <= 4000 * CHANNELS, "only the samples may be saved"
