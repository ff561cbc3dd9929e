"""The loss of a pixel over the nodes of a tree, with its gradient.

Plain operations of torch would allocate about 20 arrays of the size of the logits. Here, only the
gradient has that size; all other arrays have the size of a block of pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.core.distances import choose_block_rows
from protoseg.core.trees.tables import TreeTables

TreeLoss = Literal["sigmoid", "tree_min", "focal_tree_min"]


class PixelTreeLoss(torch.autograd.Function):
    """The sum over levels of the mean over nodes, for each pixel.

    The sigmoid is monotone, so minimum and maximum are taken of logits. A node has the loss
    ``f(x) = -log(1 - s(x))``, or ``s(x)^γ`` times that. Here x is the maximum of the logits at and
    below the node; on the path of the label it is minus the minimum at and above the node.

    The gradient goes to the node that has the minimum or maximum. If several have the maximum, a
    node precedes those below it, and those below share the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        classes: Tensor,
        tree: TreeTables,
        tree_loss: TreeLoss,
        gamma: float,
    ) -> Tensor:
        """Compute the losses, (B, N), and the gradient for `backward`.

        Args:
            ctx: of `torch.autograd.Function`.
            logits: (B, |V|, N).
            classes: in [0, C), (B, N).
            tree: its tables.
            tree_loss: see `protoseg.core.trees.losses.compute_tree_loss`.
            gamma: γ.
        """
        sizes = list(tree.level_sizes)
        losses = logits.new_empty(classes.shape)
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        for image, pixels in _iterate_blocks(logits):
            block = _Block(logits[image, :, pixels], classes[image, pixels], tree, tree_loss)
            logs = F.logsigmoid(block.opposite)
            slopes = None if gradient is None else gradient[image, :, pixels]
            scores = torch.neg(block.opposite, out=slopes).sigmoid_()
            factors = scores.pow(gamma) if tree_loss == "focal_tree_min" else None
            if slopes is not None:
                if factors is not None:
                    # f' = s^γ (s - γ (1 - s) log(1 - s))
                    slopes.addcmul_(logs, 1 - slopes, value=-gamma).mul_(factors)
                for nodes in slopes.split(sizes):
                    nodes.mul_(1 / len(nodes))
                block.pass_to_logits(slopes)
            if factors is not None:
                logs.mul_(factors)
            sums = [nodes.sum(0).mul_(-1 / len(nodes)) for nodes in logs.split(sizes)]
            losses[image, pixels] = torch.stack(sums).sum(0)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Multiply the gradient of each pixel, (B, |V|, N)."""
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0][:, None], None, None, None, None


class _Block:
    """The values x of some pixels of an image, see `PixelTreeLoss`.

    Args:
        logits: (|V|, N).
        classes: (N,).
        tree: its tables.
        tree_loss: ``sigmoid`` if each node decides alone.
    """

    def __init__(
        self, logits: Tensor, classes: Tensor, tree: TreeTables, tree_loss: TreeLoss
    ) -> None:
        self.logits = logits
        self.tree = tree
        self.is_alone = tree_loss == "sigmoid"
        self.path = tree.ancestors.index_select(1, classes)
        self.opposite = logits.neg()
        """-x in the notation of `PixelTreeLoss`, (|V|, N)."""
        minima = logits.gather(0, self.path)
        if not self.is_alone:
            levels = self.opposite.split(list(tree.level_sizes))
            for level in range(1, tree.height):
                parents = tree.list_parents(level)
                smallest = reduce_children(levels[level], levels[level - 1], parents, 0, "amin")
                levels[level].copy_(smallest)
            self.on_path = minima.clone()
            for level in range(tree.height - 2, -1, -1):
                torch.minimum(minima[level], minima[level + 1], out=minima[level])
            self.minima = minima
        self.opposite.scatter_(0, self.path, minima)

    def pass_to_logits(self, slopes: Tensor) -> None:
        """Pass the gradient of x to the nodes whose logits x is.

        Args:
            slopes: gradient of x, (|V|, N); changed into that of the logits.
        """
        on_path = slopes.gather(0, self.path).neg_()
        if not self.is_alone:
            slopes.scatter_(0, self.path, 0.0)
            self._pass_down(slopes)
            self._pass_up(on_path)
        slopes.scatter_(0, self.path, on_path)

    def _pass_down(self, slopes: Tensor) -> None:
        """Pass the gradient of maxima to the nodes below that have them."""
        # Comparisons write 0.0 or 1.0: arrays of truth values take 10 times longer on a CPU.
        sizes = list(self.tree.level_sizes)
        of_level, opposite = slopes.split(sizes), self.opposite.split(sizes)
        logits = self.logits.split(sizes)
        for level in range(self.tree.height - 1, 0, -1):
            parents = self.tree.list_parents(level)
            is_own = opposite[level].neg().eq_(logits[level])
            below = torch.addcmul(of_level[level], of_level[level], is_own, value=-1)
            of_level[level].mul_(is_own)
            is_maximum = opposite[level].index_select(0, parents).eq_(opposite[level - 1])
            number = torch.zeros_like(below).index_add_(0, parents, is_maximum)
            below.div_(number.clamp_min_(1))
            of_level[level - 1].addcmul_(below.index_select(0, parents), is_maximum)

    def _pass_up(self, on_path: Tensor) -> None:
        """Pass the gradient of minima, (L, N), to the nodes on the path that have them."""
        for level in range(self.tree.height - 1):
            is_own = self.minima[level].clone().eq_(self.on_path[level])
            own = on_path[level] * is_own
            on_path[level + 1].add_(on_path[level]).sub_(own)
            on_path[level].copy_(own)


def reduce_children(
    nodes: Tensor,
    children: Tensor,
    parents: Tensor,
    dim: int,
    extremum: Literal["amin", "amax"],
) -> Tensor:
    """Compute the smallest or largest of the values of each node and of its children.

    Args:
        nodes: values of the nodes of a level along the axis ``dim``.
        children: values of the nodes of the level below.
        parents: parent of each child, a number within the level.
        dim: axis of the nodes.
        extremum: which one.
    """
    with warnings.catch_warnings():
        # The interface of index_reduce may change. scatter_reduce takes 20 times longer on a CPU.
        warnings.filterwarnings("ignore", "index_reduce", UserWarning)
        return nodes.index_reduce(dim, parents, children, extremum)


def _iterate_blocks(logits: Tensor) -> Iterator[tuple[int, slice]]:
    """Yield (image, pixels) of blocks of (B, |V|, N)."""
    number = choose_block_rows(logits.shape[1], logits.device)
    for image in range(len(logits)):
        for first in range(0, logits.shape[2], number):
            yield image, slice(first, first + number)
