"""The region mutual information loss: truth and scores agree on 3×3 regions, not on pixels alone.

Source: *Region Mutual Information Loss for Semantic Segmentation* (Zhao et al., NeurIPS 2019).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.core.losses import IGNORED

RADIUS = 3
"""Side of a region, and of the pooling before it; also its stride (released code of HSSN)."""
RIDGE = 5e-4
"""Added to the diagonal of a covariance (the authors' value)."""
SMALLEST_SCORE = 1e-6


def compute_region_loss(scores: Tensor, labels: Tensor, ancestors: Tensor) -> Tensor:
    """Compute the sum over nodes of the loss, a mean over the images of this process.

    The 9 values of a region are a vector, for the truth Y and the scores P of a node. With sums Σ
    over the regions of an image, of centred vectors:

        loss = log det(Σ_YY - Σ_YP (Σ_PP + εI)⁻¹ Σ_PY + εI) / (2 · 9)

    Args:
        scores: of the nodes, in [0, 1], (B, |V|, H, W).
        labels: classes, (B, H, W), or `IGNORED`: truth and scores are 0 there.
        ancestors: node of each class on each level, (L, C).

    Raises:
        ValueError: images smaller than 7 pixels, which have no region after the pooling.
    """
    valid = labels != IGNORED
    truth = torch.zeros_like(scores)
    truth.scatter_(1, ancestors[:, labels.clamp_min(0)].movedim(0, 1), 1.0)
    mask = valid[:, None].to(scores)
    truth = _pool(truth * mask)
    scores = _pool(scores * mask).clamp_min(SMALLEST_SCORE)
    if min(truth.shape[2:]) < RADIUS:
        raise ValueError("method.rmi_weight: needs crops of at least 7 pixels a side")
    regions_of_truth, regions_of_scores = _list_regions(truth), _list_regions(scores)
    ridge = RIDGE * torch.eye(RADIUS**2, dtype=torch.float64, device=scores.device)
    of_truth = regions_of_truth @ regions_of_truth.mT
    of_scores = regions_of_scores @ regions_of_scores.mT
    shared = regions_of_truth @ regions_of_scores.mT
    explained = shared @ torch.linalg.solve(of_scores + ridge, shared.mT)
    remaining = of_truth - explained + ridge
    factor = torch.linalg.cholesky(remaining)
    log_determinant = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return (0.5 * log_determinant / RADIUS**2).mean(0).sum().to(scores.dtype)


def _pool(maps: Tensor) -> Tensor:
    return F.max_pool2d(maps, RADIUS, stride=RADIUS, padding=RADIUS // 2)


def _list_regions(maps: Tensor) -> Tensor:
    """List the centred 3×3 regions of each map, (B, nodes, 9, regions) float64."""
    regions = F.unfold(maps.double().flatten(0, 1)[:, None], RADIUS)
    regions = regions.unflatten(0, maps.shape[:2])
    return regions - regions.mean(-1, keepdim=True)
