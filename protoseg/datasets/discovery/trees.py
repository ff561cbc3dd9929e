"""Groups the files of an unknown folder into trees, such as ``images/{split}``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

SPLIT_WORD = re.compile(
    r"(?:(?P<before>.*)[-_])?"
    r"(?P<split>(?:train_aug|trainval|training|train|validation|valid|val|testing|test|dev)\d{0,4})"
    r"(?P<after>[-_].*|annot)?",
    re.IGNORECASE,
)
"""A folder that names a split: train, val2017, trainannot, images_train, test_labels."""

MOST_TREES = 20
"""The number of trees that are compared, those with the most files."""


@dataclass(frozen=True)
class TreeFile:
    """One file of a tree."""

    path: str
    """Relative to the data set."""
    split: str
    """Empty without a split."""
    inner: str
    """Relative to the tree."""


@dataclass(frozen=True)
class Tree:
    """The files below one folder, or below the same folder of each split or scene."""

    pattern: str
    """As in `DatasetSpec.images`."""
    files: tuple[TreeFile, ...]


def find_trees(names: list[str]) -> list[Tree]:
    """All folders that may hold the images or the label maps of a data set, the largest first.

    Args:
        names: posix paths of all image files, relative to the data set.
    """
    members: dict[str, list[TreeFile]] = {}
    scenes = _find_scene_folders(names)
    for name in names:
        for pattern, split, inner in _list_roots(PurePosixPath(name), scenes):
            members.setdefault(pattern, []).append(TreeFile(name, split, inner))
    order = sorted(members, key=lambda p: (-len(members[p]), p.count("/"), p))
    return [Tree(pattern, tuple(members[pattern])) for pattern in order[:MOST_TREES]]


def _find_scene_folders(names: list[str]) -> set[str]:
    """Names of folders that several first-level folders have: rgb in scene1/rgb, scene2/rgb."""
    folders = {PurePosixPath(name).parent.parts for name in names}
    parents = Counter(parts[1] for parts in folders if len(parts) == 2 and not _is_split(parts[0]))
    return {last for last, count in parents.items() if count > 1 and not _is_split(last)}


def _is_split(part: str) -> bool:
    return SPLIT_WORD.fullmatch(part) is not None


def _list_roots(path: PurePosixPath, scenes: set[str]) -> Iterator[tuple[str, str, str]]:
    """(pattern, split, path below it) of each tree that has a file."""
    parts, name = path.parent.parts, path.name
    if len(parts) == 2 and parts[1] in scenes:
        yield f"{{folder}}/{parts[1]}/{{name}}", "", f"{parts[0]}/{name}"
    first = next((n for n, part in enumerate(parts) if _is_split(part)), None)
    if first is None:
        for depth in range(len(parts) + 1):
            inner = "/".join((*parts[depth:], name))
            yield "/".join(parts[:depth]) or ".", "", inner
        return
    match = SPLIT_WORD.fullmatch(parts[first])
    assert match is not None
    before = f"{match['before']}{parts[first][len(match['before'])]}" if match["before"] else ""
    changed = (*parts[:first], f"{before}{{split}}{match['after'] or ''}", *parts[first + 1 :])
    for depth in range(first + 1, len(parts) + 1):
        yield "/".join(changed[:depth]), match["split"], "/".join((*parts[depth:], name))
