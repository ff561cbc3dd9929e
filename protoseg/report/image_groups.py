"""Groups evaluated images that depend on each other, such as the frames of one video."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from protoseg.config.matrix import ImageGroupsSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def group_images(
    spec: ImageGroupsSpec, images: int, list_names: Callable[[], Sequence[str]]
) -> tuple[NDArray[np.int64], str]:
    """Group the evaluated images of a run.

    Args:
        spec: the rule.
        images: number of evaluated images.
        list_names: lists their file names, in the order of the counts; called for a pattern only.

    Returns:
        The group of each image, (images,), counted from 0; and a description of the groups.

    Raises:
        ProtosegError: fewer than three groups, one image per group, or a file name that does not
            match.
    """
    from protoseg.report.statistics.bootstrap import frame_blocks, groups_by_pattern

    if spec.pattern:
        return groups_by_pattern(list_names(), spec.pattern), f"images with equal '{spec.pattern}'"
    return frame_blocks(images, spec.block), f"blocks of {spec.block} consecutive images"
