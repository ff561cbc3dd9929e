"""The head of ProtoSeg: nonparametric prototypes replace the classifier (Eq. 5-14)."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from protoseg.core.distances import Distance, compute_class_scores, normalise_vectors
from protoseg.core.losses import IGNORED, compute_prototype_losses, to_float32
from protoseg.core.prototypes import Assignment, Distributed, Init, InitBounds, PrototypeBank
from protoseg.models.layers import Projection, build_projection, rows_to_map
from protoseg.models.wrapped_head import WrappedHead

UpdatePixels = Literal["all", "correct"]
Norm = Literal["none", "layer"]
LossReduction = Literal["global_mean", "per_process_mean"]


@MODELS.register_module()
class PrototypeHead(WrappedHead):
    """Classify each pixel by its nearest prototype; only the embedding is learned.

    The prototypes and their counters are buffers of ``self.bank`` and are saved in checkpoints.
    Clustering, L_PPC and L_PPD use the resolution of the decoder's feature map, with labels resized
    by nearest neighbour. L_CE uses the resolution of the labels, with upsampled scores, as in
    mmseg.

    Args:
        decode_head: config of the wrapped mmseg decode head; its ``loss_decode`` is L_CE.
        num_prototypes: K.
        ce_weight: weight of L_CE.
        ppc_weight: λ1 of Eq. 13.
        ppd_weight: λ2 of Eq. 13.
        temperature: τ of L_PPC (Eq. 11).
        score_temperature: divisor of the class scores before the softmax of Eq. 6.
        score_norm: ``layer`` applies LayerNorm to the C scores (released code).
        projection: layers after the decoder, see `protoseg.models.layers.build_projection`.
        embedding_norm: ``layer`` applies LayerNorm to the D channels before L2 (released code).
        update_pixels: which pixels update prototypes: ``all``, or ``correct`` for correctly
            classified ones (released code).
        loss_reduction: with several processes, ``per_process_mean`` averages the mean of each
            process (released code) instead of all pixels.
        momentum: as distance, huber_delta, kappa, sinkhorn_iterations, assignment, init, init_std,
            init_bounds and distributed, an argument of `protoseg.core.prototypes.PrototypeBank`.
        wrapping: ``contrast`` and ``init_cfg``, see `WrappedHead`.

    Raises:
        ValueError: a value is out of range, or the decode head has no classifier.
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
        projection: Projection = "none",
        embedding_norm: Norm = "none",
        init: Init = "normal",
        init_std: float = 0.02,
        init_bounds: InitBounds = "two_std",
        distributed: Distributed = "pooled",
        loss_reduction: LossReduction = "global_mean",
        **wrapping: Any,
    ) -> None:
        super().__init__(decode_head, **wrapping)
        # A plain mmseg config has no schema that detects misspelt values.
        _check_choice("distance", distance, Distance)
        _check_choice("assignment", assignment, Assignment)
        _check_choice("update_pixels", update_pixels, UpdatePixels)
        _check_choice("score_norm", score_norm, Norm)
        _check_choice("embedding_norm", embedding_norm, Norm)
        _check_choice("init", init, Init)
        _check_choice("init_bounds", init_bounds, InitBounds)
        _check_choice("projection", projection, Projection)
        _check_choice("loss_reduction", loss_reduction, LossReduction)
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
        self.loss_reduction = loss_reduction
        self.projection = build_projection(channels, channels, projection)
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
            init_bounds=init_bounds,
            distributed=distributed,
        )

    def compute_embeddings(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Compute pixel embeddings, (B, H, W, D) float32; unit vectors for the cosine."""
        return self.embed_features(self.features(inputs))

    def embed_features(self, features: Tensor) -> Tensor:
        """Compute pixel embeddings, (B, H, W, D) float32, from the decoder's feature map."""
        features = self.projection(features).permute(0, 2, 3, 1)
        # Similarities decide assignments, and half precision creates ties between pixels.
        with torch.autocast(features.device.type, enabled=False):
            embeddings: Tensor = self.embedding_norm(to_float32(features))
            return normalise_vectors(embeddings, self.bank.distance)

    def scale_scores(self, best: Tensor) -> Tensor:
        """Compute the logits of Eq. 6, (N, C), from the best similarity per class, (N, C)."""
        scores: Tensor = self.score_norm(best)
        return scores / self.score_temperature

    def classify(self, features: Tensor) -> Tensor:
        """Compute the class scores of Eq. 6, (B, C, H, W)."""
        embeddings = self.embed_features(features)
        with torch.autocast(embeddings.device.type, enabled=False):
            similarities = self.bank.compute_similarities(embeddings.flatten(0, 2))
            scores = self.scale_scores(compute_class_scores(similarities, self.bank.num_prototypes))
        return rows_to_map(scores, embeddings)

    def losses(
        self, features: Tensor, batch_data_samples: list[Any]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Compute ``L_CE + λ1 L_PPC + λ2 L_PPD`` (Eq. 13), then update prototypes (Eq. 14)."""
        embeddings = self.embed_features(features)
        pixels = embeddings.flatten(0, 2)
        labels = self.labels(batch_data_samples, embeddings.shape[1:3])
        with torch.autocast(embeddings.device.type, enabled=False):
            if self.bank.training:
                self.bank.initialise_new_classes(pixels, labels)
            similarities = self.bank.compute_similarities(pixels)
            target, update = self.bank.assign_pixels(similarities, labels)
            best, contrast, compact = compute_prototype_losses(
                similarities,
                target,
                self.bank.num_prototypes,
                self.temperature,
                self.bank.distance,
                pooled=self.loss_reduction == "global_mean",
            )
            scores = self.scale_scores(best)
            if self.bank.training:
                if self.update_pixels == "correct":
                    update = torch.where(scores.argmax(1) == labels, update, IGNORED)
                self.bank.update_prototypes(pixels, update)
            score_map = rows_to_map(scores, embeddings)
            # Freed here, because L_CE at the resolution of the labels needs the most memory.
            del embeddings, pixels, best, scores
            losses: dict[str, Tensor] = self.head.loss_by_feat(score_map, batch_data_samples)
        for name in losses:
            if "loss" in name:
                losses[name] = self.ce_weight * losses[name]
        losses["loss_ppc"] = self.ppc_weight * contrast
        losses["loss_ppd"] = self.ppd_weight * compact
        return losses, score_map


def _check_choice(name: str, value: Any, choices: Any) -> None:
    if value not in get_args(choices):
        known = ", ".join(map(str, get_args(choices)))
        raise ValueError(f"{name}: unknown '{value}'; known: {known}")


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name}: {value} is out of range; greater than 0")
