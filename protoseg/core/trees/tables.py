"""The tables of a tree of classes, as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TreeTables(nn.Module):
    """The tables of a tree of classes, as buffers that checkpoints do not have.

    Args:
        paths: path of each class, highest group first, all of one length.
        num_classes: C.

    Raises:
        ValueError: the number of paths is not C.
    """

    ancestors: Tensor
    distances: Tensor

    def __init__(self, paths: Sequence[Sequence[str]], num_classes: int) -> None:
        super().__init__()
        if len(paths) != num_classes:
            raise ValueError(f"hierarchy: {len(paths)} paths for {num_classes} classes")
        ids: dict[tuple[str, ...], int] = {}
        rows, sizes = [], []
        for length in range(len(paths[0]), 0, -1):
            before = len(ids)
            rows.append([ids.setdefault(tuple(path[:length]), len(ids)) for path in paths])
            sizes.append(len(ids) - before)
        self.level_sizes = tuple(sizes)
        table = torch.tensor(rows)
        self.register_buffer("ancestors", table, persistent=False)
        # Two edges for each level on which two classes have different nodes.
        differs = (table[:, :, None] != table[:, None, :]).sum(0)
        self.register_buffer("distances", 2 * differs, persistent=False)

    @property
    def height(self) -> int:
        """L."""
        return len(self.level_sizes)

    @property
    def num_nodes(self) -> int:
        """|V|."""
        return sum(self.level_sizes)
