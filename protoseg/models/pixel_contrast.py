"""Pixel contrast as a part of any head: projection, loss and memory (ContrastiveSeg)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from protoseg.core.collective import gather, rank, world_size
from protoseg.core.distances import normalise
from protoseg.core.memory_bank import ContrastMemory
from protoseg.core.pixel_contrast import choose_anchors, choose_samples, contrast_loss
from protoseg.models.layers import project

Selection = Literal["hard", "random"]


class PixelContrast(nn.Module):
    """``λ L_NCE`` on the projected features of a decoder; for training alone.

    The batch is compared with itself and with the memory of past batches, and enters the memory
    afterwards. What is drawn is drawn from torch's generator of the device.

    Args:
        in_channels: channels of the decoder's features.
        num_classes: C.
        weight: λ.
        channels: D of the projection.
        temperature: τ.
        anchors: A, over all processes together.
        positives, negatives: samples of an anchor.
        selection: ``hard``: half of the anchors are pixels classified wrongly, half of the samples
            the hardest; ``random``: all by lot.
        pixel_queue, region_queue, pixels_per_image: see `protoseg.core.memory_bank.ContrastMemory`.

    Raises:
        ValueError: a value out of range.
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
        self.projection = project(in_channels, channels)
        self.memory = ContrastMemory(
            num_classes,
            channels,
            pixel_queue=pixel_queue,
            region_queue=region_queue,
            pixels_per_image=pixels_per_image,
        )

    def forward(self, features: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
        """The loss of a batch, which in training then enters the memory.

        Args:
            features: (B, D', H, W).
            labels: (B·H·W,); outside ``[0, C)`` means ignored.
            scores: class scores, (B, C, H, W), whose mistakes make pixels hard.
        """
        images = len(features)
        projected = self.projection(features).permute(0, 2, 3, 1).flatten(0, 2)
        with torch.autocast(projected.device.type, enabled=False):
            embeddings = normalise(projected.float(), "cosine")
            predicted = scores.detach().argmax(1).flatten()
            loss = self.loss(embeddings, labels, predicted != labels)
            if self.training:
                self.memory.push(embeddings, labels, images, _random_keys(labels))
        return self.weight * loss

    def loss(self, embeddings: Tensor, labels: Tensor, wrong: Tensor) -> Tensor:
        """``L_NCE`` of unit vectors (N, D), N alike in every process; nothing is remembered."""
        hard = self.selection == "hard"
        chosen, own = choose_anchors(
            labels,
            wrong if hard else torch.zeros_like(wrong),
            self.num_classes,
            max(1, self.anchors // world_size()),
            _random_keys(labels),
        )
        anchors = embeddings.index_select(0, chosen)
        with torch.no_grad():
            batch = gather(anchors.detach()).flatten(0, 1), gather(own).flatten()
            samples, sample_labels = self.memory.samples(batch)
            # The batch stands behind the memory, rank after rank.
            first = len(samples) - (world_size() - rank()) * len(own)
            itself = first + torch.arange(len(own), device=own.device)
        selected = choose_samples(
            anchors,
            own,
            samples,
            sample_labels,
            itself,
            self.num_classes,
            positives=self.positives,
            negatives=self.negatives,
            hard=hard,
            random_keys=_random_keys(sample_labels),
            most=self.memory.slots + world_size() * len(own),
        )
        return contrast_loss(anchors, samples, selected, self.temperature)


def _random_keys(like: Tensor) -> Tensor:
    return torch.rand(len(like), device=like.device)
