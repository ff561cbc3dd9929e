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
        ValueError: the number of paths is not C, their lengths differ, or two are equal.
    """

    ancestors: Tensor
    """Node of each class on each level, level of the classes first, by numbers over all levels."""
    distances: Tensor
    """Edges between each pair of classes, (C, C)."""
    parents: Tensor
    """Parent of each node below the highest level, a number within the level of the parent."""

    def __init__(self, paths: Sequence[Sequence[str]], num_classes: int) -> None:
        super().__init__()
        if len(paths) != num_classes:
            raise ValueError(f"hierarchy: {len(paths)} paths for {num_classes} classes")
        lengths = {len(path) for path in paths}
        if len(lengths) > 1 or 0 in lengths:
            raise ValueError(f"hierarchy: paths of {sorted(lengths)} names; all need one length")
        ids: dict[tuple[str, ...], int] = {}
        rows, sizes = [], []
        for length in range(len(paths[0]), 0, -1):
            before = len(ids)
            rows.append([ids.setdefault(tuple(path[:length]), len(ids)) for path in paths])
            sizes.append(len(ids) - before)
        if sizes[0] < num_classes:
            raise ValueError(f"hierarchy: {sizes[0]} different paths for {num_classes} classes")
        self.level_sizes = tuple(sizes)
        self._starts = [sum(sizes[:level]) for level in range(len(sizes))]
        parents = [
            ids[node[:-1]] - self._starts[len(paths[0]) - len(node) + 1]
            for node in ids
            if len(node) > 1
        ]
        table = torch.tensor(rows)
        self.register_buffer("ancestors", table, persistent=False)
        self.register_buffer("parents", torch.tensor(parents, dtype=torch.long), persistent=False)
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

    def list_parents(self, level: int) -> Tensor:
        """List the parent of each node of the level below ``level``, a number within it.

        Args:
            level: counted from 0 for the classes; at least 1.
        """
        return self.parents[self._starts[level - 1] : self._starts[level]]

    def number_classes(self, level: int) -> Tensor:
        """Number the node of each class within a level, (C,)."""
        return self.ancestors[level] - self._starts[level]
