"""The losses on the nodes of a tree of classes, and the score of a class from those of its path.

Source: *Deep Hierarchical Semantic Segmentation* (Li et al., CVPR 2022). Nodes are numbered as in
`protoseg.config.hierarchy.tree`: the classes first, then each higher level. ``ancestors`` is the
table (L, C) of the node of each class on each level, by numbers over all levels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.core.collective import all_sum, world_size
from protoseg.core.losses import IGNORED, to_float32

TreeLoss = Literal["sigmoid", "tree_min", "focal_tree_min"]
Inference = Literal["path", "leaf", "softmax"]


def compute_tree_loss(
    logits: Tensor,
    labels: Tensor,
    ancestors: Tensor,
    level_sizes: Sequence[int],
    kind: TreeLoss = "tree_min",
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
        ancestors: (L, C).
        level_sizes: number of nodes of each level.
        kind: which loss.
        gamma: γ.

    Returns:
        The loss, a scalar; 0 if all pixels are ignored.
    """
    # The sigmoid is monotone, so minimum and maximum are taken of logits: log(sigmoid(z)) is
    # -softplus(-z), which does not overflow. The nodes that are not on a pixel's path are all nodes
    # but one of each level, so no array of node labels is needed.
    maxima = list(to_float32(logits).split(list(level_sizes), 1))
    minima = _gather_path(maxima, labels, ancestors)
    if kind != "sigmoid":
        maxima = _take_maxima(maxima, ancestors)
        minima = minima.flip(1).cummin(1).values.flip(1)  # from the highest level down
    on_path = _gather_path(maxima, labels, ancestors)
    is_focal = kind == "focal_tree_min"
    total = torch.zeros_like(minima[:, 0])
    for level, nodes in enumerate(maxima):
        negative = _negative_loss(nodes, gamma, is_focal).sum(1)
        negative = negative - _negative_loss(on_path[:, level], gamma, is_focal)
        positive = _negative_loss(-minima[:, level], gamma, is_focal)
        total = total + (negative + positive) / nodes.shape[1]
    return average_over_valid(total, labels != IGNORED)


def compute_level_losses(
    scores: Sequence[Tensor], labels: Tensor, ancestors: Tensor
) -> tuple[Tensor, ...]:
    """Compute the softmax cross-entropy of each level, means over the valid pixels.

    Args:
        scores: logits of the nodes of each level, (B, nodes, H, W).
        labels: classes, (B, H, W), or `IGNORED`.
        ancestors: (L, C), its last rows for the levels of ``scores``.
    """
    valid = labels != IGNORED
    losses = []
    numbers = number_within_levels(ancestors)[len(ancestors) - len(scores) :]
    for nodes, table in zip(scores, numbers, strict=True):
        target = torch.where(valid, table[labels.clamp_min(0)], IGNORED)
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


def take_level_maxima(scores: Tensor, children: Tensor, parents: Tensor) -> Tensor:
    """Take the maximum of each node's score and of those of its children, (B, nodes, H, W).

    Args:
        scores: of the nodes, (B, nodes, H, W).
        children: of the nodes of the level below, (B, children, H, W).
        parents: parent of each child, a number within the nodes, (children,).
    """
    with warnings.catch_warnings():
        # The interface of index_reduce may change. scatter_reduce takes 20 times longer on a CPU.
        warnings.filterwarnings("ignore", "index_reduce", UserWarning)
        return scores.index_reduce(1, parents, children, "amax")


def _take_maxima(levels: Sequence[Tensor], ancestors: Tensor) -> list[Tensor]:
    """Take the maximum over each node and all nodes below it, level by level."""
    maxima = [levels[0]]
    for level in range(1, len(levels)):
        parents = list_parents(ancestors, level)
        maxima.append(take_level_maxima(levels[level], maxima[-1], parents))
    return maxima


def number_within_levels(ancestors: Tensor) -> Tensor:
    """Number the nodes of each level from 0, (L, C)."""
    return ancestors - ancestors.amin(1, keepdim=True)


def list_parents(ancestors: Tensor, level: int) -> Tensor:
    """List the parent, on the level ``level`` counted from 0, of each node of the level below."""
    numbers = number_within_levels(ancestors)
    below, above = numbers[level - 1], numbers[level]
    parents = torch.zeros(int(below.max()) + 1, dtype=torch.long, device=ancestors.device)
    parents[below] = above
    return parents


def _gather_path(levels: Sequence[Tensor], labels: Tensor, ancestors: Tensor) -> Tensor:
    """Take the value of the node of each pixel's class on each level, (B, L, H, W)."""
    numbers = number_within_levels(ancestors)
    known = labels.clamp_min(0)
    nodes = [
        level.gather(1, table[known][:, None]) for level, table in zip(levels, numbers, strict=True)
    ]
    return torch.cat(nodes, 1)


def _negative_loss(logits: Tensor, gamma: float, is_focal: bool) -> Tensor:
    """-log(1 - s), with the factor s^γ if focal, for s = sigmoid(logits)."""
    loss = F.softplus(logits)
    return logits.sigmoid().pow(gamma) * loss if is_focal else loss
