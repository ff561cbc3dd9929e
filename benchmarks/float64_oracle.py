"""The exact assignment, on float64 logarithms, that every solver must match before timing."""

from __future__ import annotations

import torch
from torch import Tensor

TIE = 1e-4
"""Prototypes are a tie if their probabilities differ by less than this value. Float32 sums of
exponentials can order them either way."""


def assign_exactly(
    own: Tensor, labels: Tensor, num_classes: int, kappa: float = 0.05, steps: int = 3
) -> tuple[Tensor, Tensor]:
    """Assign each pixel to a prototype of its class.

    Args:
        own: similarities of each pixel to the prototypes of its class, (N, K).
        labels: (N,); negative for ignored pixels.
        num_classes: C.
        kappa: κ of Eq. 9.
        steps: number of Sinkhorn-Knopp steps.

    Returns:
        The prototype of each pixel, -1 for ignored pixels, and whether it is not a tie, (N,) each.
    """
    chosen, is_clear = torch.full_like(labels, -1), torch.ones_like(labels, dtype=torch.bool)
    order = labels.argsort(stable=True)
    counts = torch.bincount(labels[labels >= 0], minlength=num_classes).tolist()
    start = int((labels < 0).sum())
    for count in counts:
        pixels = order[start : start + count]
        start += count
        if not count:
            continue
        plan = own[pixels].double() / kappa
        for _ in range(steps):
            plan = plan - plan.logsumexp(0, keepdim=True)
            plan = plan - plan.logsumexp(1, keepdim=True)
        chosen[pixels] = plan.argmax(1)
        if own.shape[1] > 1:
            best = plan.topk(2, dim=1).values
            is_clear[pixels] = best[:, 0] - best[:, 1] > TIE
    return chosen, is_clear


def check_assignment(actual: Tensor, expected: tuple[Tensor, Tensor], solver: str) -> None:
    """Raise AssertionError if an assignment differs from the exact one, except for ties."""
    chosen, is_clear = expected
    wrong = int(((actual != chosen) & is_clear).sum())
    assert wrong == 0, f"{solver}: {wrong} of {len(chosen)} pixels are assigned wrongly"
    assert is_clear.float().mean() > 0.98, "there are too many ties to check the assignment"
