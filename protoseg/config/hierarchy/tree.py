"""A tree whose leaves are the classes of a data set, and its tables.

Level 1 has the classes, the highest level L the top groups, below a root that is no node. Every
class has one node on each level. The nodes of all levels are numbered with level 1 first, so that
the first C nodes are the classes in their order.

Source: *Deep Hierarchical Semantic Segmentation* (Li et al., CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

Path = tuple[str, ...]
"""Names of the nodes of a class from the highest level down to the class."""


@dataclass(frozen=True)
class Hierarchy:
    """A tree of classes, described by the path of each class."""

    paths: tuple[Path, ...]
    """Path of each class, in the order of the classes; all have the same length."""

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.paths)

    @property
    def num_levels(self) -> int:
        """L, levels from the classes to the highest groups."""
        return len(self.paths[0])

    @cached_property
    def _keys(self) -> tuple[tuple[Path, ...], ...]:
        """The nodes of each level, level 1 first; a node is the path that leads to it."""
        levels = range(self.num_levels, 0, -1)
        return tuple(tuple(dict.fromkeys(p[:length] for p in self.paths)) for length in levels)

    @cached_property
    def level_names(self) -> tuple[tuple[str, ...], ...]:
        """Names of the nodes of each level, level 1 first, in the order of their first class."""
        return tuple(tuple(key[-1] for key in keys) for keys in self._keys)

    @cached_property
    def level_sizes(self) -> tuple[int, ...]:
        """Number of nodes of each level, level 1 first."""
        return tuple(map(len, self._keys))

    @property
    def num_nodes(self) -> int:
        """Number of nodes of all levels, |V|."""
        return sum(self.level_sizes)

    @cached_property
    def ancestors(self) -> tuple[tuple[int, ...], ...]:
        """For each level, level 1 first: number of each class's node within the level, (L, C)."""
        rows = []
        for level, keys in enumerate(self._keys):
            number = {key: index for index, key in enumerate(keys)}
            rows.append(tuple(number[path[: self.num_levels - level]] for path in self.paths))
        return tuple(rows)

    @cached_property
    def parents(self) -> tuple[int, ...]:
        """Parent of each node, by numbers over all levels; -1 on the highest level, (|V|,)."""
        numbers = {key: index for index, key in enumerate(k for keys in self._keys for k in keys)}
        return tuple(numbers.get(key[:-1], -1) for keys in self._keys for key in keys)

    @cached_property
    def distances(self) -> tuple[tuple[int, ...], ...]:
        """Tree distance ψ of each pair of classes: edges on the path between them, (C, C).

        0 for a class itself, 2 for classes with one parent, 2·L if only the root is above both.
        """
        return tuple(tuple(_count_edges(a, b) for b in self.paths) for a in self.paths)


def make_hierarchy(paths: Sequence[Sequence[str]]) -> Hierarchy:
    """Make a hierarchy from the paths of a spec or of a file."""
    return Hierarchy(tuple(tuple(path) for path in paths))


def _count_edges(a: Path, b: Path) -> int:
    shared = next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))
    return 2 * (len(a) - shared)
