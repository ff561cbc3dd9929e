"""Reads a tree of classes from plain data: nested names whose leaves are the classes.

    object: [pole, sign]         a group with two classes
    human:
      on foot: [pedestrian]      a group in a group
      rider:                     a class, without a group between it and "human"
    sky:                         a class that is a top group, too

All paths get the length of the longest one: the class at the end of a shorter path is repeated, so
that it is its own group on the levels that it skips.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from protoseg.config.hierarchy.tree import Hierarchy, make_hierarchy
from protoseg.errors import UsageError

MAX_NAMES = 5
"""Names in an error message."""
MAX_LEVELS = 9


@dataclass(frozen=True)
class ParsedTree:
    """A hierarchy, and the classes whose paths were made longer."""

    hierarchy: Hierarchy
    padded: tuple[str, ...]


def parse_tree(data: Any, classes: Sequence[str], where: str) -> ParsedTree:
    """Read a tree and compare it with the classes of a data set.

    Args:
        data: nested mappings and lists; or a list of paths, as specs have them.
        classes: names of the classes.
        where: file or key, for error messages.

    Raises:
        UsageError: a class that is missing, unknown or in two places, a group without classes, a
            name that is class and group, or a tree without groups.
    """
    if _is_list_of_paths(data):
        paths = [tuple(path) for path in data]
    else:
        paths = list(_list_paths(data, (), where))
    _check_classes([path[-1] for path in paths], classes, where)
    _check_groups(paths, where)
    levels = max(map(len, paths))
    if levels == 1:
        raise UsageError(
            f"{where}: all classes are on one level. Put at least two of them into a group."
        )
    if levels > MAX_LEVELS:
        raise UsageError(f"{where}: has {levels} levels; allowed: 2 to {MAX_LEVELS}.")
    of_class = {path[-1]: path for path in paths}
    padded = tuple(name for name in classes if len(of_class[name]) < levels)
    full = [of_class[name] + (name,) * (levels - len(of_class[name])) for name in classes]
    return ParsedTree(make_hierarchy(full), padded)


def _is_list_of_paths(data: Any) -> bool:
    return isinstance(data, list | tuple) and all(
        isinstance(path, list | tuple) and path and all(isinstance(name, str) for name in path)
        for path in data
    )


def _list_paths(data: Any, above: tuple[str, ...], where: str) -> Iterator[tuple[str, ...]]:
    """Yield the path of each leaf below the group ``above``."""
    group = f"{where}: {' / '.join(above)}" if above else where
    if len(above) > MAX_LEVELS:
        raise UsageError(f"{where}: has more than {MAX_LEVELS} levels. Remove groups, or a cycle.")
    if isinstance(data, Mapping):
        entries = list(data.items())
    elif isinstance(data, list | tuple):
        entries = [(item, None) for item in data]
    else:
        raise UsageError(
            f"{group}: expected a list of classes or a mapping of groups, found {data!r}. Write "
            f"[{data}] for a group with one class."
        )
    if not entries:
        raise UsageError(f"{group}: has no classes. List them, or remove the group.")
    for name, below in entries:
        if not isinstance(name, str):
            raise UsageError(f"{group}: {name!r} is not a name. Write it in quotes.")
        if below is None:
            yield (*above, name)
        else:
            yield from _list_paths(below, (*above, name), where)


def _check_classes(leaves: Sequence[str], classes: Sequence[str], where: str) -> None:
    twice = [name for name in dict.fromkeys(leaves) if leaves.count(name) > 1]
    if twice:
        raise UsageError(f"{where}: {_join_names(twice)}: in the tree twice. Keep one place.")
    unknown = [name for name in leaves if name not in classes]
    missing = [name for name in classes if name not in leaves]
    if unknown:
        raise UsageError(
            f"{where}: {_join_names(unknown)}: no class of the data set. Its classes: "
            f"{_join_names(classes)}."
        )
    if missing:
        raise UsageError(
            f"{where}: {_join_names(missing)}: missing in the tree. Each class needs one place."
        )


def _check_groups(paths: Sequence[tuple[str, ...]], where: str) -> None:
    """Check that a name means one node, except for the repetitions of a class in its path."""
    leaves = {path[-1] for path in paths}
    above: dict[str, tuple[str, ...]] = {}
    for path in paths:
        ends = len(path)
        while ends > 1 and path[ends - 2] == path[-1]:  # a path of a spec, with the class repeated
            ends -= 1
        for depth, name in enumerate(path[: ends - 1]):
            if name in leaves:
                raise UsageError(f"{where}: {name}: a class and a group. Rename the group.")
            if above.setdefault(name, path[:depth]) != path[:depth]:
                raise UsageError(f"{where}: {name}: a group in two places. Rename one.")


def _join_names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_NAMES])
    return shown if len(names) <= MAX_NAMES else f"{shown} and {len(names) - MAX_NAMES} more"
