"""Pixel-query (Eq. 2) and pixel contrast as their description writes them: float64, pixel by pixel.

Loops over anchors, samples, images and classes; nothing here comes from `protoseg.core`.
"""

import numpy as np

IGNORED = -1


def query_scores(pixels, queries, temperature):
    """Eq. 2: the best cosine of a pixel and the K queries of a class, divided by T, (N, C)."""
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
    """Class by class a row of pixels, hard and other in turns by lot; then the rows in turns."""
    rows = {}
    for c in sorted(set(labels) - {IGNORED}):
        of_class = [n for n in np.argsort(random_keys) if labels[n] == c]
        kinds = [n for n in of_class if hard[n]], [n for n in of_class if not hard[n]]
        row = []
        while kinds[0] or kinds[1]:
            for kind in kinds:
                if kind:
                    row.append(kind.pop(0))
        rows[c] = row
    chosen = []
    for turn in range(len(labels)):
        level = [row[turn] for row in rows.values() if turn < len(row)]
        chosen += sorted(level, key=lambda n: random_keys[n])
    return chosen[:count]


def choose_samples(
    anchor, label, samples, sample_labels, anchor_samples, positives, negatives, hard, random_keys
):
    """The positives and the negatives of one anchor, as sets of numbers of samples."""
    products = np.float64(samples) @ np.float64(anchor)
    filled = [s for s in range(len(samples)) if sample_labels[s] != IGNORED]
    by_lot = sorted(filled, key=lambda s: random_keys[s])
    same = [s for s in filled if sample_labels[s] == label and s != anchor_samples]
    other = [s for s in filled if sample_labels[s] != label]
    half = (positives // 2, negatives // 2) if hard else (0, 0)
    hardest = (
        sorted(same, key=lambda s: products[s])[: half[0]],
        sorted(other, key=lambda s: -products[s])[: half[1]],
    )
    # Drawn for all anchors alike: of the class, and of all samples.
    of_class = [s for s in by_lot if sample_labels[s] == label][: positives - half[0]]
    of_all = by_lot[: negatives - half[1]]
    return (
        set(hardest[0]) | {s for s in of_class if s in same},
        set(hardest[1]) | {s for s in of_all if s in other},
    )


def nce(anchor, samples, positives, negatives, temperature):
    """L_NCE of one anchor: the mean over its positives."""
    terms = []
    for j in positives:
        own = np.exp(np.sum(np.float64(anchor) * np.float64(samples[j])) / temperature)
        rest = sum(
            np.exp(np.sum(np.float64(anchor) * np.float64(samples[n])) / temperature)
            for n in negatives
        )
        terms.append(-np.log(own / (own + rest)))
    return np.mean(terms)


def loss(anchors, labels, samples, sample_labels, anchor_samples, temperature, **choice):
    """The mean over the anchors that have a positive; 0 without any."""
    found = []
    for anchor, label, me in zip(anchors, labels, anchor_samples, strict=True):
        if label == IGNORED:
            continue
        chosen = choose_samples(anchor, label, samples, sample_labels, me, **choice)
        if chosen[0]:
            found.append(nce(anchor, samples, *chosen, temperature))
    return float(np.mean(found)) if found else 0.0


class Memory:
    """Queues as lists: the newest last, no more than fit."""

    def __init__(self, num_classes, pixel_queue, region_queue, pixels_per_image):
        self.sizes = {"pixels": pixel_queue, "regions": region_queue}
        self.queues = {name: [[] for _ in range(num_classes)] for name in self.sizes}
        self.pixels_per_image = pixels_per_image

    def push_batch(self, embeddings, labels, images, random_keys):
        """One image after the other, one class after the other."""
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
