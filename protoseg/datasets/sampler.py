"""The order of training samples: a function of seed, iteration and batch position alone.

Sample ``n = iteration * batch_size + position`` determines an image and the seed of its
augmentation. Each epoch is a new permutation of the images. The number of loader workers,
prefetching and resuming do not change the order.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Sampler


@dataclass(frozen=True)
class SampleRequest:
    """One training sample: the index of its image, and the seed of its augmentation.

    ``seed`` is the seed of the run and ``number`` the number of the sample in the training;
    together they seed the augmentation.
    """

    image: int
    seed: int
    number: int


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, size: int) -> np.ndarray[Any, Any]:
    """The order of the images in an epoch, (size,)."""
    return np.random.Generator(np.random.PCG64([seed, epoch, size])).permutation(size)


@DATA_SAMPLERS.register_module()
class StatelessSampler(Sampler[SampleRequest]):
    """The sample requests of this process for iterations ``start`` to ``iterations - 1``.

    Args:
        dataset: its length is the number of images.
        seed: the seed of the run.
        batch_size: images per iteration, summed over all processes.
        iterations: the length of the training.
        start: the first iteration; above 0 for a run resumed from a checkpoint.
    """

    def __init__(
        self, dataset: Any, seed: int, batch_size: int, iterations: int, start: int = 0
    ) -> None:
        self.size = len(dataset)
        self.seed = seed
        self.batch_size = batch_size
        self.iterations = iterations
        self.start = start
        self.rank, self.world_size = get_dist_info()

    def __iter__(self) -> Iterator[SampleRequest]:
        share = self.batch_size // self.world_size
        for iteration in range(self.start, self.iterations):
            for position in range(self.rank * share, (self.rank + 1) * share):
                number = iteration * self.batch_size + position
                epoch, index = divmod(number, self.size)
                image = int(permutation(self.seed, epoch, self.size)[index])
                yield SampleRequest(image, self.seed, number)

    def __len__(self) -> int:
        return (self.iterations - self.start) * (self.batch_size // self.world_size)
