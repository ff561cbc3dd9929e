"""What an answer is held to before it is timed: the same steps on float64 logarithms."""

from __future__ import annotations

import torch
from torch import Tensor

TIE = 1e-4
"""Two prototypes whose shares of a pixel differ by less than this part are a tie: float32 sums of
exponentials may order them either way."""


def assignment(
    own: Tensor, labels: Tensor, num_classes: int, kappa: float = 0.05, steps: int = 3
) -> tuple[Tensor, Tensor]:
    """The prototype of each pixel and whether it is no tie, (N,) each.

    Args:
        own: similarities of each pixel to the prototypes of its own class, (N, K).
        labels: (N,); outside ``[0, C)`` for ignored pixels, which get -1.
    """
    chosen, sure = torch.full_like(labels, -1), torch.ones_like(labels, dtype=torch.bool)
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
            sure[pixels] = best[:, 0] - best[:, 1] > TIE
    return chosen, sure


def check_assignment(found: Tensor, expected: tuple[Tensor, Tensor], who: str) -> None:
    """Raise AssertionError unless an assignment is the exact one, ties aside."""
    chosen, sure = expected
    wrong = int(((found != chosen) & sure).sum())
    assert wrong == 0, f"{who}: {wrong} of {len(chosen)} pixels are assigned wrongly"
    assert sure.float().mean() > 0.98, "too many ties to tell right from wrong"
