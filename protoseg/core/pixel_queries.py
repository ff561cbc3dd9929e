"""The parametric pixel-query classifier: learned queries and cosines (Eq. 2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from protoseg.core.distances import compute_class_scores, compute_similarities, normalise_vectors


class QueryClassifier(nn.Module):
    """``p(c|i) = softmax_c(max_k cos(e_{c,k}, i) / T)`` with K learned queries per class.

    Parameters:
        queries: E, (C, K, D); only their directions matter.
        log_temperature: log T, a scalar; exists only if T is learned.

    Args:
        num_classes: C.
        num_queries: K.
        channels: D.
        temperature: T, or its initial value. Eq. 2 has no temperature, which is T = 1.
        learnable_temperature: whether T is learned.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        num_queries: int,
        channels: int,
        temperature: float = 1.0,
        learnable_temperature: bool = False,
    ) -> None:
        super().__init__()
        if num_queries < 1:
            raise ValueError(f"num_prototypes: {num_queries} is out of range; at least 1")
        if not temperature > 0:
            raise ValueError(f"temperature: {temperature} is out of range; greater than 0")
        self.num_queries = num_queries
        self.initial_temperature = temperature
        self.queries = nn.Parameter(torch.zeros(num_classes, num_queries, channels))
        # T is stored as a logarithm, so that no optimiser step can make it negative.
        self.log_temperature = nn.Parameter(torch.zeros(())) if learnable_temperature else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw queries uniformly on the sphere; set T to its initial value."""
        nn.init.normal_(self.queries)
        # With equal lengths, one optimiser step rotates all queries by a similar angle.
        self.queries.copy_(normalise_vectors(self.queries, "cosine"))
        if self.log_temperature is not None:
            self.log_temperature.fill_(math.log(self.initial_temperature))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Compute class logits, (N, C) float32, of pixels (N, D) of any length."""
        with torch.autocast(embeddings.device.type, enabled=False):
            pixels = normalise_vectors(embeddings.float(), "cosine")
            queries = normalise_vectors(self.queries.float(), "cosine")
            similarities = compute_similarities(pixels, queries, "cosine")
            best = compute_class_scores(similarities, self.num_queries)
            if self.log_temperature is None:
                return best / self.initial_temperature
            return best * torch.exp(-self.log_temperature.float())
