"""Parametric pixel-query: classification by learned queries and cosines (Eq. 2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from protoseg.core.distances import class_scores, normalise, similarity


class QueryClassifier(nn.Module):
    """``p(c|i) = softmax_c(e_c * i / T)``, ``*`` the cosine; a class scores the best of its K.

    Parameters:
        queries: E, (C, K, D), of any length: their directions alone count.
        log_temperature: the logarithm of T, a scalar, where T is learned.

    Args:
        num_classes: C.
        num_queries: K.
        channels: D.
        temperature: T, or where it starts. Eq. 2 has none, that is 1.
        learnable_temperature: learn T with the queries.
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
        self.start = temperature
        self.queries = nn.Parameter(torch.zeros(num_classes, num_queries, channels))
        # Its logarithm, so that no step of an optimiser can make it negative.
        self.log_temperature = nn.Parameter(torch.zeros(())) if learnable_temperature else None
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw the queries anew, directions alike on the sphere; T where it starts."""
        nn.init.normal_(self.queries)
        # Of length 1: so long, one step of an optimiser turns all of them alike.
        self.queries.copy_(normalise(self.queries, "cosine"))
        if self.log_temperature is not None:
            self.log_temperature.fill_(math.log(self.start))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Logits of the classes, (N, C) float32, of pixels (N, D), which are normalised here."""
        with torch.autocast(embeddings.device.type, enabled=False):
            pixels = normalise(embeddings.float(), "cosine")
            queries = normalise(self.queries.float(), "cosine")
            best = class_scores(similarity(pixels, queries, "cosine"), self.num_queries)
            if self.log_temperature is None:
                return best / self.start
            return best * torch.exp(-self.log_temperature.float())
