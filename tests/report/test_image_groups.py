"""Groups of evaluated images, by blocks and by file names."""

from __future__ import annotations

import pytest

from protoseg.config.matrix import ImageGroupsSpec
from protoseg.errors import ProtosegError
from protoseg.report.image_groups import group_images


def no_names() -> list[str]:
    """Blocks need no file names."""
    raise AssertionError


def test_blocks_are_consecutive_images() -> None:
    groups, rule = group_images(ImageGroupsSpec(block=10), 101, no_names)
    assert groups.tolist() == [min(index // 10, 9) for index in range(101)]
    assert rule == "blocks of 10 consecutive images"


def test_a_pattern_groups_file_names() -> None:
    names = ["a_1.png", "b_1.png", "a_2.png", "c_1.png"]
    groups, rule = group_images(ImageGroupsSpec(pattern=r"^(\w)_"), 4, lambda: names)
    assert groups.tolist() == [0, 1, 0, 2]
    assert rule == r"images with equal '^(\w)_'"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ImageGroupsSpec(block=3), "make 2 groups, but the bootstrap needs at least 3."),
        (ImageGroupsSpec(block=1), "a block of 1 images is not a group."),
        (ImageGroupsSpec(pattern="png"), "puts all 6 images into one group ('png')."),
        (ImageGroupsSpec(pattern=r"(.*)\.png"), "puts each of the 6 images into a separate group."),
        (ImageGroupsSpec(pattern="^(a|b)"), "makes 2 groups, but the bootstrap needs at least 3."),
        (ImageGroupsSpec(pattern="a"), "does not match the image 'b_1.png'."),
        (ImageGroupsSpec(pattern="("), "is not a valid regular expression"),
    ],
)
def test_useless_groups_are_refused_in_one_line(spec: ImageGroupsSpec, message: str) -> None:
    names = ["a_1.png", "a_2.png", "a_3.png", "b_1.png", "b_2.png", "b_3.png"]
    with pytest.raises(ProtosegError) as caught:
        group_images(spec, 6, lambda: names)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
