"""The tables of a hierarchy against brute force over paths, and against `TreeTables`."""

from __future__ import annotations

from core.trees.random_trees import Path, trees
from core.trees.reference import count_edges, list_nodes
from hypothesis import given, settings

from protoseg.config.hierarchy.tree import make_hierarchy
from protoseg.core.trees.tables import TreeTables


@given(trees())
@settings(max_examples=40, deadline=None)
def test_tables_equal_those_of_paths(paths: tuple[Path, ...]) -> None:
    tree, nodes, height = make_hierarchy(paths), list_nodes(paths), len(paths[0])
    assert (tree.num_classes, tree.num_levels) == (len(paths), height)
    assert tree.num_nodes == len(nodes) == sum(tree.level_sizes)
    for level in range(height):
        of_level = [node for node in nodes if len(node) == height - level]
        assert tree.level_names[level] == tuple(node[-1] for node in of_level)
        assert tree.level_sizes[level] == len(of_level)
        expected = tuple(of_level.index(path[: height - level]) for path in paths)
        assert tree.ancestors[level] == expected
    for number, node in enumerate(nodes):
        is_top = len(node) == 1
        assert tree.parents[number] == (-1 if is_top else nodes.index(node[:-1]))
    assert tree.level_names[0] == tuple(path[-1] for path in paths), "classes in their order"
    for a, one in enumerate(paths):
        assert tree.distances[a] == tuple(count_edges(one, other) for other in paths)


@given(trees())
@settings(max_examples=40, deadline=None)
def test_tensors_and_tuples_are_the_same_tables(paths: tuple[Path, ...]) -> None:
    tree, tables = make_hierarchy([list(path) for path in paths]), TreeTables(paths, len(paths))
    assert tables.level_sizes == tree.level_sizes
    assert (tables.height, tables.num_nodes) == (tree.num_levels, tree.num_nodes)
    assert tables.distances.tolist() == [list(row) for row in tree.distances]
    first = 0
    for level, size in enumerate(tree.level_sizes):
        assert tables.number_classes(level).tolist() == list(tree.ancestors[level])
        numbers = [first + number for number in tree.ancestors[level]]
        assert tables.ancestors[level].tolist() == numbers
        if level:
            below = tree.parents[first - tree.level_sizes[level - 1] : first]
            assert [first + p for p in tables.list_parents(level).tolist()] == list(below)
        first += size
