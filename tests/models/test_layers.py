"""The layers shared by the heads, and the deprecated path of their module."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch

from protoseg.models.layers import build_projection, rows_to_map


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
