"""The layers shared by the heads, and the deprecated path of their module."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
import torch.nn.functional as F

from protoseg.models.layers import WidthNorm, build_projection, rows_to_map


def test_rows_become_a_contiguous_channels_first_map() -> None:
    pixels = torch.randn(2, 4, 5, 3)
    image_map = rows_to_map(pixels.flatten(0, 2), pixels)
    assert image_map.is_contiguous()
    assert torch.equal(image_map, pixels.permute(0, 3, 1, 2))


def test_the_old_module_path_warns_and_exports_the_same_functions() -> None:
    sys.modules.pop("protoseg.models.maps", None)
    with pytest.warns(DeprecationWarning, match=r"Import protoseg\.models\.layers"):
        maps = importlib.import_module("protoseg.models.maps")
    assert maps.project is build_projection
    assert maps.rows_to_map is rows_to_map


def test_the_norm_over_the_width_has_the_gradient_of_normalize() -> None:
    features = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    features[0, 1, 2] = 0  # a row that is divided by a constant
    ours, theirs = (features.clone().requires_grad_() for _ in range(2))
    weights = torch.randn(2, 4, 5, 3, dtype=torch.float64).permute(0, 3, 1, 2)
    (WidthNorm()(ours) * weights).sum().backward()
    (F.normalize(theirs, dim=3) * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(
        WidthNorm(), torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    )
