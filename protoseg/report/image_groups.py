"""Groups evaluated images that depend on each other, such as the frames of one video."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoseg.config.identity import read_spec
from protoseg.config.matrix import ImageGroupsSpec
from protoseg.errors import ProtosegError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def group_images(
    spec: ImageGroupsSpec, record: dict[str, Any], images: int, data: Path | None
) -> tuple[NDArray[np.int64], str]:
    """Group the evaluated images of a run.

    Args:
        spec: the rule.
        record: the record of the run, for its data set and split.
        images: number of evaluated images.
        data: data folder, which holds the file names; needed for a pattern.

    Returns:
        The group of each image, (images,), counted from 0; and the rule in words.

    Raises:
        ProtosegError: fewer than three groups, one image per group, or file names that are not
            there or do not match.
    """
    from protoseg.report.statistics.bootstrap import frame_blocks, groups_by_pattern

    if spec.pattern:
        names = _list_names(record, images, data)
        return groups_by_pattern(names, spec.pattern), f"images with equal '{spec.pattern}'"
    return frame_blocks(images, spec.block), f"blocks of {spec.block} consecutive images"


def _list_names(record: dict[str, Any], images: int, data: Path | None) -> list[str]:
    """List the file names of the evaluated images, in the order of the counts."""
    from protoseg.datasets.layout import find_pairs, find_root

    spec = read_spec(record["spec"], "compare")
    split = spec.evaluation.split
    where = f"compare: groups by pattern need the file names of {spec.dataset.name} {split}"
    if data is None or not (data / spec.dataset.place).is_dir():
        raise ProtosegError(
            f"{where}, and the data are not in {data}. Name the data folder with --data, or use "
            "blocks of images."
        )
    pairs = find_pairs(find_root(spec.dataset, data), spec.dataset, split)
    if len(pairs) != images:
        raise ProtosegError(
            f"{where}: the data folder has {len(pairs)} images of this split, but the record "
            f"counts {images}. Use the data of the record."
        )
    return [pair.image.name for pair in pairs]
