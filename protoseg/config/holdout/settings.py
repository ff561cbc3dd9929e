"""Declares which part of the training images is held out, to select settings on it."""

from __future__ import annotations

from dataclasses import dataclass

from protoseg.config.fields import number

HOLDOUT = "holdout"
"""The value of ``evaluation.split`` that evaluates on the held-out images."""


@dataclass(frozen=True)
class HoldoutSpec:
    """A part of ``dataset.train_split`` that is evaluated instead of trained on.

    One of ``blocks``, ``pattern`` and ``list`` groups the images; ``blocks`` and ``pattern``
    together make blocks within the groups. `protoseg.config.holdout.draw` draws whole groups.
    """

    share: float = number(0.0, low=0, high=1)
    """Smallest share of the training images that is held out; whole groups may exceed it."""
    blocks: int = number(0, low=0)
    """Length of a group of consecutive images in the order of their names; 0 for no blocks."""
    gap: int = number(0, low=0)
    """Images on each side of a held-out block that are neither trained on nor evaluated."""
    pattern: str = ""
    """Regular expression searched in the names; images with an equal first group belong together.
    A name is the path below the folder of the images, without suffix."""
    list: str = ""
    """File with the names of the held-out images, relative to the folder of the data set. A line
    names an image as in ``dataset.split_files``."""
    list_sha256: str = ""
    """SHA-256 of that file, or its first digits, checked before training; empty accepts any."""
    seed: int = number(0, low=0, high=2**31 - 1)
    """Seed of the draw. The seed of the run has no effect on it."""

    def __post_init__(self) -> None:
        if not self.list:  # no file, hence no digest
            object.__setattr__(self, "list_sha256", "")

    @property
    def is_set(self) -> bool:
        """Whether images are held out."""
        return self != HoldoutSpec()


def describe_holdout(holdout: HoldoutSpec, split: str) -> str:
    """Describe a holdout: ``holdout (20% of train, blocks of 30, gap 10, seed 0)``.

    Args:
        holdout: the settings.
        split: the name of the training split.
    """
    if holdout.list:
        return f"holdout (images of {split} in {holdout.list})"
    groups = f"groups by {holdout.pattern}" if holdout.pattern else ""
    if holdout.blocks:
        within = f" within {groups}" if groups else ""
        groups = f"blocks of {holdout.blocks}{within}, gap {holdout.gap}"
    return f"holdout ({100 * holdout.share:g}% of {split}, {groups}, seed {holdout.seed})"
