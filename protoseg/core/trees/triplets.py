"""The tree-triplet loss: pixels of sibling classes are closer than pixels of other groups.

Source: *Deep Hierarchical Semantic Segmentation* (Li et al., CVPR 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor

from protoseg.core.collective import all_sum, world_size
from protoseg.core.losses import IGNORED


def compute_tree_triplets(
    embeddings: Tensor,
    labels: Tensor,
    distances: Tensor,
    *,
    height: int,
    margin: float = 0.1,
    tree_margin: float = 1.0,
    max_triplets: int = 200,
    random_keys: Tensor | None = None,
) -> Tensor:
    """Compute L_TT, a mean over the classes that have a triplet.

    With several processes each one has its own triplets. The mean is over all pairs of a process
    and a class that has a triplet there.

    A triplet of a class c has a pixel i of c, a pixel i⁺ of a sibling and a pixel i⁻ of a class
    under another parent:

        L_TT = max(d(i, i⁺) - d(i, i⁻) + m, 0),  d = 1 - cos,
        m = margin + tree_margin · (ψ(c, c⁻) - ψ(c, c⁺)) / 2L

    A class has as many triplets as the scarcest of the three sorts of pixels allows, and at most
    ``max_triplets``; they are paired by position.

    Args:
        embeddings: unit vectors, (N, D).
        labels: (N,), or `IGNORED`.
        distances: tree distance ψ of each pair of classes, (C, C).
        height: L.
        margin: m_ε.
        tree_margin: factor of the part that depends on the tree.
        max_triplets: of one class.
        random_keys: the pixels with the smallest keys are taken, (N,); None for the first ones.

    Returns:
        The loss, a scalar; 0 without triplets.
    """
    order = None if random_keys is None else random_keys.argsort(stable=True)
    classes = labels if order is None else labels[order]
    rows, gaps, weights = [], [], []
    for label in classes[classes != IGNORED].unique():
        to_label = torch.where(classes == IGNORED, IGNORED, distances[label][classes.clamp_min(0)])
        roles = (to_label == 0, to_label == 2, to_label > 2)
        members = [role.nonzero().squeeze(1) for role in roles]
        number = min(max_triplets, *map(len, members))
        if not number:
            continue
        triplets = torch.stack([indices[:number] for indices in members])
        gaps.append((to_label[triplets[2]] - 2).to(embeddings.dtype))
        weights.append(embeddings.new_full((number,), 1 / number))
        rows.append(triplets if order is None else order[triplets])
    count = torch.tensor(float(len(rows)), device=labels.device)
    total = embeddings.sum() * 0.0  # keeps the graph: DDP waits for the gradient of all parameters
    if rows:
        # One gather: its gradient has the size of all embeddings.
        chosen = embeddings.index_select(0, torch.cat(rows, 1).flatten()).unflatten(0, (3, -1))
        anchors, positives, negatives = chosen
        closeness = ((negatives - positives) * anchors).sum(1)
        hinge = closeness + margin + torch.cat(gaps) * (tree_margin / (2 * height))
        total = total + (hinge.clamp_min(0) * torch.cat(weights)).sum()
    if world_size() > 1:
        total, count = total * world_size(), all_sum(count)
    return total / count.clamp_min(1)
