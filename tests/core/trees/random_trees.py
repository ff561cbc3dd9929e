"""Random trees of classes, and random batches for them."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from protoseg.core.trees.tables import TreeTables

Path = tuple[str, ...]
TWO_LEVELS: tuple[Path, ...] = (
    ("ground", "road"),
    ("ground", "pavement"),
    ("thing", "car"),
    ("sky", "sky"),
    ("thing", "pole"),
)
"""Two groups of two classes, and a class that is a group."""


def draw_paths(rng: np.random.Generator, num_classes: int, height: int) -> tuple[Path, ...]:
    """Draw the path of each class; nodes with one child and unordered groups occur."""
    paths = [(f"{c}",) for c in range(num_classes)]
    for _ in range(height - 1):
        tops = sorted({path[0] for path in paths})
        number = int(rng.integers(1, len(tops) + 1))
        group = {name: f"{len(paths[0])}.{int(rng.integers(number))}" for name in tops}
        paths = [(group[path[0]], *path) for path in paths]
    return tuple(paths)


@st.composite
def trees(draw: st.DrawFn, max_nodes: int = 200) -> tuple[Path, ...]:
    """A tree of 2 to 5 levels with at most ``max_nodes`` nodes."""
    height = draw(st.integers(2, 5))
    num_classes = draw(st.integers(1, max_nodes // height))
    return draw_paths(np.random.default_rng(draw(st.integers(0, 2**32))), num_classes, height)


def make_batch(
    paths: tuple[Path, ...],
    *,
    seed: int = 0,
    size: tuple[int, int, int] = (2, 2, 3),
    scale: float = 2.0,
    ignored: float = 0.3,
) -> tuple[torch.Tensor, torch.Tensor, TreeTables]:
    """Make logits (B, |V|, H, W) float64, labels (B, H, W), and the tables."""
    rng = np.random.default_rng(seed)
    tables = TreeTables(paths, len(paths))
    logits = scale * rng.standard_normal((size[0], tables.num_nodes, *size[1:]))
    labels = rng.integers(0, len(paths), size)
    labels[rng.random(size) < ignored] = -1
    return torch.from_numpy(logits), torch.from_numpy(labels), tables
