"""The head of ProtoSeg over a tree of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmseg.registry import MODELS
from torch import Tensor

from protoseg.core.trees.losses import compute_level_losses, take_level_maxima
from protoseg.core.trees.tables import TreeTables
from protoseg.models.prototype_head import PrototypeHead


@MODELS.register_module()
class PrototypeHierarchicalHead(PrototypeHead):
    """ProtoSeg with a cross-entropy on each level of a tree of classes; ours, not from a paper.

    The score of a node is the best of the scores of the classes below it, which is the best of all
    their prototypes.

    Args:
        decode_head: config of the wrapped mmseg decode head.
        hierarchy: path of each class, highest group first.
        iterations: unused; every head with a hierarchy gets it.
        level_weight: weight of the cross-entropy of each level above the classes.
        prototypes: the other arguments of `PrototypeHead`.
    """

    def __init__(
        self,
        decode_head: dict[str, Any],
        hierarchy: Sequence[Sequence[str]],
        iterations: int = 0,
        level_weight: float = 1.0,
        **prototypes: Any,
    ) -> None:
        super().__init__(decode_head, **prototypes)
        self.tree = TreeTables(hierarchy, self.num_classes)
        self.level_weight = level_weight

    def losses(
        self, features: Tensor, batch_data_samples: list[Any]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the losses of ProtoSeg, and the cross-entropies of the higher levels."""
        losses, scores = super().losses(features, batch_data_samples)
        truth = self.head._stack_batch_gt(batch_data_samples)
        size = truth.shape[2:]
        labels = self.labels(batch_data_samples, size).unflatten(0, (len(scores), *size))
        with torch.autocast(scores.device.type, enabled=False):
            levels = take_level_maxima(self._resize(scores, size), self.tree)
            entropies = compute_level_losses(levels, labels, self.tree)
        losses["loss_levels"] = self.level_weight * torch.stack(entropies).sum()
        return losses, scores
