"""A decode head for class activation maps from image-level labels, with prototype contrast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import normal_init
from mmseg.registry import MODELS
from torch import Tensor, nn

from protoseg.core import weak_released, weak_supervision
from protoseg.core.weak_supervision import Prototypes, View
from protoseg.models.layers import draw_random_keys
from protoseg.models.wrapped_head import WrappedHead


@MODELS.register_module()
class CamHead(WrappedHead):
    """A 1×1 classifier with global average pooling, and a projection for the contrast losses.

    The first class is the background, which has no classifier. `protoseg.models.cam_network` calls
    this head with two views in training and with several scales in evaluation.

    Args:
        decode_head: config of the wrapped mmseg decode head.
        second_view, view_scale: whether there is a second view T, and its scale.
        cross_prototype, cross_cam, intra: which contrast losses are used.
        prototype_mining, pixel_sampling: selection of negatives and pixels in L_intra.
        cross_weight, intra_weight: α and β.
        top_pixels: K, the number of pixels per prototype.
        hardest, drawn: see `protoseg.core.weak_supervision.mine_prototypes`.
        temperature: τ.
        channels: D of the projection.
        unit_prototypes: see `protoseg.core.weak_supervision.estimate_prototypes`.
        threshold: background threshold of pseudo-labels.
        scales, flip: test-time scales and flipping.
        prototype_features, prototype_images, mining_rule, sampling_rule, intra_mean,
            projection_bias: see `protoseg.config.methods.WeakContrastMethod`.
        wrapping: ``init_cfg``, see `WrappedHead`.

    Raises:
        ValueError: a switch requires another one, or ``contrast`` is set.
    """

    training_only = ("projection",)

    def __init__(
        self,
        decode_head: dict[str, Any],
        *,
        second_view: bool = False,
        view_scale: float = 0.5,
        cross_prototype: bool = False,
        cross_cam: bool = False,
        intra: bool = False,
        prototype_mining: bool = False,
        pixel_sampling: bool = False,
        cross_weight: float = 0.05,
        intra_weight: float = 0.05,
        top_pixels: int = 32,
        hardest: float = 0.6,
        drawn: float = 0.5,
        temperature: float = 0.1,
        channels: int = 128,
        unit_prototypes: bool = True,
        threshold: float = 0.2,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        prototype_features: str = "unit",
        prototype_images: str = "labelled",
        mining_rule: str = "semi_hard",
        sampling_rule: str = "hardest",
        intra_mean: str = "pixels",
        projection_bias: bool = True,
        **wrapping: Any,
    ) -> None:
        if wrapping.get("contrast"):
            raise ValueError("contrast: pixel contrast needs label maps; use contrast=none")
        _check_switch(second_view, cross_prototype, "cross_prototype", "second_view")
        _check_switch(second_view, cross_cam, "cross_cam", "second_view")
        _check_switch(intra, prototype_mining, "prototype_mining", "intra")
        _check_switch(intra, pixel_sampling, "pixel_sampling", "intra")
        super().__init__(decode_head, **wrapping)
        self.second_view, self.view_scale = second_view, view_scale
        self.cross_prototype, self.cross_cam, self.intra = cross_prototype, cross_cam, intra
        self.prototype_mining, self.pixel_sampling = prototype_mining, pixel_sampling
        self.cross_weight, self.intra_weight = cross_weight, intra_weight
        self.top_pixels, self.hardest, self.drawn = top_pixels, hardest, drawn
        self.temperature, self.unit_prototypes = temperature, unit_prototypes
        self.background_threshold, self.scales, self.flip = threshold, tuple(scales), flip
        self.classifier = nn.Conv2d(self.feature_channels, self.num_classes - 1, 1, bias=False)
        self.channels = channels
        self.prototype_features, self.prototype_images = prototype_features, prototype_images
        self.mining_rule, self.sampling_rule = mining_rule, sampling_rule
        self.intra_mean, self.projection_bias = intra_mean, projection_bias
        self.projection: nn.Conv2d | None = None
        if cross_prototype or cross_cam or intra:
            self.projection = nn.Conv2d(self.feature_channels, channels, 1, bias=projection_bias)

    def init_weights(self) -> None:
        """Initialise the classifier like mmseg's ``conv_seg``: normal, std 0.01.

        The projection keeps torch's default.
        """
        super().init_weights()
        normal_init(self.classifier, std=0.01)

    def classify(self, features: Tensor) -> Tensor:
        """Compute class activations, (B, C, H, W); 0 for the background."""
        return F.pad(self.classifier(features), (0, 0, 0, 0, 1, 0))

    def encode_image_labels(self, image_labels: Sequence[Sequence[int]], like: Tensor) -> Tensor:
        """Convert image-level labels, class indices from 1, to (B, C - 1) bool."""
        present = torch.zeros(len(image_labels), self.num_classes - 1, dtype=torch.bool)
        for image, classes in enumerate(image_labels):
            present[image, [c - 1 for c in classes]] = True
        return present.to(like.device)

    def compute_view_losses(
        self, views: Sequence[Tensor], present: Tensor, covered: Tensor
    ) -> dict[str, Tensor]:
        """Compute ``L_cls``, ``α L_cross`` and ``β L_intra``, each a mean over the views.

        Args:
            views: features of view S and, with ``second_view``, of T, (B, D', H, W) each.
            present: image-level labels, (B, C - 1) bool.
            covered: (B, 2), share of height and width that is not padding.
        """
        activations = [self.classifier(features) for features in views]
        scores = [_pool_average(each, _find_inside(each, covered)) for each in activations]
        classified = [
            weak_supervision.compute_classification_loss(each, present) for each in scores
        ]
        losses = {"loss_cls": torch.stack(classified).mean()}
        if self.projection is None:
            return losses
        grid = views[-1].shape[2:]
        projected = [self.projection(features).relu() for features in views]
        with torch.autocast(views[0].device.type, enabled=False):
            views_with_prototypes = [
                self._build_view(embedding, activation, present, covered, grid)
                for embedding, activation in zip(projected, activations, strict=True)
            ]
            pixels = [view for view, _ in views_with_prototypes]
            own = [prototypes for _, prototypes in views_with_prototypes]
            if self.cross_prototype or self.cross_cam:
                losses["loss_cross"] = self.cross_weight * self._compute_cross(pixels, own)
            if self.intra:
                intra = [
                    self._compute_intra(view, prototypes)
                    for view, prototypes in zip(pixels, own, strict=True)
                ]
                losses["loss_intra"] = self.intra_weight * torch.stack(intra).mean()
        return losses

    def _build_view(
        self, projected: Tensor, activation: Tensor, present: Tensor, covered: Tensor, grid: Any
    ) -> tuple[View, Prototypes]:
        """Compute the pixels of a view at the grid of the smaller view, and their prototypes."""
        projected, activation = (
            each.float()
            if each.shape[2:] == grid
            else F.interpolate(each.float(), size=grid, mode="bilinear", align_corners=False)
            for each in (projected, activation.detach())
        )
        inside = _find_inside(activation, covered)
        maps = weak_supervision.normalise_maps(activation * inside[:, None], present)
        confidences = weak_supervision.add_background(maps) * inside[:, None]
        labels = torch.where(
            inside,
            weak_supervision.make_pseudo_labels(maps, self.background_threshold),
            weak_supervision.IGNORED,
        )
        view = View(
            # Normalised as a map: rows would give other last bits than in recorded runs.
            F.normalize(projected, dim=1).permute(0, 2, 3, 1).flatten(0, 2),
            confidences.permute(0, 2, 3, 1).flatten(0, 2),
            labels.flatten(),
        )
        chosen_from = view.confidences
        if self.prototype_images == "all":
            maps = weak_supervision.normalise_maps(
                activation * inside[:, None], torch.ones_like(present)
            )
            unmasked = weak_supervision.add_background(maps) * inside[:, None]
            chosen_from = unmasked.permute(0, 2, 3, 1).flatten(0, 2)
        prototypes = weak_supervision.estimate_prototypes(
            projected.permute(0, 2, 3, 1).flatten(0, 2)
            if self.prototype_features == "raw"
            else view.embeddings,
            chosen_from,
            self.top_pixels,
            draw_random_keys(view.labels),
            unit=self.unit_prototypes,
        )
        return view, prototypes

    def _compute_cross(self, views: Sequence[View], own: Sequence[Prototypes]) -> Tensor:
        total = views[0].embeddings.new_zeros(())
        for this, other in ((0, 1), (1, 0)):
            if self.cross_prototype:
                total = total + weak_supervision.compute_cross_prototype_loss(
                    views[this], own[other], self.temperature
                )
            if self.cross_cam:
                total = total + weak_supervision.compute_cross_cam_loss(
                    views[this], own[this], views[other], self.temperature
                )
        return total / 2

    def _compute_intra(self, view: View, own: Prototypes) -> Tensor:
        negatives = weights = None
        if self.prototype_mining and self.mining_rule == "by_rank":
            negatives = weak_released.mine_by_rank(view, own)
        elif self.prototype_mining:
            random_keys = torch.rand_like(view.confidences)
            negatives = weak_supervision.mine_prototypes(
                view, own, random_keys, hardest=self.hardest, drawn=self.drawn
            )
        if self.pixel_sampling:
            sample = (
                weak_released.sample_harder_pixels
                if self.sampling_rule == "after_hardest"
                else weak_supervision.sample_pixels
            )
            weights = sample(view, own, draw_random_keys(view.labels))
        if self.intra_mean == "classes":
            return weak_released.compute_contrast_by_class(
                view.embeddings,
                view.labels,
                own,
                self.temperature,
                negatives=negatives,
                weights=weights,
            )
        return weak_supervision.compute_intra_view_loss(
            view, own, self.temperature, negatives=negatives, weights=weights
        )


def _check_switch(is_available: bool, is_used: bool, name: str, required: str) -> None:
    if is_used and not is_available:
        raise ValueError(
            f"method.{name} requires method.{required}=true; set it, or disable {name}"
        )


def _find_inside(like: Tensor, covered: Tensor) -> Tensor:
    """Return which positions of a map are image, not padding, (B, H, W) bool."""
    rows, columns = (
        (torch.arange(size, device=like.device) + 0.5) / size
        < covered[:, axis, None].to(like.device)
        for axis, size in enumerate(like.shape[2:])
    )
    return rows[:, :, None] & columns[:, None, :]


def _pool_average(activations: Tensor, inside: Tensor) -> Tensor:
    """Average activations over the image without padding, (B, C - 1) float."""
    total = (activations.float() * inside[:, None]).sum((2, 3))
    return total / inside.sum((1, 2)).clamp_min(1)[:, None]
