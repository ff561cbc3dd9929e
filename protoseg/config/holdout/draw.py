"""Draws the held-out images of a training split.

The draw is a function of the names of the images and of the settings alone. Blocks are ordered by
SHA-256, so the result does not depend on a random generator, the file system, the machine, the
number of processes or the seed of the run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from protoseg.config.holdout.settings import HoldoutSpec
from protoseg.errors import UsageError

WHERE = "evaluation.holdout"
SHOWN = 3
"""The number of names that one message shows."""


@dataclass(frozen=True)
class HoldoutDraw:
    """The use of each image of a training split, as positions in the list of names, ascending."""

    train: tuple[int, ...]
    """Images to train on."""
    holdout: tuple[int, ...]
    """Images to evaluate on."""
    gap: tuple[int, ...]
    """Images beside a held-out block, which are not used."""


@dataclass(frozen=True)
class _Block:
    """Images ``start`` to ``stop - 1`` of a group, in the order of their names."""

    group: str
    number: int
    start: int
    stop: int

    def hash_position(self, seed: int) -> bytes:
        """Hash seed, group and number; the order of these hashes is the order of the draw."""
        text = json.dumps([seed, self.group, self.number])
        return hashlib.sha256(text.encode()).digest()


def draw_holdout(names: Sequence[str], holdout: HoldoutSpec) -> HoldoutDraw:
    """Draw whole blocks or groups of images until they have the share of the images.

    With ``blocks``, each group (all images, or those of a group of ``pattern``) is cut in the order
    of the names. Each block has ``blocks`` images; the last one has the rest of the group, from
    half to one and a half times as many. A smaller group is one block, as is each group without
    ``blocks``.

    The order of the draw is the order of the SHA-256 of [seed, group, number of the block]. The gap
    ends where the group ends, and an image of a held-out block is held out even if it is beside
    another one.

    Args:
        names: distinct names of the images, in any order.
        holdout: the settings, with ``share`` and ``blocks`` or ``pattern``.

    Returns:
        The use of each image.

    Raises:
        UsageError: a name does not fit the pattern, or no image is left to train on.
    """
    members = _group_names(names, holdout.pattern)
    blocks = [block for group in members for block in _cut_group(group, members[group], holdout)]
    drawn: list[_Block] = []
    count = 0
    for block in sorted(blocks, key=lambda block: block.hash_position(holdout.seed)):
        # The quotient is rounded as the typed share is: 7 of 100 reach a share of 0.07.
        if count / len(names) >= holdout.share:
            break
        drawn.append(block)
        count += block.stop - block.start
    held = {member for block in drawn for member in members[block.group][block.start : block.stop]}
    beside = {
        member
        for block in drawn
        for member in members[block.group][
            max(0, block.start - holdout.gap) : block.stop + holdout.gap
        ]
    }
    used = held | beside
    train = tuple(index for index in range(len(names)) if index not in used)
    if not train:
        raise UsageError(_describe_empty_rest(len(names), len(blocks), len(held)))
    return HoldoutDraw(train, tuple(sorted(held)), tuple(sorted(beside - held)))


def _group_names(names: Sequence[str], pattern: str) -> Mapping[str, list[int]]:
    """Group -> positions of its images, in the order of their names."""
    order = sorted(range(len(names)), key=names.__getitem__)
    if not pattern:
        return {"": order}
    compiled = re.compile(pattern)
    groups: dict[str, list[int]] = {}
    unmatched = []
    for index in order:
        match = compiled.search(names[index])
        group = match[1] if match else None
        if group is None:
            unmatched.append(names[index])
        else:
            groups.setdefault(group, []).append(index)
    if unmatched:
        shown = ", ".join(unmatched[:SHOWN]) + (", ..." if len(unmatched) > SHOWN else "")
        raise UsageError(
            f"{WHERE}.pattern: '{pattern}' does not fit {len(unmatched)} of {len(names)} names: "
            f"{shown}. Change it so that its first group is in every name."
        )
    return groups


def _cut_group(group: str, members: Sequence[int], holdout: HoldoutSpec) -> Iterator[_Block]:
    """Yield the blocks of a group, which has at least one image."""
    length = holdout.blocks or len(members)
    number = max(1, (2 * len(members) + length) // (2 * length))  # the quotient, rounded
    for index in range(number):
        stop = (index + 1) * length if index + 1 < number else len(members)
        yield _Block(group, index, index * length, stop)


def _describe_empty_rest(images: int, blocks: int, held: int) -> str:
    if blocks == 1:
        return (
            f"{WHERE}: all {images} training images are in one block or group, so none is left to "
            "train on. Choose smaller blocks, or a pattern with several groups."
        )
    if held < images:
        return (
            f"{WHERE}: the held-out blocks have {held} of {images} training images and their gaps "
            "have the others, so none is left to train on. Choose a smaller gap or share."
        )
    return (
        f"{WHERE}: the share needs all {blocks} blocks or groups of the {images} training images, "
        "so none is left to train on. Choose a smaller share, or more blocks or groups."
    )
