"""The prototypes: initial values, assignment of pixels and momentum update (Eq. 8-10, 14)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self

import torch
from torch import Tensor, nn

from protoseg.core.collective import all_gather, all_sum, rank, world_size
from protoseg.core.distances import Distance, compute_similarities, normalise_vectors
from protoseg.core.losses import IGNORED, to_float32
from protoseg.core.segments import is_inside, sort_by_segment
from protoseg.core.sinkhorn import assign_pixels, select_own_similarities

Assignment = Literal["argmax", "gumbel"]
Init = Literal["normal", "pixels"]
InitBounds = Literal["two_std", "two"]
Distributed = Literal["pooled", "averaged"]


class PrototypeBank(nn.Module):
    """K prototypes for each of C classes, stored as buffers and never learned (Eq. 5-14).

    Buffers:
        prototypes: (C, K, D) float32; unit vectors for the cosine distance.
        updates: (C, K) int64, number of updates of each prototype.
        started: (C,) bool, whether the prototypes of a class are initialised.

    Args:
        num_classes: C.
        num_prototypes: K. With K = 1 pixels are assigned by label, without clustering.
        channels: D.
        momentum: μ of Eq. 14.
        distance: see `protoseg.core.distances.compute_similarities`.
        huber_delta: δ of the Huber distance.
        kappa: κ of Eq. 9.
        sinkhorn_iterations: number of Sinkhorn-Knopp steps.
        assignment: which prototype a pixel updates. ``argmax``: the argmax of L. ``gumbel``: a hard
            Gumbel sample with the probabilities of L as logits, as in the released code.
        init: ``normal``, cut at two standard deviations, or ``pixels``, K random pixels of
            the first batch that contains the class.
        init_std: standard deviation of ``normal``; unit vectors do not depend on it.
        init_bounds: ``two`` cuts ``normal`` at ± 2 instead, as in the released code.
        distributed: ``pooled`` clusters the pixels of all processes as one batch. ``averaged``
            clusters the pixels of each process and averages the prototypes, as in the released
            code.

    Raises:
        ValueError: a value is out of range.
    """

    prototypes: Tensor
    updates: Tensor
    started: Tensor

    def __init__(
        self,
        num_classes: int,
        num_prototypes: int,
        channels: int,
        *,
        momentum: float = 0.999,
        distance: Distance = "cosine",
        huber_delta: float = 0.1,
        kappa: float = 0.05,
        sinkhorn_iterations: int = 3,
        assignment: Assignment = "argmax",
        init: Init = "normal",
        init_std: float = 0.02,
        init_bounds: InitBounds = "two_std",
        distributed: Distributed = "pooled",
    ) -> None:
        super().__init__()
        if num_prototypes < 1:
            raise ValueError(f"num_prototypes: {num_prototypes} is out of range; at least 1")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum: {momentum} is out of range; between 0 and 1")
        self.num_classes = num_classes
        self.num_prototypes = num_prototypes
        self.channels = channels
        self.momentum = momentum
        self.distance: Distance = distance
        self.huber_delta = huber_delta
        self.kappa = kappa
        self.sinkhorn_iterations = sinkhorn_iterations
        self.assignment: Assignment = assignment
        self.init: Init = init
        self.init_std = init_std
        self.init_bounds: InitBounds = init_bounds
        self.distributed: Distributed = distributed
        shape = (num_classes, num_prototypes)
        self.register_buffer("prototypes", torch.zeros(*shape, channels))
        self.register_buffer("updates", torch.zeros(shape, dtype=torch.long))
        self.register_buffer("started", torch.zeros(num_classes, dtype=torch.bool))
        self.reset_prototypes()

    @torch.no_grad()
    def reset_prototypes(self) -> None:
        """Draw new initial prototypes and clear all counters."""
        bound = 2 * self.init_std if self.init_bounds == "two_std" else 2.0
        nn.init.trunc_normal_(self.prototypes, std=self.init_std, a=-bound, b=bound)
        self.prototypes.copy_(normalise_vectors(self.prototypes, self.distance))
        self.updates.zero_()
        self.started.fill_(self.init == "normal")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move with the model, but stay float32: half precision would round small updates to 0."""
        float32_prototypes = self.prototypes
        super()._apply(fn, recurse)
        if self.prototypes.dtype in (torch.float16, torch.bfloat16):
            self.prototypes = float32_prototypes.to(self.prototypes.device)
        return self

    def extra_repr(self) -> str:
        """Return the sizes and the main options."""
        return (
            f"classes={self.num_classes}, prototypes={self.num_prototypes}, "
            f"channels={self.channels}, momentum={self.momentum}, distance={self.distance}"
        )

    def compute_similarities(self, embeddings: Tensor) -> Tensor:
        """Compute similarities of pixels (N, D) to all prototypes, (N, C·K).

        Gradients reach the pixels only.
        """
        # A copy: DDP keeps the buffer, and `update_prototypes` changes it before backward reads it.
        # Not clone(): the inductor of torch 2.13 removes it although the buffer changes later.
        prototypes = self.prototypes * 1.0
        return compute_similarities(embeddings, prototypes, self.distance, self.huber_delta)

    @torch.no_grad()
    def assign_pixels(self, similarities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Assign each pixel to a prototype of its class (Eq. 8-10).

        Args:
            similarities: (N, C·K) of the batch.
            labels: (N,), ground-truth classes; values outside ``[0, C)`` are ignored.

        Returns:
            Two (N,) tensors of columns ``c·K + k``, `IGNORED` for ignored pixels: the target of
            the losses (always the argmax of L), and the prototype that the pixel updates.
        """
        if self.num_prototypes == 1:
            target = torch.where(is_inside(labels, self.num_classes), labels, IGNORED)
            return target, target
        target, update = assign_pixels(
            select_own_similarities(similarities, labels, self.num_prototypes),
            labels,
            self.num_classes,
            kappa=self.kappa,
            iterations=self.sinkhorn_iterations,
            pooled=self.distributed == "pooled",
            bound=1.0 if self.distance == "cosine" else None,
            gumbel=self.assignment == "gumbel",
        )
        inside, first = is_inside(labels, self.num_classes), labels * self.num_prototypes
        column = torch.where(inside, first + target, IGNORED)
        return column, column if update is target else torch.where(inside, first + update, IGNORED)

    @torch.no_grad()
    def initialise_new_classes(self, embeddings: Tensor, labels: Tensor) -> None:
        """Initialise prototypes of new classes from pixels, if ``init`` is ``pixels``.

        A class draws K of its pixels without replacement; with fewer than K pixels it repeats them.

        Args:
            embeddings: (N, D).
            labels: (N,); values outside ``[0, C)`` are ignored.
        """
        if self.init == "normal":
            return
        # Pixels are in random order within a class: the first K are the draw of this process.
        random_key = torch.rand(len(labels), device=labels.device)
        shuffled = random_key.argsort()
        pixels = sort_by_segment(labels.index_select(0, shuffled), self.num_classes)
        order, counts = shuffled.index_select(0, pixels.order), pixels.counts
        slots = torch.arange(self.num_prototypes, device=labels.device)
        position = pixels.offsets[:-2, None] + slots
        drawn = self.prototypes.new_zeros(self.prototypes.shape)
        random_keys = drawn.new_full(position.shape, torch.inf)
        if len(labels):
            pixel = order[position.clamp_max(len(order) - 1)]
            drawn = embeddings[pixel].to(drawn.dtype)
            random_keys = torch.where(slots < counts[:, None], random_key[pixel], torch.inf)
        # The K lowest keys of all processes win, as if all pixels were one batch.
        random_keys = all_gather(random_keys).transpose(0, 1).flatten(1)
        num_drawn = random_keys.isfinite().sum(1, keepdim=True).clamp_max(self.num_prototypes)
        winner = random_keys.argsort(dim=1, stable=True).gather(1, slots % num_drawn.clamp_min(1))
        drawn = drawn.gather(1, (winner % self.num_prototypes)[..., None].expand_as(drawn))
        is_own = winner // self.num_prototypes == rank()
        drawn = all_sum(torch.where(is_own[..., None], drawn, 0))
        is_new = (num_drawn[:, 0] > 0) & ~self.started
        values = normalise_vectors(drawn, self.distance)
        self.prototypes.copy_(torch.where(is_new[:, None, None], values, self.prototypes))
        self.started |= is_new

    @torch.no_grad()
    def update_prototypes(self, embeddings: Tensor, target: Tensor) -> None:
        """Apply ``p ← μ p + (1 - μ) ī`` to each prototype with pixels (Eq. 14), then normalise.

        ī is the mean of the assigned pixels, L2-normalised for the cosine distance.

        Args:
            embeddings: (N, D).
            target: column of the prototype that each pixel updates, (N,), or `IGNORED`.
        """
        total = self.num_classes * self.num_prototypes
        assigned = sort_by_segment(target, total)
        sums, counts = assigned.sum_rows(to_float32(embeddings.detach())), assigned.counts
        if self.distributed == "pooled":
            sums, counts = all_sum(sums), all_sum(counts)
        if self.distance == "cosine":
            # A sum has the same direction as the mean.
            means = normalise_vectors(sums, self.distance)
        else:
            means = sums / counts.clamp_min(1)[:, None]
        old = self.prototypes.flatten(0, 1)
        new = normalise_vectors(means.lerp(old, self.momentum), self.distance)
        new = torch.where((counts > 0)[:, None], new, old)
        if self.distributed == "averaged" and world_size() > 1:
            # As in the released code: the mean over the unit vectors of the processes.
            mean = normalise_vectors(all_sum(new) / world_size(), self.distance)
            counts = all_sum(counts)
            new = torch.where((counts > 0)[:, None], mean, old)
        self.prototypes.copy_(new.view_as(self.prototypes))
        self.updates += (counts > 0).view_as(self.updates)
