"""Convert Swin weights from the authors' format to that of mmseg's backbone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

NOT_IN_FILES = re.compile(r"norm\d\.(weight|bias)|.*\.relative_position_index")
"""Entries that no file has: mmseg's norms after the stages, which ImageNet training lacks, and the
indices, which follow from the window size."""

NAMES = (
    (r"^layers\.", "stages."),
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"\.attn\.", ".attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
)
"""Pattern of the authors' names -> mmseg's name."""

PATCH_MERGING = re.compile(r"layers\.\d+\.downsample\.(reduction|norm)\.(weight|bias)")


def convert_to_mmseg(state: Mapping[str, Any]) -> dict[str, Any]:
    """Convert weights to mmseg's names and channel order; mmseg's weights are unchanged.

    Args:
        state: name -> tensor, from the authors (``layers.0.blocks.0.attn.qkv.weight``) or from
            mmseg (``stages.0.blocks.0.attn.w_msa.qkv.weight``).
    """
    if not any(name.startswith("layers.") for name in state):
        return dict(state)
    converted = {}
    for name, value in state.items():
        new_name = name
        for pattern, replacement in NAMES:
            new_name = re.sub(pattern, replacement, new_name)
        is_merging = PATCH_MERGING.fullmatch(name) and isinstance(value, Tensor)
        converted[new_name] = _reorder_channels(value) if is_merging else value
    return converted


def _reorder_channels(value: Tensor) -> Tensor:
    """Reorder the last axis (4·C) of patch merging from the authors' order to ``nn.Unfold``'s.

    The authors concatenate the four patches of a 2×2 block: (column, row, channel). Unfold keeps
    the four values of a channel together: (channel, row, column).
    """
    *rest, size = value.shape
    if size % 4:  # invalid weights; the later check of shapes reports them
        return value
    patches = value.reshape(*rest, 2, 2, size // 4)
    return patches.movedim((-1, -2, -3), (-3, -2, -1)).reshape(*rest, size).contiguous()
