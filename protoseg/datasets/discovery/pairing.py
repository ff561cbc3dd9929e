"""Finds out which files of a folder are images, and which are their label maps."""

from __future__ import annotations

import bisect
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from protoseg.datasets.discovery.trees import Tree, TreeFile

SAMPLE = 24
"""The number of files of a tree for which partners are searched."""

MOST_ENDINGS = 8
"""The number of pairs of endings of two trees that are counted."""

GOOD_WORDS = ("trainids", "label", "class", "annot", "mask", "seg", "gt")
BAD_WORDS = ("instance", "object", "color", "colour", "edge", "depth", "disparity")


@dataclass(frozen=True)
class Pairing:
    """One way to pair files: two trees, and the endings that differ."""

    images: Tree
    image_suffix: str
    annotations: Tree
    annotation_suffix: str
    pairs: tuple[tuple[TreeFile, TreeFile], ...]

    def describe(self) -> str:
        """The two patterns in words."""
        return (
            f"{self.images.pattern}/*{self.image_suffix} with "
            f"{self.annotations.pattern}/*{self.annotation_suffix}"
        )


def find_pairings(
    trees: list[Tree], is_photograph: Callable[[str], bool], is_map: Callable[[str], bool]
) -> list[Pairing]:
    """All ways to pair photographs and label maps, the best first.

    Args:
        trees: the trees of the folder.
        is_photograph: whether the file of this name looks like a photograph.
        is_map: whether it looks like a label map.
    """
    pairings: dict[tuple[str, ...], Pairing] = {}
    for photos in trees:
        for maps in trees:
            if ("{name}" in photos.pattern) != ("{name}" in maps.pattern):
                continue
            for endings in _find_endings(photos, maps):
                pairing = _pair_files(photos, maps, *endings)
                if pairing is None:
                    continue
                image, annotation = pairing.pairs[len(pairing.pairs) // 2]
                if is_photograph(image.path) and is_map(annotation.path):
                    key = tuple(sorted(f.path for f in pairing.pairs[0])) + endings
                    better = pairings.get(key)
                    if better is None or _rank(pairing) < _rank(better):
                        pairings[key] = pairing
    return sorted(pairings.values(), key=_rank)


def _rank(pairing: Pairing) -> tuple[object, ...]:
    """Small for a good pairing: many pairs, telling names, few folders."""
    text = f"{pairing.annotations.pattern}{pairing.annotation_suffix}".lower()
    bad = sum(word in text for word in BAD_WORDS)
    good = sum(word in text for word in GOOD_WORDS)
    patterns = pairing.images.pattern, pairing.annotations.pattern
    depth = sum(pattern.count("/") for pattern in patterns)
    return -len(pairing.pairs), bad, "trainids" not in text, -good, depth, patterns, text


def _find_endings(images: Tree, annotations: Tree) -> list[tuple[str, str]]:
    """The endings in which the names of images and label maps differ, the most frequent first."""
    by_folder: dict[tuple[str, str], list[str]] = {}
    for file in annotations.files:
        folder, _, name = file.inner.rpartition("/")
        by_folder.setdefault((file.split, folder), []).append(name)
    for names in by_folder.values():
        names.sort()
    votes: Counter[tuple[str, str]] = Counter()
    for file in images.files[:: max(1, len(images.files) // SAMPLE)]:
        folder, _, name = file.inner.rpartition("/")
        names = by_folder.get((file.split, folder), [])
        own = images.pattern == annotations.pattern
        for other in _find_longest_prefix(name, names, own):
            votes[_split_ending(name, other)] += 1
    return [endings for endings, _ in votes.most_common(MOST_ENDINGS) if all(endings)]


def _find_longest_prefix(name: str, names: list[str], own: bool) -> list[str]:
    """The names that have the longest prefix in common with ``name``; at most eight."""
    position = bisect.bisect_left(names, os.path.splitext(name)[0])
    near = names[max(0, position - 4) : position + 8]
    lengths = {other: _count_common(name, other) for other in near if not (own and other == name)}
    longest = max(lengths.values(), default=0)
    # `a_000019_` is shared by all maps of an image, `a_000019_gt` by those of one kind.
    stem = len(os.path.splitext(name)[0])
    return [other for other, length in lengths.items() if length and length >= min(longest, stem)]


def _split_ending(name: str, other: str) -> tuple[str, str]:
    """What follows the common part of two names, from a separator on."""
    (stem, _), (other_stem, _) = os.path.splitext(name), os.path.splitext(other)
    common = _count_common(stem, other_stem)
    while 0 < common < max(len(stem), len(other_stem)):
        is_start = all(len(s) == common or s[common] in "_-." for s in (stem, other_stem))
        if is_start:
            break
        common -= 1
    return name[common:], other[common:]


def _count_common(first: str, second: str) -> int:
    """The number of equal characters at the start of two names."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(first), len(second)))


def _pair_files(
    images: Tree, annotations: Tree, image_suffix: str, annotation_suffix: str
) -> Pairing | None:
    if images.pattern == annotations.pattern and image_suffix == annotation_suffix:
        return None
    longer = max(image_suffix, annotation_suffix, key=len)

    def index(tree: Tree, suffix: str) -> dict[tuple[str, str], TreeFile]:
        return {
            (file.split, file.inner.removesuffix(suffix)): file
            for file in tree.files
            if file.inner.endswith(suffix) and (suffix == longer or not file.inner.endswith(longer))
        }

    maps = index(annotations, annotation_suffix)
    photos = index(images, image_suffix)
    pairs = tuple((photos[key], maps[key]) for key in sorted(photos.keys() & maps.keys()))
    if not pairs:
        return None
    return Pairing(images, image_suffix, annotations, annotation_suffix, pairs)
