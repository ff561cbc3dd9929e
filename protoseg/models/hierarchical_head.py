"""The head of Deep Hierarchical Semantic Segmentation (HSSN): a score for each node of a tree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from mmengine.model import normal_init
from mmseg.registry import MODELS
from torch import Tensor, nn

from protoseg.core.distances import normalise_vectors
from protoseg.core.losses import IGNORED
from protoseg.core.trees.losses import (
    Inference,
    average_over_valid,
    compute_level_losses,
    compute_tree_loss,
    score_classes,
)
from protoseg.core.trees.node_loss import TreeLoss
from protoseg.core.trees.region_loss import compute_region_loss
from protoseg.core.trees.tables import TreeTables
from protoseg.core.trees.triplets import compute_tree_triplets
from protoseg.models.layers import build_projection, draw_random_keys
from protoseg.models.wrapped_head import WrappedHead

TripletSampling = Literal["random", "raster"]
Void = Literal["ignored", "class_zero"]


@MODELS.register_module()
class HierarchicalHead(WrappedHead):
    """One sigmoid score for each node of a tree of classes.

    The losses use logits at the resolution of the labels, as in mmseg; the triplets use the last
    feature map of the backbone that the decode head reads.

    Args:
        decode_head: config of the wrapped mmseg decode head; its ``loss_decode`` is unused.
        hierarchy: path of each class, highest group first.
        iterations: training iterations over which the weight of the triplets rises.
        tree_loss, tree_weight, focal_gamma: see `protoseg.core.trees.losses.compute_tree_loss`.
        ce_weight: weight of the softmax cross-entropies of all levels.
        rmi_weight: weight of the region mutual information loss.
        triplet_weight: weight of the tree-triplet loss after ``iterations``.
        triplet_margin, triplet_tree_margin, triplet_samples: see
            `protoseg.core.trees.triplets.compute_tree_triplets`.
        triplet_sampling: ``random``, or ``raster`` for the first pixels of a batch (released).
        triplet_channels: D of the embedding.
        inference: see `protoseg.core.trees.losses.score_classes`.
        void: ``class_zero`` trains ignored pixels as the first class (released, by mistake).
        wrapping: ``contrast`` and ``init_cfg``, see `WrappedHead`.

    Raises:
        ValueError: an unknown value, or paths that do not fit the classes.
    """

    training_only: tuple[str, ...] = ("contrast", "embedding")
    iteration: Tensor

    def __init__(
        self,
        decode_head: dict[str, Any],
        hierarchy: Sequence[Sequence[str]],
        iterations: int,
        tree_loss: TreeLoss = "focal_tree_min",
        tree_weight: float = 1.0,
        focal_gamma: float = 2.0,
        ce_weight: float = 0.0,
        rmi_weight: float = 0.0,
        triplet_weight: float = 0.5,
        triplet_margin: float = 0.1,
        triplet_tree_margin: float = 1.0,
        triplet_samples: int = 200,
        triplet_sampling: TripletSampling = "random",
        triplet_channels: int = 256,
        inference: Inference = "path",
        void: Void = "ignored",
        **wrapping: Any,
    ) -> None:
        super().__init__(decode_head, **wrapping)
        for name, value, choices in (
            ("tree_loss", tree_loss, TreeLoss),
            ("triplet_sampling", triplet_sampling, TripletSampling),
            ("inference", inference, Inference),
            ("void", void, Void),
        ):
            if value not in get_args(choices):
                known = ", ".join(get_args(choices))
                raise ValueError(f"{name}: unknown '{value}'; known: {known}")
        self.tree = TreeTables(hierarchy, self.num_classes)
        self.iterations = iterations
        self.tree_loss = tree_loss
        self.tree_weight = tree_weight
        self.focal_gamma = focal_gamma
        self.ce_weight = ce_weight
        self.rmi_weight = rmi_weight
        self.triplet_weight = triplet_weight
        self.triplet_margin = triplet_margin
        self.triplet_tree_margin = triplet_tree_margin
        self.triplet_samples = triplet_samples
        self.triplet_sampling = triplet_sampling
        self.inference = inference
        self.void = void
        self.classifier = nn.Conv2d(self.feature_channels, self.tree.num_nodes, 1)
        self.embedding: nn.Module | None = None
        if triplet_weight:
            # Of the config: with resize_concat the decode head has the sum of its inputs.
            inputs = decode_head["in_channels"]
            last = inputs[-1] if isinstance(inputs, list | tuple) else inputs
            self.embedding = build_projection(int(last), triplet_channels)
            self.register_buffer("iteration", torch.zeros((), dtype=torch.long))

    def init_weights(self) -> None:
        """Initialise the classifier like mmseg's ``conv_seg``: normal, std 0.01."""
        super().init_weights()
        normal_init(self.classifier, std=0.01)

    def classify(self, features: Tensor) -> Tensor:
        """Compute class scores, (B, C, H, W), from the decoder's feature map."""
        return self._score_classes(self.classifier(features))

    def predict(
        self, inputs: tuple[Tensor, ...], batch_img_metas: list[dict[str, Any]], test_cfg: Any
    ) -> Tensor:
        """Predict class scores at the size of the input images, from resized logits, (B, C, H, W).

        The sigmoid follows the resize, as in training.
        """
        logits = self.classifier(self.features(inputs))
        resized: Tensor = self.head.predict_by_feat(logits, batch_img_metas)
        return self._score_classes(resized)

    def loss(
        self, inputs: tuple[Tensor, ...], batch_data_samples: list[Any], train_cfg: Any
    ) -> dict[str, Tensor]:
        """Compute the losses of `losses`, and the tree-triplet loss."""
        losses = super().loss(inputs, batch_data_samples, train_cfg)
        if self.embedding is not None:
            losses["loss_triplet"] = self._compute_triplets(inputs, batch_data_samples)
        return losses

    def losses(
        self, features: Tensor, batch_data_samples: list[Any]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the tree loss, the cross-entropies and the region loss, each weighted."""
        logits = self.classifier(features)
        truth = self.head._stack_batch_gt(batch_data_samples)
        size = truth.shape[2:]
        labels = self.labels(batch_data_samples, size).unflatten(0, (len(logits), *size))
        with torch.autocast(logits.device.type, enabled=False):
            resized = self._resize(logits.float(), size)
            tree = self.tree
            loss = compute_tree_loss(resized, labels, tree, self.tree_loss, self.focal_gamma)
            losses = {"loss_tree": self.tree_weight * loss}
            if self.ce_weight:
                levels = resized.split(list(tree.level_sizes), 1)
                entropies = compute_level_losses(levels, labels, tree)
                losses["loss_ce"] = self.ce_weight * torch.stack(entropies).sum()
            if self.rmi_weight:
                region = compute_region_loss(resized.sigmoid(), labels, tree.ancestors)
                losses["loss_rmi"] = self.rmi_weight * region
            predicted = resized[:, : self.num_classes].detach().argmax(1)
            correct = average_over_valid((predicted == labels).float(), labels != IGNORED)
        losses["acc_seg"] = 100 * correct
        return losses, self._score_classes(logits)

    def labels(self, batch_data_samples: list[Any], size: Sequence[int]) -> Tensor:
        """Resize ground truth, see `WrappedHead.labels`; with ``void=class_zero`` none is ignored.

        The released code changes the label map itself, before all other losses read it.
        """
        labels = super().labels(batch_data_samples, size)
        return labels.clamp_min(0) if self.void == "class_zero" else labels

    def _score_classes(self, logits: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            return score_classes(
                logits.float(), self.tree.ancestors, self.inference, self.num_classes
            )

    def _compute_triplets(
        self, inputs: tuple[Tensor, ...], batch_data_samples: list[Any]
    ) -> Tensor:
        assert self.embedding is not None
        maps = self.embedding(inputs[self._last_map])
        labels = self.labels(batch_data_samples, maps.shape[2:])
        rows = maps.permute(0, 2, 3, 1).flatten(0, 2)
        weight = rise_by_cosine(int(self.iteration), self.iterations) * self.triplet_weight
        if self.training:
            self.iteration += 1
        with torch.autocast(rows.device.type, enabled=False):
            is_random = self.triplet_sampling == "random"
            loss = compute_tree_triplets(
                normalise_vectors(rows.float(), "cosine"),
                labels,
                self.tree.distances,
                height=self.tree.height,
                margin=self.triplet_margin,
                tree_margin=self.triplet_tree_margin,
                max_triplets=self.triplet_samples,
                random_keys=draw_random_keys(labels) if is_random else None,
            )
        return weight * loss

    @property
    def _last_map(self) -> int:
        """Index of the last feature map that the decode head reads."""
        index = self.head.in_index
        return int(index[-1] if isinstance(index, list | tuple) else index)


def rise_by_cosine(iteration: int, iterations: int) -> float:
    """The share of the triplet weight, from 0 at the first iteration to 1 after ``iterations``.

    It is ½ (1 + cos(π (t - T)/T)); the released code multiplies it by ½, our ``triplet_weight``.
    """
    if iteration >= iterations:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (iteration - iterations) / iterations))
