"""The losses on the nodes of a tree of classes, and the score of a class from those of its path.

Source: *Deep Hierarchical Semantic Segmentation* (Li et al., CVPR 2022). Nodes are numbered as in
`protoseg.config.hierarchy.tree`: the classes first, then each higher level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.core.collective import all_sum, world_size
from protoseg.core.losses import IGNORED, to_float32
from protoseg.core.trees.node_loss import PixelTreeLoss, TreeLoss, reduce_children
from protoseg.core.trees.tables import TreeTables

Inference = Literal["path", "leaf", "softmax"]


def compute_tree_loss(
    logits: Tensor,
    labels: Tensor,
    tree: TreeTables,
    tree_loss: TreeLoss = "tree_min",
    gamma: float = 2.0,
) -> Tensor:
    """Compute the tree-min loss L_TM, its focal form L_FTM, or the sigmoid cross-entropy.

    With the scores ``s = sigmoid(logits)``, ancestors A_v and descendants C_v (both with v):

        L_TM  = Σ_v -l_v log(min_{A_v} s) - (1 - l_v) log(1 - max_{C_v} s)
        L_FTM = the same, with the factors (1 - min_{A_v} s)^γ and (max_{C_v} s)^γ

    The sum over nodes is a mean over the nodes of a level, summed over levels, and a mean over the
    pixels of all processes that are not ignored (released code). ``sigmoid`` has s_v in place of
    minimum and maximum.

    Args:
        logits: (B, |V|, H, W).
        labels: classes, (B, H, W), or `IGNORED`.
        tree: its tables.
        tree_loss: which loss.
        gamma: γ.

    Returns:
        The loss, a scalar; 0 if all pixels are ignored.
    """
    classes, nodes = labels.clamp_min(0).flatten(1), to_float32(logits).flatten(2)
    losses: Tensor = PixelTreeLoss.apply(nodes, classes, tree, tree_loss, gamma)
    return average_over_valid(losses, labels.flatten(1) != IGNORED)


def compute_level_losses(
    scores: Sequence[Tensor], labels: Tensor, tree: TreeTables
) -> tuple[Tensor, ...]:
    """Compute the softmax cross-entropy of each level, means over the valid pixels.

    Args:
        scores: logits of the nodes of the highest levels, (B, nodes, H, W) each.
        labels: classes, (B, H, W), or `IGNORED`.
        tree: its tables.
    """
    valid = labels != IGNORED
    losses = []
    for level, nodes in enumerate(scores, start=tree.height - len(scores)):
        numbers = tree.number_classes(level)
        target = torch.where(valid, numbers[labels.clamp_min(0)], IGNORED)
        entropy = F.cross_entropy(to_float32(nodes), target, ignore_index=IGNORED, reduction="none")
        losses.append(average_over_valid(entropy, valid))
    return tuple(losses)


def score_classes(
    logits: Tensor, ancestors: Tensor, inference: Inference, num_classes: int
) -> Tensor:
    """Compute the logarithm of a positive score of each class, (B, C, H, W).

    A softmax over the classes gives the share of each class in the sum of the scores.

    Args:
        logits: (B, |V|, H, W).
        ancestors: (L, C).
        inference: ``path``: the sum of the sigmoid scores of the nodes on the path of the class,
            whose largest value is the best path. ``leaf``: its own sigmoid score. ``softmax``: the
            sum over its path of a softmax over all nodes (released code).
        num_classes: C.
    """
    logits = to_float32(logits)
    if inference == "leaf":
        return F.logsigmoid(logits[:, :num_classes])
    # Sums of logarithms of scores: no score underflows.
    logs = F.logsigmoid(logits) if inference == "path" else F.log_softmax(logits, 1)
    total = logs[:, :num_classes]
    for nodes in ancestors[1:]:
        total = torch.logaddexp(total, logs.index_select(1, nodes))
    return total


def average_over_valid(values: Tensor, valid: Tensor) -> Tensor:
    """Average pixels over all processes, as `protoseg.core.losses` does; 0 without valid pixels.

    Args:
        values: one for each pixel.
        valid: whether each pixel counts.
    """
    total, count = torch.where(valid, values, 0).sum(), valid.sum()
    if world_size() > 1:
        total, count = total * world_size(), all_sum(count)
    return total / count.clamp_min(1)


def take_level_maxima(scores: Tensor, tree: TreeTables) -> list[Tensor]:
    """Compute the score of each node above the classes: the largest of the classes below it.

    Args:
        scores: of the classes, (B, C, H, W).
        tree: its tables.

    Returns:
        One tensor (B, nodes, H, W) for each level above the classes, the lowest first.
    """
    levels = [scores]
    for level in range(1, tree.height):
        size = (len(scores), tree.level_sizes[level], *scores.shape[2:])
        lowest = scores.new_full(size, -math.inf)
        parents = tree.list_parents(level)
        levels.append(reduce_children(lowest, levels[-1], parents, dim=1, extremum="amax"))
    return levels[1:]
