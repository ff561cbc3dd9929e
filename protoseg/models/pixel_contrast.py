"""The pixel contrast module of a head: projection, loss and memory (ContrastiveSeg)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from protoseg.core.collective import all_gather, rank, world_size
from protoseg.core.distances import normalise_vectors
from protoseg.core.memory_bank import ContrastMemory, Start
from protoseg.core.memory_bank_slips import Slip
from protoseg.core.memory_contrast import choose_pair_anchors, compute_memory_contrast
from protoseg.core.pixel_contrast import choose_anchors, choose_samples, compute_contrast_loss
from protoseg.models.layers import build_projection, draw_random_keys

Selection = Literal["hard", "random"]
MemoryContrast = Literal["sampled", "all"]
AnchorSampling = Literal["per_class", "per_pair"]
ProjectionInput = Literal["decoder", "backbone"]


class PixelContrast(nn.Module):
    """``λ L_NCE`` on projected decoder features; used in training only.

    A batch is compared with itself and with the memory of past batches, or with the memory alone,
    and is then added to the memory. Random numbers come from torch's generator of the device.

    Args:
        in_channels: channels of the decoder features.
        num_classes: C.
        weight: λ.
        channels: D of the projection.
        temperature: τ.
        anchors: A, in all processes together.
        positives, negatives: numbers of samples per anchor.
        selection: ``hard`` or ``random``. With ``hard``, half of the anchors are wrongly classified
            pixels and half of the samples are the hardest.
        pixel_queue, region_queue, pixels_per_image, memory_start, slips: see
            `protoseg.core.memory_bank.ContrastMemory`.
        memory_contrast: ``sampled``, or ``all`` for every entry of the memory and no other sample.
        warmup_iterations: training iterations with weight 0, in which the memory fills.
        anchor_sampling: ``per_class``, or ``per_pair`` for (image, class) pairs with more than
            ``max_views`` pixels.
        max_views: maximum number of anchors of a pair.
        sample_gradient: whether samples of the batch get a gradient; only without memory.
        base_temperature: the loss is multiplied by τ / this value; 0 for no factor.
        projection_input: read by `protoseg.models.wrapped_head.WrappedHead`.

    Raises:
        ValueError: a value is out of range.
    """

    iterations: Tensor

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        weight: float = 0.1,
        channels: int = 256,
        temperature: float = 0.1,
        anchors: int = 1024,
        positives: int = 1024,
        negatives: int = 2048,
        selection: Selection = "hard",
        pixel_queue: int = 5000,
        region_queue: int = 5000,
        pixels_per_image: int = 10,
        memory_contrast: MemoryContrast = "sampled",
        memory_start: Start = "empty",
        warmup_iterations: int = 0,
        anchor_sampling: AnchorSampling = "per_class",
        max_views: int = 100,
        sample_gradient: bool = False,
        base_temperature: float = 0.0,
        projection_input: ProjectionInput = "decoder",
        slips: Sequence[Slip] = (),
    ) -> None:
        super().__init__()
        for name, value in (("weight", weight), ("temperature", temperature)):
            if not value > 0:
                raise ValueError(f"contrast.{name}: {value} is out of range; greater than 0")
        sizes = {"channels": channels, "anchors": anchors, "positives": positives}
        sizes |= {"negatives": negatives, "pixels_per_image": pixels_per_image}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"contrast.{name}: {value} is out of range; at least 1")
        for name, value in (("pixel_queue", pixel_queue), ("region_queue", region_queue)):
            if value < 0:
                raise ValueError(f"contrast.{name}: {value} is out of range; at least 0")
        choices: dict[str, tuple[str, Any]] = {
            "selection": (selection, Selection),
            "memory_contrast": (memory_contrast, MemoryContrast),
            "memory_start": (memory_start, Start),
            "anchor_sampling": (anchor_sampling, AnchorSampling),
            "projection_input": (projection_input, ProjectionInput),
        }
        for name, (choice, known) in [*choices.items(), *(("slips", (s, Slip)) for s in slips)]:
            if choice not in get_args(known):
                names = ", ".join(get_args(known))
                raise ValueError(f"contrast.{name}: unknown '{choice}'; known: {names}")
        if memory_contrast == "all" and not pixel_queue + region_queue:
            raise ValueError("contrast.memory_contrast: all needs pixel_queue or region_queue")
        if sample_gradient and pixel_queue + region_queue:
            raise ValueError("contrast.sample_gradient: entries of the memory have no gradient")
        self.num_classes = num_classes
        self.weight = weight
        self.temperature = temperature
        self.anchors = anchors
        self.positives = positives
        self.negatives = negatives
        self.selection = selection
        self.memory_contrast = memory_contrast
        self.warmup_iterations = warmup_iterations
        self.anchor_sampling = anchor_sampling
        self.max_views = max_views
        self.sample_gradient = sample_gradient
        self.base_temperature = base_temperature
        self.projection_input = projection_input
        if warmup_iterations:  # otherwise checkpoints have no such entry
            self.register_buffer("iterations", torch.zeros((), dtype=torch.long))
        self.projection = build_projection(in_channels, channels)
        self.memory = ContrastMemory(
            num_classes,
            channels,
            pixel_queue=pixel_queue,
            region_queue=region_queue,
            pixels_per_image=pixels_per_image,
            start=memory_start,
            slips=slips,
        )

    def forward(self, features: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
        """Compute ``λ L_NCE`` of a batch; in training, add the batch to the memory.

        Args:
            features: (B, D', H, W).
            labels: (B·H·W,); values outside ``[0, C)`` are ignored.
            scores: class scores, (B, C, H, W); wrongly classified pixels are hard.
        """
        images = len(features)
        projected = self.projection(features).permute(0, 2, 3, 1).flatten(0, 2)
        with torch.autocast(projected.device.type, enabled=False):
            embeddings = normalise_vectors(projected.float(), "cosine")
            predicted = scores.detach().argmax(1).flatten()
            loss = self.compute_loss(embeddings, labels, predicted != labels, images)
            if self.training:
                size = features.shape[2], features.shape[3]
                self.memory.push_batch(embeddings, labels, images, draw_random_keys(labels), size)
        if self.warmup_iterations:
            weight = torch.where(self.iterations < self.warmup_iterations, 0.0, self.weight)
            if self.training:
                self.iterations += 1
            return weight * loss
        return self.weight * loss

    def compute_loss(
        self, embeddings: Tensor, labels: Tensor, wrong: Tensor, images: int
    ) -> Tensor:
        """Compute ``L_NCE`` without changing the memory.

        Args:
            embeddings: unit vectors, (N, D), with the same N in every process.
            labels: (N,).
            wrong: (N,) bool, whether the pixel is classified wrongly.
            images: B, a divisor of N.
        """
        factor = self.temperature / self.base_temperature if self.base_temperature else 1.0
        chosen, anchor_labels = self._choose_anchors(labels, wrong, images)
        anchors = embeddings.index_select(0, chosen)
        if self.memory_contrast == "all":
            entries = self.memory.list_entries()
            return factor * compute_memory_contrast(
                anchors, anchor_labels, entries, self.temperature
            )
        return factor * self._compute_sampled(anchors, anchor_labels)

    def _choose_anchors(self, labels: Tensor, wrong: Tensor, images: int) -> tuple[Tensor, Tensor]:
        """Choose the anchors of this process: pixel indices and labels, (A,) each."""
        hard = wrong if self.selection == "hard" else torch.zeros_like(wrong)
        count, random_keys = max(1, self.anchors // world_size()), draw_random_keys(labels)
        if self.anchor_sampling == "per_pair":
            return choose_pair_anchors(
                labels, hard, images, self.num_classes, count, self.max_views, random_keys
            )
        return choose_anchors(labels, hard, self.num_classes, count, random_keys)

    def _compute_sampled(self, anchors: Tensor, anchor_labels: Tensor) -> Tensor:
        """Compute the loss against chosen samples of the batch and the memory."""
        with torch.no_grad():
            batch = all_gather(anchors.detach()).flatten(0, 1), all_gather(anchor_labels).flatten()
            samples, sample_labels = self.memory.collect_samples(batch)
            # The samples of the batch follow those of the memory, in rank order.
            first = len(samples) - (world_size() - rank()) * len(anchors)
            anchor_samples = first + torch.arange(len(anchors), device=anchors.device)
        if self.sample_gradient:
            last = first + len(anchors)
            samples = torch.cat([samples[:first], anchors, samples[last:]])
        selected = choose_samples(
            anchors,
            anchor_labels,
            samples,
            sample_labels,
            anchor_samples,
            self.num_classes,
            positives=self.positives,
            negatives=self.negatives,
            hard=self.selection == "hard",
            random_keys=draw_random_keys(sample_labels),
            max_per_class=self.memory.slots_per_class + world_size() * len(anchors),
        )
        return compute_contrast_loss(
            anchors, samples, selected, self.temperature, sample_gradient=self.sample_gradient
        )
