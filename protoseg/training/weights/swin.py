"""Swin's weights as its authors publish them, brought into the form of mmseg's backbone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

NOT_IN_FILES = re.compile(r"norm\d\.(weight|bias)|.*\.relative_position_index")
"""mmseg norms the output of each stage, which ImageNet training has not; the indices follow from
the size of the window."""

NAMES = (
    (r"^layers\.", "stages."),
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"\.attn\.", ".attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
)
"""What the authors call it, and what mmseg does."""

MERGED = re.compile(r"layers\.\d+\.downsample\.(reduction|norm)\.(weight|bias)")


def as_mmseg(state: Mapping[str, Any]) -> dict[str, Any]:
    """Weights by mmseg's names, in mmseg's order; those that have it already stay as they are.

    Args:
        state: name -> tensor, of the authors' files (``layers.0.blocks.0.attn.qkv.weight``) or of
            mmseg's (``stages.0.blocks.0.attn.w_msa.qkv.weight``).
    """
    if not any(name.startswith("layers.") for name in state):
        return dict(state)
    found = {}
    for name, value in state.items():
        renamed = name
        for pattern, replacement in NAMES:
            renamed = re.sub(pattern, replacement, renamed)
        merged = MERGED.fullmatch(name) and isinstance(value, Tensor)
        found[renamed] = _reordered(value) if merged else value
    return found


def _reordered(value: Tensor) -> Tensor:
    """The last axis, 4·C, from the authors' order of merged patches to that of ``nn.Unfold``.

    They lay four whole patches side by side, column by column: (column, row, channel). Unfold
    keeps the four values of a channel together, row by row: (channel, row, column).
    """
    *rest, size = value.shape
    if size % 4:  # not what it says it is; the check of the sizes will name it
        return value
    four = value.reshape(*rest, 2, 2, size // 4)
    return four.movedim((-1, -2, -3), (-3, -2, -1)).reshape(*rest, size).contiguous()
