"""The slips of ContrastiveSeg's released code in filling its memory; each has a name.

They are off everywhere but in ``contrast=released``; docs/methods.md lists their effects.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from protoseg.core.losses import IGNORED

Slip = Literal["class_zero_absent", "permutation_of_image", "pointer_by_one", "labels_at_half_size"]
SLIPS: tuple[Slip, ...] = get_args(Slip)


def subsample_labels(labels: Tensor, images: int, size: tuple[int, int]) -> Tensor:
    """Take every second label in both directions, but number the pixels as before.

    ``labels_at_half_size``: label n of the smaller map is used for pixel n of the feature map,
    which is another place of the image.

    Args:
        labels: (B·H·W,).
        images: B.
        size: (H, W).

    Returns:
        (B·H·W,), `IGNORED` for the pixels of each image after the last label.
    """
    small = labels.view(images, *size)[:, ::2, ::2].flatten(1)
    padded = labels.new_full((images, size[0] * size[1]), IGNORED)
    padded[:, : small.shape[1]] = small
    return padded.flatten()


def draw_from_image(counts: Tensor, random_keys: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Draw pixels of each class with a permutation that indexes the image.

    ``permutation_of_image``: of the n pixels of a class in an image, V random numbers below n are
    drawn, and used as pixels of the image instead of as pixels of the class.

    Args:
        counts: pixels of each class in each image, (B, C).
        random_keys: (B, H·W) random numbers.
        number: V.

    Returns:
        Pixel indices into the flattened batch, and whether they exist, (B, C, V) each.
    """
    images, pixels = random_keys.shape
    order = random_keys.argsort(dim=1)
    chosen, exists = [], []
    for image in range(images):
        below = order[image] < counts[image, :, None]  # (C, H·W)
        first = torch.sort((~below).to(torch.int8), dim=1, stable=True).indices[:, :number]
        chosen.append(image * pixels + order[image][first])
        exists.append(below.gather(1, first))
    return torch.stack(chosen), torch.stack(exists)


@torch.no_grad()
def write_by_one(queue: Tensor, pointer: Tensor, entries: Tensor, exists: Tensor) -> None:
    """Write the entries of each image at the pointer of its class, which then moves by one.

    ``pointer_by_one``: most entries of an image are overwritten by the next image. At the end of
    the queue the entries fill its last slots, and the pointer returns to 0.

    Args:
        queue: (C, Q, D), changed in place.
        pointer: (C,), changed in place.
        entries: per class, those of one image after the other, (C, I, V, D).
        exists: (C, I, V) bool; the existing entries of an image come first.
    """
    num_classes, size, _ = queue.shape
    first = torch.arange(num_classes, device=queue.device)[:, None]
    turn = torch.arange(entries.shape[2], device=queue.device)
    for image in range(entries.shape[1]):
        is_new = exists[:, image]
        number = is_new.sum(1)
        is_full = pointer + number >= size
        start = torch.where(is_full, (size - number).clamp_min(0), pointer)
        slot = (start[:, None] + turn).clamp_max(size - 1)
        rows, columns = first.expand_as(slot)[is_new], slot[is_new]
        queue[rows, columns] = entries[:, image][is_new]
        moved = torch.where(is_full, 0, (pointer + 1) % size)
        pointer.copy_(torch.where(number > 0, moved, pointer))
