"""The losses on trees of classes next to a binary cross-entropy over all nodes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.core.trees.losses import compute_tree_loss
from protoseg.core.trees.node_loss import TreeLoss
from protoseg.core.trees.tables import TreeTables

IMAGES = 2
SIZES = {19: 128, 124: 64, 847: 32}
"""Number of classes -> side of the label maps."""


def draw_tree(num_classes: int) -> TreeTables:
    """Draw a tree of three levels with about six classes a group and three groups a top group."""
    generator = torch.Generator().manual_seed(num_classes)
    groups = max(2, num_classes // 6)
    group = torch.randint(groups, (num_classes,), generator=generator).tolist()
    top = torch.randint(max(2, groups // 3), (groups,), generator=generator).tolist()
    paths = [(f"top {top[g]}", f"group {g}", f"class {c}") for c, g in enumerate(group)]
    return TreeTables(paths, num_classes)


@pytest.mark.parametrize("tree_loss", ["sigmoid", "tree_min", "focal_tree_min"])
@pytest.mark.parametrize("classes", SIZES)
def test_loss(
    case: Callable[..., None], device: torch.device, classes: int, tree_loss: TreeLoss
) -> None:
    """Forward and backward, from the logits to their gradient."""
    size, tree = SIZES[classes], draw_tree(classes).to(device)
    generator = torch.Generator().manual_seed(0)
    shape = (IMAGES, tree.num_nodes, size, size)
    logits = torch.randn(shape, generator=generator).to(device)
    labels = torch.randint(classes, (IMAGES, size, size), generator=generator).to(device)
    truth = torch.zeros_like(logits).scatter_(1, tree.ancestors[:, labels].movedim(0, 1), 1.0)

    def ours() -> Tensor:
        leaf = logits.detach().requires_grad_()
        loss = compute_tree_loss(leaf, labels, tree, tree_loss)
        loss.backward()
        return loss.detach()

    def compute_cross_entropy() -> Tensor:
        leaf = logits.detach().requires_grad_()
        loss = F.binary_cross_entropy_with_logits(leaf, truth)
        loss.backward()
        return loss.detach()

    if tree_loss == "sigmoid":  # the same sum, with other weights of the levels
        levels = list(tree.level_sizes)
        parts = zip(logits.split(levels, 1), truth.split(levels, 1), strict=True)
        expected = sum(F.binary_cross_entropy_with_logits(a, b) for a, b in parts)
        torch.testing.assert_close(ours(), expected, rtol=1e-4, atol=0)
    name = f"{tree_loss}, {classes} classes, {tree.num_nodes} nodes, {IMAGES} × {size}×{size}"
    others = {"binary cross-entropy": compute_cross_entropy}
    case("losses on trees", name, ours, others, memory=True, rounds=(7, 40))
