"""ProtoSeg's head: nonparametric prototypes in place of a decode head's classifier (Eq. 5-14)."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from protoseg.core.distances import Distance, class_scores, normalise
from protoseg.core.losses import IGNORED, prototype_losses
from protoseg.core.prototypes import Assignment, Distributed, Init, PrototypeBank
from protoseg.models.layers import project, rows_to_map
from protoseg.models.wrapped_head import WrappedHead

UpdatePixels = Literal["all", "correct"]
Norm = Literal["none", "layer"]


@MODELS.register_module()
class PrototypeHead(WrappedHead):
    """Classify each pixel by its nearest prototype; learn only the embedding.

    No classifier weight and no learnable prototype is left: the prototypes and their counters are
    buffers of ``self.bank`` and travel in the checkpoint. Clustering and L_PPC, L_PPD work at the
    resolution of the decoder's feature map, with labels taken by nearest neighbour; L_CE at the
    resolution of the labels, with scores upsampled, as mmseg does for a parametric head.

    Args:
        decode_head: config of the wrapped mmseg decode head; its ``loss_decode`` gives L_CE.
        num_prototypes: K.
        ce_weight: weight of L_CE.
        ppc_weight: λ1 of Eq. 13.
        ppd_weight: λ2 of Eq. 13.
        temperature: τ of L_PPC (Eq. 11).
        score_temperature: divides the class scores before the softmax of Eq. 6.
        score_norm: ``layer`` puts a LayerNorm over the C scores (released code).
        projection: embed by two 1×1 convolutions with a norm and ReLU between (released code).
        embedding_norm: ``layer`` puts a LayerNorm over the D channels before L2 (released code).
        update_pixels: ``all``, or only those classified ``correct``-ly (released code).
        momentum, distance, huber_delta, kappa, sinkhorn_iterations, assignment, init, init_std,
            distributed: see `protoseg.core.prototypes.PrototypeBank`.
        wrapping: ``contrast`` and ``init_cfg``, see `WrappedHead`.

    Raises:
        ValueError: a value out of range, or a decode head without a classifier to replace.
    """

    def __init__(
        self,
        decode_head: dict[str, Any],
        num_prototypes: int = 10,
        momentum: float = 0.999,
        distance: Distance = "cosine",
        huber_delta: float = 0.1,
        kappa: float = 0.05,
        sinkhorn_iterations: int = 3,
        assignment: Assignment = "argmax",
        update_pixels: UpdatePixels = "all",
        ce_weight: float = 1.0,
        ppc_weight: float = 0.01,
        ppd_weight: float = 0.01,
        temperature: float = 0.1,
        score_temperature: float = 1.0,
        score_norm: Norm = "none",
        projection: bool = False,
        embedding_norm: Norm = "none",
        init: Init = "normal",
        init_std: float = 0.02,
        distributed: Distributed = "pooled",
        **wrapping: Any,
    ) -> None:
        super().__init__(decode_head, **wrapping)
        # A plain mmseg config has no schema that would notice a misspelt switch.
        _check_choice("distance", distance, Distance)
        _check_choice("assignment", assignment, Assignment)
        _check_choice("update_pixels", update_pixels, UpdatePixels)
        _check_choice("score_norm", score_norm, Norm)
        _check_choice("embedding_norm", embedding_norm, Norm)
        _check_choice("init", init, Init)
        _check_choice("distributed", distributed, Distributed)
        _check_positive("temperature", temperature)
        _check_positive("score_temperature", score_temperature)
        _check_positive("kappa", kappa)
        _check_positive("huber_delta", huber_delta)
        _check_positive("sinkhorn_iterations", sinkhorn_iterations)
        channels = self.feature_channels
        self.ce_weight = ce_weight
        self.ppc_weight = ppc_weight
        self.ppd_weight = ppd_weight
        self.temperature = temperature
        self.score_temperature = score_temperature
        self.update_pixels = update_pixels
        self.projection = project(channels, channels) if projection else nn.Identity()
        layer = embedding_norm == "layer"
        self.embedding_norm = nn.LayerNorm(channels) if layer else nn.Identity()
        self.score_norm = nn.LayerNorm(self.num_classes) if score_norm == "layer" else nn.Identity()
        self.bank = PrototypeBank(
            self.num_classes,
            num_prototypes,
            channels,
            momentum=momentum,
            distance=distance,
            huber_delta=huber_delta,
            kappa=kappa,
            sinkhorn_iterations=sinkhorn_iterations,
            assignment=assignment,
            init=init,
            init_std=init_std,
            distributed=distributed,
        )

    def embed(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Pixel embeddings i, channels last, (B, H, W, D) float32; unit vectors for cosine."""
        return self.embed_features(self.features(inputs))

    def embed_features(self, features: Tensor) -> Tensor:
        """`embed` from the decoder's features on."""
        features = self.projection(features).permute(0, 2, 3, 1)
        # Similarities decide assignments; half precision would tie pixels that are not tied.
        with torch.autocast(features.device.type, enabled=False):
            embeddings: Tensor = self.embedding_norm(features.float())
            return normalise(embeddings, self.bank.distance)

    def scores(self, best: Tensor) -> Tensor:
        """Logits of Eq. 6, (N, C), from the best similarity to each class, (N, C)."""
        scores: Tensor = self.score_norm(best)
        return scores / self.score_temperature

    def classify(self, features: Tensor) -> Tensor:
        """Class scores of Eq. 6, (B, C, H, W)."""
        embeddings = self.embed_features(features)
        with torch.autocast(embeddings.device.type, enabled=False):
            similarities = self.bank.similarity(embeddings.flatten(0, 2))
            scores = self.scores(class_scores(similarities, self.bank.num_prototypes))
        return rows_to_map(scores, embeddings)

    def losses(
        self, features: Tensor, batch_data_samples: list[Any]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """``L_CE + λ1 L_PPC + λ2 L_PPD`` (Eq. 13), then the prototypes' update (Eq. 14)."""
        embeddings = self.embed_features(features)
        pixels = embeddings.flatten(0, 2)
        labels = self.labels(batch_data_samples, embeddings.shape[1:3])
        with torch.autocast(embeddings.device.type, enabled=False):
            if self.training:
                self.bank.start(pixels, labels)
            similarities = self.bank.similarity(pixels)
            target, moved = self.bank.assign(similarities, labels)
            best, contrast, compact = prototype_losses(
                similarities,
                target,
                self.bank.num_prototypes,
                self.temperature,
                self.bank.distance,
            )
            scores = self.scores(best)
            if self.training:
                if self.update_pixels == "correct":
                    moved = torch.where(scores.argmax(1) == labels, moved, IGNORED)
                self.bank.update(pixels, moved)
            score_map = rows_to_map(scores, embeddings)
            # Done with, and the loss at the resolution of the labels is where memory peaks.
            del embeddings, pixels, best, scores
            losses: dict[str, Tensor] = self.head.loss_by_feat(score_map, batch_data_samples)
        for name in losses:
            if "loss" in name:
                losses[name] = self.ce_weight * losses[name]
        losses["loss_ppc"] = self.ppc_weight * contrast
        losses["loss_ppd"] = self.ppd_weight * compact
        return losses, score_map


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name}: unknown '{value}'; known: {', '.join(get_args(choices))}")


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name}: {value} is out of range; greater than 0")
