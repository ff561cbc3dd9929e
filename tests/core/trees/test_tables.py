"""The tables of a tree of classes against brute force over paths."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from core.trees import reference
from core.trees.random_trees import TWO_LEVELS, Path, trees
from protoseg.core.trees.tables import TreeTables


@given(trees())
@settings(max_examples=40, deadline=None)
def test_tables_equal_those_of_paths(paths: tuple[Path, ...]) -> None:
    tables, nodes = TreeTables(paths, len(paths)), reference.list_nodes(paths)
    height = len(paths[0])
    assert (tables.height, tables.num_nodes) == (height, len(nodes))
    assert sum(tables.level_sizes) == len(nodes)
    for level in range(height):
        of_level = [node for node in nodes if len(node) == height - level]
        assert tables.level_sizes[level] == len(of_level)
        for c, path in enumerate(paths):
            node = path[: height - level]
            assert tables.ancestors[level, c] == nodes.index(node)
            assert tables.number_classes(level)[c] == of_level.index(node)
        if level:
            below = [node for node in nodes if len(node) == height - level + 1]
            expected = [of_level.index(node[:-1]) for node in below]
            assert tables.list_parents(level).tolist() == expected
    for a, one in enumerate(paths):
        for b, other in enumerate(paths):
            assert tables.distances[a, b] == reference.count_edges(one, other)


def test_a_class_that_is_a_group_has_a_chain() -> None:
    tables = TreeTables(TWO_LEVELS, 5)
    assert tables.level_sizes == (5, 3)
    assert tables.ancestors.tolist() == [[0, 1, 2, 3, 4], [5, 5, 6, 7, 6]]
    assert tables.distances[0].tolist() == [0, 2, 4, 4, 4]
    assert tables.distances[3].tolist() == [4, 4, 4, 0, 4]


def test_checkpoints_do_not_have_the_tables() -> None:
    assert TreeTables(TWO_LEVELS, 5).state_dict() == {}


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([("a", "b")], "1 paths for 2 classes"),
        ([("a", "b"), ("c",)], r"paths of \[1, 2\] names; all need one length"),
        ([(), ()], r"paths of \[0\] names"),
        ([("a", "b"), ("a", "b")], "1 different paths for 2 classes"),
    ],
)
def test_paths_that_are_no_tree_are_errors(paths: list[Path], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TreeTables(paths, 2)
