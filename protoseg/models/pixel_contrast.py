"""The pixel contrast module of a head: projection, loss and memory (ContrastiveSeg)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from protoseg.core.collective import all_gather, rank, world_size
from protoseg.core.distances import normalise_vectors
from protoseg.core.memory_bank import ContrastMemory
from protoseg.core.pixel_contrast import choose_anchors, choose_samples, compute_contrast_loss
from protoseg.models.layers import build_projection, draw_random_keys

Selection = Literal["hard", "random"]


class PixelContrast(nn.Module):
    """``λ L_NCE`` on projected decoder features; used in training only.

    A batch is compared with itself and with the memory of past batches, and is then added to the
    memory. Random numbers come from torch's generator of the device.

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
        pixel_queue, region_queue, pixels_per_image: see `protoseg.core.memory_bank.ContrastMemory`.

    Raises:
        ValueError: a value is out of range.
    """

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
        if selection not in get_args(Selection):
            known = ", ".join(get_args(Selection))
            raise ValueError(f"contrast.selection: unknown '{selection}'; known: {known}")
        self.num_classes = num_classes
        self.weight = weight
        self.temperature = temperature
        self.anchors = anchors
        self.positives = positives
        self.negatives = negatives
        self.selection = selection
        self.projection = build_projection(in_channels, channels)
        self.memory = ContrastMemory(
            num_classes,
            channels,
            pixel_queue=pixel_queue,
            region_queue=region_queue,
            pixels_per_image=pixels_per_image,
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
            loss = self.compute_loss(embeddings, labels, predicted != labels)
            if self.training:
                self.memory.push_batch(embeddings, labels, images, draw_random_keys(labels))
        return self.weight * loss

    def compute_loss(self, embeddings: Tensor, labels: Tensor, wrong: Tensor) -> Tensor:
        """Compute ``L_NCE`` without changing the memory.

        Args:
            embeddings: unit vectors, (N, D), with the same N in every process.
            labels: (N,).
            wrong: (N,) bool, whether the pixel is classified wrongly.
        """
        hard = self.selection == "hard"
        chosen, anchor_labels = choose_anchors(
            labels,
            wrong if hard else torch.zeros_like(wrong),
            self.num_classes,
            max(1, self.anchors // world_size()),
            draw_random_keys(labels),
        )
        anchors = embeddings.index_select(0, chosen)
        with torch.no_grad():
            batch = all_gather(anchors.detach()).flatten(0, 1), all_gather(anchor_labels).flatten()
            samples, sample_labels = self.memory.collect_samples(batch)
            # The samples of the batch follow those of the memory, in rank order.
            first = len(samples) - (world_size() - rank()) * len(anchors)
            anchor_samples = first + torch.arange(len(anchors), device=anchors.device)
        selected = choose_samples(
            anchors,
            anchor_labels,
            samples,
            sample_labels,
            anchor_samples,
            self.num_classes,
            positives=self.positives,
            negatives=self.negatives,
            hard=hard,
            random_keys=draw_random_keys(sample_labels),
            max_per_class=self.memory.slots_per_class + world_size() * len(anchors),
        )
        return compute_contrast_loss(anchors, samples, selected, self.temperature)
