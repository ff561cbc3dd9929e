"""Trees from nested names: their paths, and the sentence of each error."""

from __future__ import annotations

from typing import Any

import pytest

from protoseg.config.hierarchy.parse import MAX_LEVELS, parse_tree
from protoseg.errors import UsageError

CLASSES = ("road", "car", "bus", "sky")


def parse(data: Any, classes: tuple[str, ...] = CLASSES) -> dict[str, tuple[str, ...]]:
    return dict(zip(classes, parse_tree(data, classes, "file").hierarchy.paths, strict=True))


def nest(levels: int) -> Any:
    """A tree of ``levels`` levels with the class ``car`` at its end."""
    tree: Any = ["car"]
    for level in range(levels - 1):
        tree = {f"g{level}": tree}
    return {**tree, "others": ["road", "bus", "sky"]}


def test_short_paths_repeat_their_class() -> None:
    tree = {"road": None, "thing": {"vehicle": ["car", "bus"], "sky": None}}
    parsed = parse_tree(tree, CLASSES, "file")
    assert parsed.hierarchy.paths == (
        ("road", "road", "road"),
        ("thing", "vehicle", "car"),
        ("thing", "vehicle", "bus"),
        ("thing", "sky", "sky"),
    )
    assert parsed.padded == ("road", "sky")
    assert parsed.hierarchy.level_sizes == (4, 3, 2)
    assert parsed.hierarchy.level_names[1:] == (("road", "vehicle", "sky"), ("road", "thing"))


def test_a_tree_without_short_paths_pads_nothing() -> None:
    parsed = parse_tree({"a": ["road", "sky"], "b": ["bus", "car"]}, CLASSES, "file")
    assert parsed.padded == ()
    assert parsed.hierarchy.paths == (("a", "road"), ("b", "car"), ("b", "bus"), ("a", "sky"))


def test_paths_of_a_spec_give_the_same_tree() -> None:
    tree = {"road": None, "thing": {"vehicle": ["car", "bus"], "sky": None}}
    parsed = parse_tree(tree, CLASSES, "file")
    paths = [list(path) for path in parsed.hierarchy.paths]
    again = parse_tree(paths, CLASSES, "file")
    assert again.hierarchy == parsed.hierarchy
    assert parse_tree(tuple(parsed.hierarchy.paths), CLASSES, "file") == again


def test_the_order_of_groups_does_not_change_the_tree() -> None:
    one = parse({"a": ["road", "sky"], "b": ["bus", "car"]})
    assert one == parse({"b": ["car", "bus"], "a": ["sky", "road"]})


@pytest.mark.parametrize("levels", [2, MAX_LEVELS])
def test_trees_have_at_most_the_allowed_levels(levels: int) -> None:
    assert len(parse(nest(levels))["car"]) == levels


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        (
            {"a": ["road", "car", "sky"]},
            "file: bus: missing in the tree. Each class needs one place.",
        ),
        (
            {"a": ["road", "car"], "b": ["car", "bus", "sky"]},
            "file: car: in the tree twice. Keep one place.",
        ),
        (
            {"a": ["road", "car", "boat"], "b": ["bus", "sky"]},
            "file: boat: no class of the data set. Its classes: road, car, bus, sky.",
        ),
        (
            {"a": ["road"], "car": ["bus", "sky"], "b": ["car"]},
            "file: car: a class and a group. Rename the group.",
        ),
        (
            {"a": {"x": ["road", "car"]}, "b": {"x": ["bus", "sky"]}},
            "file: x: a group in two places. Rename one.",
        ),
        (
            {"a": {"a": ["road", "car"]}, "b": {"c": ["bus", "sky"]}},
            "file: a: a group in two places. Rename one.",
        ),
        (
            list(CLASSES),
            "file: all classes are on one level. Put at least two of them into a group.",
        ),
        (
            {"a": ["road", "car", "bus", "sky"], "b": []},
            "file: b: has no classes. List them, or remove the group.",
        ),
        (
            {"a": {"b": {}}, "c": list(CLASSES)},
            "file: a / b: has no classes. List them, or remove the group.",
        ),
        ({}, "file: has no classes. List them, or remove the group."),
        (
            {"a": ["road", 5], "b": ["bus", "sky"]},
            "file: a: 5 is not a name. Write it in quotes.",
        ),
        ({1: ["road", "car"], "b": ["bus"]}, "file: 1 is not a name. Write it in quotes."),
        ({"a": [None, "road"]}, "file: a: None is not a name. Write it in quotes."),
        (
            {"a": "road", "b": ["bus", "sky", "car"]},
            "file: a: expected a list of classes or a mapping of groups, found 'road'. Write "
            "[road] for a group with one class.",
        ),
        (
            {"a": ["road", ["car"]], "b": ["bus", "sky"]},
            "file: a: ['car'] is not a name. Write it in quotes.",
        ),
        (
            nest(MAX_LEVELS + 1),
            f"file: has {MAX_LEVELS + 1} levels; allowed: 2 to {MAX_LEVELS}.",
        ),
        (
            nest(MAX_LEVELS + 2),
            f"file: has more than {MAX_LEVELS} levels. Remove groups, or a cycle.",
        ),
    ],
)
def test_a_tree_that_does_not_fit_is_an_error(tree: Any, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(tree)
    assert str(caught.value) == sentence


def test_a_cycle_ends() -> None:
    tree: dict[str, Any] = {"a": ["road"]}
    tree["b"] = tree
    with pytest.raises(UsageError, match=r"has more than 9 levels. Remove groups, or a cycle"):
        parse(tree)


def test_long_lists_of_names_are_shortened() -> None:
    classes = tuple(f"c{number}" for number in range(9))
    with pytest.raises(UsageError) as caught:
        parse({"a": ["c0"], "b": ["c1"]}, classes)
    names = "c2, c3, c4, c5, c6 and 2 more"
    expected = f"file: {names}: missing in the tree. Each class needs one place."
    assert str(caught.value) == expected
