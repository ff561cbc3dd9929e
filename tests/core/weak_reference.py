"""Float64 reference of weak supervision and pixel-to-prototype contrast, pixel by pixel.

Written from the formulas, independently of `protoseg.core.weak_supervision`. Class 0 is the
background.
"""

import math

import numpy as np

IGNORED = -1


def compute_maps(activations, present):
    """Apply ReLU and divide by the maximum per image and class; absent classes are 0."""
    out = np.zeros(np.shape(activations))
    for b, image in enumerate(np.float64(activations)):
        for c, activation in enumerate(image):
            positive = np.maximum(activation, 0)
            if present[b][c] and positive.max() > 0:
                out[b, c] = positive / positive.max()
    return out


def add_background(maps):
    """Add the background confidence, 1 minus the highest map."""
    return np.stack([np.concatenate([[1 - np.max(image, axis=0)], image]) for image in maps])


def compute_labels(maps, threshold):
    batch, classes, height, width = maps.shape
    out = np.zeros((batch, height, width), int)
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                best = max(range(classes), key=lambda c: maps[b, c, y, x])
                value = maps[b, best, y, x]
                out[b, y, x] = best + 1 if value > 0 and value >= threshold else 0
    return out


def normalise(vector):
    return np.float64(vector) / np.sqrt(np.sum(np.float64(vector) ** 2))


def compute_prototype(embeddings, confidences, c, top, normalised):
    """Compute the prototype of class c; None if all confidences are 0. Ties are not handled."""
    own = sorted(range(len(embeddings)), key=lambda i: -confidences[i][c])[:top]
    weights = [float(confidences[i][c]) for i in own]
    if sum(weights) == 0:
        return None
    mean = sum(w * np.float64(embeddings[i]) for w, i in zip(weights, own, strict=True))
    mean = mean / sum(weights)
    return normalise(mean) if normalised else mean


def compute_pixel_loss(v, y, prototypes, temperature, negatives=None):
    """Compute F(v; y; P); P is a list with None for classes without a prototype."""
    used = [c for c, p in enumerate(prototypes) if p is not None]
    if negatives is not None:
        used = [c for c in used if c == y or c in negatives]
    logits = {c: np.dot(np.float64(v), prototypes[c]) / temperature for c in used}
    highest = max(logits.values())
    total = sum(math.exp(value - highest) for value in logits.values())
    return math.log(total) + highest - logits[y]


def compute_mean_loss(embeddings, labels, prototypes, temperature, negatives=None, times=None):
    """Compute the mean of F over pixels that are not ignored and have a prototype; else 0."""
    total = number = 0.0
    for i, (v, y) in enumerate(zip(embeddings, labels, strict=True)):
        if y == IGNORED or prototypes[y] is None:
            continue
        weight = 1 if times is None else times[i]
        mined = None if negatives is None else negatives[i]
        total += weight * compute_pixel_loss(v, y, prototypes, temperature, mined)
        number += weight
    return total / max(number, 1)


def round_half_up(value):
    return math.floor(value + 0.5)


def mine_prototypes(v, y, prototypes, random_keys, hardest=0.6, drawn=0.5):
    """Return, of the 60% of negatives closest to v, the 50% with the lowest random keys."""
    others = [c for c, p in enumerate(prototypes) if p is not None and c != y]
    if not others:
        return set()
    others.sort(key=lambda c: -np.dot(np.float64(v), prototypes[c]))
    hard = others[: max(1, round_half_up(hardest * len(others)))]
    hard.sort(key=lambda c: random_keys[c])
    return set(hard[: max(1, round_half_up(drawn * len(hard)))])


def sample_pixels(embeddings, labels, prototypes, random_keys):
    """Return the weight of each pixel: the farther half of a class, plus as many at random."""
    times = [0] * len(labels)
    for c, p in enumerate(prototypes):
        own = [i for i, y in enumerate(labels) if y == c]
        half = len(own) // 2
        for i in sorted(own, key=lambda i: np.dot(np.float64(embeddings[i]), p))[:half]:
            times[i] += 1
        for i in sorted(own, key=lambda i: random_keys[i])[: len(own) - half]:
            times[i] += 1
    return times


def compute_soft_margin(scores, present):
    """Compute -mean[y log σ(x) + (1 - y) log(1 - σ(x))]."""
    terms = []
    for row, labels in zip(np.float64(scores), present, strict=True):
        for x, y in zip(row, labels, strict=True):
            p = 1 / (1 + math.exp(-x))
            terms.append(-math.log(p if y else 1 - p))
    return sum(terms) / len(terms)
