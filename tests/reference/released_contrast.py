"""Float64 reference of pixel contrast as the authors' code computes it, pixel by pixel.

Loops over anchors, entries, images and classes. Nothing is imported from `protoseg`.
"""

from __future__ import annotations

import numpy as np

IGNORED = -1


def compute_memory_contrast(anchors, labels, samples, sample_labels, temperature):
    """Compute the loss and its gradient for the anchors, (A, D)."""
    losses, gradient = [], np.zeros(np.shape(anchors))
    anchors, samples = np.float64(anchors), np.float64(samples)
    for i, (anchor, label) in enumerate(zip(anchors, labels, strict=True)):
        if label == IGNORED:
            continue
        positives = [s for s, c in enumerate(sample_labels) if c == label]
        negatives = [s for s, c in enumerate(sample_labels) if c not in (label, IGNORED)]
        if not positives:
            continue
        e = {s: np.exp(np.sum(anchor * samples[s]) / temperature) for s in positives + negatives}
        rest = sum(e[n] for n in negatives)
        losses.append(np.mean([-np.log(e[j] / (e[j] + rest)) for j in positives]))
        for j in positives:
            # d/di of -i·j/τ + log(e_j + Σ e_n)
            weighted = e[j] * samples[j] + sum(e[n] * samples[n] for n in negatives)
            gradient[i] += (weighted / (e[j] + rest) - samples[j]) / temperature / len(positives)
    return (float(np.mean(losses)), gradient / len(losses)) if losses else (0.0, gradient)


def choose_pair_anchors(labels, hard, images, count, max_views, random_keys):
    """Return the set of chosen pixels."""
    pairs = []
    for image in np.split(np.arange(len(labels)), images):
        for c in sorted(set(labels[image].tolist()) - {IGNORED}):
            own = [n for n in image if labels[n] == c]
            if len(own) > max_views:
                pairs.append(sorted(own, key=lambda n: random_keys[n]))
    chosen = set()
    for own in pairs:
        views = min(count // len(pairs), max_views)
        wrong, right = [n for n in own if hard[n]], [n for n in own if not hard[n]]
        from_wrong = min(views // 2, len(wrong))
        from_right = min(views - from_wrong, len(right))
        chosen |= set(right[:from_right]) | set(wrong[: views - from_right])
    return chosen


class Memory:
    """The queues of the released code with all its slips, one image and class at a time."""

    def __init__(self, pixels, regions, pixels_per_image):
        self.pixels, self.regions = np.float64(pixels), np.float64(regions)
        self.pixel_pointer = [0] * len(pixels)
        self.region_pointer = [0] * len(pixels)
        self.pixels_per_image = pixels_per_image

    def push_batch(self, maps, label_maps, random_keys):
        """Add images (B, H, W, D) with labels (B, H, W) and random keys (B, H, W)."""
        for features, labels, keys in zip(maps, label_maps, random_keys, strict=True):
            features, keys = features.reshape(-1, features.shape[-1]), keys.ravel()
            small = labels[::2, ::2].ravel()  # fewer labels than pixels, but the same numbering
            for c in sorted(set(small.tolist()) - {IGNORED, 0}):
                own = np.flatnonzero(small == c)
                mean = features[own].sum(0)
                self.regions[c, self.region_pointer[c]] = mean / np.linalg.norm(mean)
                self.region_pointer[c] = (self.region_pointer[c] + 1) % self.regions.shape[1]
                # Numbers below the class's number of pixels, used as pixels of the image.
                drawn = sorted(range(len(own)), key=lambda n: keys[n])[: self.pixels_per_image]
                size, at = self.pixels.shape[1], self.pixel_pointer[c]
                if at + len(drawn) >= size:
                    self.pixels[c, size - len(drawn) :] = features[drawn]
                    self.pixel_pointer[c] = 0
                else:
                    self.pixels[c, at : at + len(drawn)] = features[drawn]
                    self.pixel_pointer[c] = (at + 1) % size
