"""Float64 references of pixel-query (Eq. 2) and pixel contrast, pixel by pixel.

Loops over anchors, samples, images and classes. Nothing is imported from `protoseg.core`.
"""

import numpy as np

IGNORED = -1


def compute_query_scores(pixels, queries, temperature):
    """Compute Eq. 2: the best cosine of a pixel and K queries of a class, divided by T, (N, C)."""
    scores = np.zeros((len(pixels), len(queries)))
    for n, pixel in enumerate(np.float64(pixels)):
        for c, of_class in enumerate(np.float64(queries)):
            cosines = [
                np.sum(pixel * query) / np.sqrt(np.sum(pixel**2)) / np.sqrt(np.sum(query**2))
                for query in of_class
            ]
            scores[n, c] = max(cosines) / temperature
    return scores


def choose_anchors(labels, hard, count, random_keys):
    """Alternate hard and easy pixels within each class, then alternate between classes."""
    rows = {}
    for c in sorted(set(labels) - {IGNORED}):
        of_class = [n for n in np.argsort(random_keys) if labels[n] == c]
        groups = [n for n in of_class if hard[n]], [n for n in of_class if not hard[n]]
        row = []
        while groups[0] or groups[1]:
            for group in groups:
                if group:
                    row.append(group.pop(0))
        rows[c] = row
    chosen = []
    for turn in range(len(labels)):
        level = [row[turn] for row in rows.values() if turn < len(row)]
        chosen += sorted(level, key=lambda n: random_keys[n])
    return chosen[:count]


def choose_samples(
    anchor, label, samples, sample_labels, anchor_samples, positives, negatives, hard, random_keys
):
    """Return positives and negatives of one anchor as sets of sample indices."""
    products = np.float64(samples) @ np.float64(anchor)
    filled = [s for s in range(len(samples)) if sample_labels[s] != IGNORED]
    in_random_order = sorted(filled, key=lambda s: random_keys[s])
    same = [s for s in filled if sample_labels[s] == label and s != anchor_samples]
    other = [s for s in filled if sample_labels[s] != label]
    half = (positives // 2, negatives // 2) if hard else (0, 0)
    hardest = (
        sorted(same, key=lambda s: products[s])[: half[0]],
        sorted(other, key=lambda s: -products[s])[: half[1]],
    )
    # All anchors of a class share random positives; all anchors share random negatives.
    of_class = [s for s in in_random_order if sample_labels[s] == label][: positives - half[0]]
    of_all = in_random_order[: negatives - half[1]]
    return (
        set(hardest[0]) | {s for s in of_class if s in same},
        set(hardest[1]) | {s for s in of_all if s in other},
    )


def compute_anchor_loss(anchor, samples, positives, negatives, temperature):
    """Compute L_NCE of one anchor, the mean over its positives."""
    terms = []
    for j in positives:
        own = np.exp(np.sum(np.float64(anchor) * np.float64(samples[j])) / temperature)
        rest = sum(
            np.exp(np.sum(np.float64(anchor) * np.float64(samples[n])) / temperature)
            for n in negatives
        )
        terms.append(-np.log(own / (own + rest)))
    return np.mean(terms)


def compute_contrast_loss(
    anchors, labels, samples, sample_labels, anchor_samples, temperature, **choice
):
    """Compute the mean over anchors with a positive; 0 if there is none."""
    losses = []
    for anchor, label, own_sample in zip(anchors, labels, anchor_samples, strict=True):
        if label == IGNORED:
            continue
        chosen = choose_samples(anchor, label, samples, sample_labels, own_sample, **choice)
        if chosen[0]:
            losses.append(compute_anchor_loss(anchor, samples, *chosen, temperature))
    return float(np.mean(losses)) if losses else 0.0


class Memory:
    """Queues as lists with the newest entry last."""

    def __init__(self, num_classes, pixel_queue, region_queue, pixels_per_image):
        self.sizes = {"pixels": pixel_queue, "regions": region_queue}
        self.queues = {name: [[] for _ in range(num_classes)] for name in self.sizes}
        self.pixels_per_image = pixels_per_image

    def push_batch(self, embeddings, labels, images, random_keys):
        """Add images one by one, and classes one by one."""
        of_image = np.split(np.arange(len(labels)), images)
        for image in of_image:
            for c in range(len(self.queues["pixels"])):
                own = [n for n in image if labels[n] == c]
                if not own:
                    continue
                drawn = sorted(own, key=lambda n: random_keys[n])[: self.pixels_per_image]
                self._add("pixels", c, [np.float64(embeddings[n]) for n in drawn])
                mean = np.sum([np.float64(embeddings[n]) for n in own], axis=0)
                self._add("regions", c, [mean / np.sqrt(np.sum(mean**2))])

    def _add(self, name, c, vectors):
        queue = self.queues[name][c]
        queue += vectors
        size = self.sizes[name]
        self.queues[name][c] = queue[-size:] if size else []
