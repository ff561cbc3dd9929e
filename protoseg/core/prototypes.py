"""The state of the prototypes: their start, the assignment of pixels, the momentum update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self

import torch
from torch import Tensor, nn

from protoseg.core.collective import all_sum, gather, rank, world_size
from protoseg.core.distances import Distance, normalise, similarity
from protoseg.core.losses import IGNORED
from protoseg.core.segments import is_inside, sort_by_segment
from protoseg.core.sinkhorn import assign, own_similarities

Assignment = Literal["argmax", "gumbel"]
Init = Literal["normal", "pixels"]
Distributed = Literal["pooled", "averaged"]


class PrototypeBank(nn.Module):
    """K prototypes for each of C classes; buffers, never parameters (Eq. 5-14).

    Buffers:
        prototypes: (C, K, D) float32; unit vectors for the cosine distance.
        updates: (C, K) int64, how many steps have moved each prototype.
        started: (C,) bool, whether the prototypes of a class hold a starting value.

    Args:
        num_classes: C.
        num_prototypes: K; with 1 the pixels are assigned by ground truth, without clustering.
        channels: D.
        momentum: μ of Eq. 14.
        distance: see `protoseg.core.distances.similarity`.
        kappa: κ of Eq. 9.
        sinkhorn_iterations: Sinkhorn-Knopp steps.
        assignment: prototype that a pixel updates: ``argmax`` of L, or ``gumbel``, a hard Gumbel
            sample that takes the probabilities of L as logits (the authors' released code).
        init: ``normal``, truncated at two standard deviations, or ``pixels``, K pixels drawn from
            the first batch in which the class appears.
        init_std: standard deviation of ``normal``; without effect on unit vectors.
        distributed: ``pooled`` clusters the pixels of all processes as one batch; ``averaged``
            clusters each process's own and averages the prototypes (released code).
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
        self.distributed: Distributed = distributed
        shape = (num_classes, num_prototypes)
        self.register_buffer("prototypes", torch.zeros(*shape, channels))
        self.register_buffer("updates", torch.zeros(shape, dtype=torch.long))
        self.register_buffer("started", torch.zeros(num_classes, dtype=torch.bool))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw the starting prototypes anew."""
        nn.init.trunc_normal_(
            self.prototypes, std=self.init_std, a=-2 * self.init_std, b=2 * self.init_std
        )
        self.prototypes.copy_(normalise(self.prototypes, self.distance))
        self.updates.zero_()
        self.started.fill_(self.init == "normal")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move with the model, but stay float32 in a half-precision one, where steps round away."""
        wide = self.prototypes
        super()._apply(fn, recurse)
        if self.prototypes.dtype in (torch.float16, torch.bfloat16):
            self.prototypes = wide.to(self.prototypes.device)
        return self

    def extra_repr(self) -> str:
        """Sizes and the switches that matter most."""
        return (
            f"classes={self.num_classes}, prototypes={self.num_prototypes}, "
            f"channels={self.channels}, momentum={self.momentum}, distance={self.distance}"
        )

    def similarity(self, embeddings: Tensor) -> Tensor:
        """Similarity of pixels (N, D) to all prototypes, (N, C·K); gradients reach pixels only."""
        # A copy, since `update` writes in place (DDP holds on to the buffer) before backward reads.
        # Not by clone(), which torch 2.13's inductor leaves out although the buffer changes later.
        prototypes = self.prototypes * 1.0
        return similarity(embeddings, prototypes, self.distance, self.huber_delta)

    @torch.no_grad()
    def assign(self, similarities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The prototype of each pixel, among those of its class (Eq. 8-10).

        Args:
            similarities: (N, C·K) of the batch.
            labels: (N,), ground-truth class; outside ``[0, C)`` means ignored.

        Returns:
            Two (N,) tensors of columns ``c·K + k``, `IGNORED` for ignored pixels: the target of
            the losses (always the argmax of L), and the prototype that the pixel updates.
        """
        if self.num_prototypes == 1:
            target = torch.where(is_inside(labels, self.num_classes), labels, IGNORED)
            return target, target
        target, update = assign(
            own_similarities(similarities, labels, self.num_prototypes),
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
    def start(self, embeddings: Tensor, labels: Tensor) -> None:
        """With ``init="pixels"``: fill the prototypes of classes seen for the first time.

        Each class draws K of its pixels without replacement (with, where it has fewer than K).
        """
        if self.init == "normal":
            return
        # At random within a class: its first K are this process's draw.
        random_key = torch.rand(len(labels), device=labels.device)
        shuffled = random_key.argsort()
        pixels = sort_by_segment(labels.index_select(0, shuffled), self.num_classes)
        order, counts = shuffled.index_select(0, pixels.order), pixels.counts
        slots = torch.arange(self.num_prototypes, device=labels.device)
        place = pixels.offsets[:-2, None] + slots
        drawn = self.prototypes.new_zeros(self.prototypes.shape)
        random_keys = drawn.new_full(place.shape, torch.inf)
        if len(labels):
            pixel = order[place.clamp_max(len(order) - 1)]
            drawn = embeddings[pixel].to(drawn.dtype)
            random_keys = torch.where(slots < counts[:, None], random_key[pixel], torch.inf)
        # Of the draws of all processes the K lowest lots win, as if their pixels were one batch.
        random_keys = gather(random_keys).transpose(0, 1).flatten(1)
        held = random_keys.isfinite().sum(1, keepdim=True).clamp_max(self.num_prototypes)
        winner = random_keys.argsort(dim=1, stable=True).gather(1, slots % held.clamp_min(1))
        drawn = drawn.gather(1, (winner % self.num_prototypes)[..., None].expand_as(drawn))
        mine = winner // self.num_prototypes == rank()
        drawn = all_sum(torch.where(mine[..., None], drawn, 0))
        fresh = (held[:, 0] > 0) & ~self.started
        values = normalise(drawn, self.distance)
        self.prototypes.copy_(torch.where(fresh[:, None, None], values, self.prototypes))
        self.started |= fresh

    @torch.no_grad()
    def update(self, embeddings: Tensor, target: Tensor) -> None:
        """``p ← μ p + (1 - μ) ī`` for each prototype that has pixels (Eq. 14), then re-normalised.

        ī is the mean of the pixels assigned to it, L2-normalised for the cosine distance.

        Args:
            embeddings: (N, D).
            target: column of the prototype that each pixel updates, (N,), or `IGNORED`.
        """
        total = self.num_classes * self.num_prototypes
        assigned = sort_by_segment(target, total)
        sums, counts = assigned.sums_of(embeddings.detach().float()), assigned.counts
        if self.distributed == "pooled":
            sums, counts = all_sum(sums), all_sum(counts)
        if self.distance == "cosine":
            means = normalise(sums, self.distance)  # the direction of a sum is that of the mean
        else:
            means = sums / counts.clamp_min(1)[:, None]
        old = self.prototypes.flatten(0, 1)
        new = normalise(means.lerp(old, self.momentum), self.distance)
        new = torch.where((counts > 0)[:, None], new, old)
        if self.distributed == "averaged" and world_size() > 1:
            # Each process's own unit vectors are averaged, as the released code does.
            mean = normalise(all_sum(new) / world_size(), self.distance)
            counts = all_sum(counts)
            new = torch.where((counts > 0)[:, None], mean, old)
        self.prototypes.copy_(new.view_as(self.prototypes))
        self.updates += (counts > 0).view_as(self.updates)
