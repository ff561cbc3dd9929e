"""The memory bank of pixel contrast against queues stored as lists."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch

from core import contrast_reference as reference
from core.batches import draw_vectors
from protoseg.core.losses import IGNORED
from protoseg.core.memory_bank import ContrastMemory

CLASSES, CHANNELS, IMAGES = 4, 6, 3


def make_batch(seed: int, present=(IGNORED, 0, 1, 3), num_pixels: int = 60):
    """Return unit vectors of three images, their labels and random keys."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(present, num_pixels)
    return (
        draw_vectors(rng, num_pixels, CHANNELS),
        labels,
        rng.random(num_pixels).astype(np.float32),
    )


def make_memories(pixel_queue: int, region_queue: int, pixels_per_image: int):
    sizes = {"pixel_queue": pixel_queue, "region_queue": region_queue}
    sizes["pixels_per_image"] = pixels_per_image
    return ContrastMemory(CLASSES, CHANNELS, **sizes), reference.Memory(CLASSES, **sizes)


def push_batch(memory, rows, labels, random_keys, images: int = IMAGES):
    memory.push_batch(torch.tensor(rows), torch.tensor(labels), images, torch.tensor(random_keys))


def read_entries(queue: torch.Tensor, seen: torch.Tensor) -> list[np.ndarray]:
    """Return the entries of each class, oldest first."""
    entries_by_class = []
    for rows, number in zip(queue, seen.tolist(), strict=True):
        size = len(rows)
        entries = range(max(0, number - size), number)
        entries_by_class.append(np.array([rows[entry % size].numpy() for entry in entries]))
    return entries_by_class


def assert_same_entries(memory, lists):
    for name in ("pixels", "regions"):
        entries_by_class = read_entries(getattr(memory, name), getattr(memory, f"{name}_seen"))
        for actual, expected in zip(entries_by_class, lists.queues[name], strict=True):
            assert len(actual) == len(expected)
            if len(expected):
                np.testing.assert_allclose(actual, np.array(expected), atol=1e-6)


SIZES = [(7, 5, 2), (1, 1, 1), (100, 100, 10), (5, 2, 30), (0, 4, 2), (6, 0, 2), (0, 0, 1)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_queues_equal_the_lists_while_they_fill_and_wrap(sizes):
    memory, lists = make_memories(*sizes)
    class_sets = [(IGNORED, 0, 1, 3), (0,), (IGNORED,), (2, 3), (0, 1, 2, 3), (1, IGNORED)]
    for seed, present in enumerate(class_sets * 2):
        arguments = make_batch(seed, present)
        push_batch(memory, *arguments)
        lists.push_batch(arguments[0], arguments[1], IMAGES, arguments[2])
        assert_same_entries(memory, lists)
    assert (memory.pixels_seen >= 0).all()


@pytest.mark.parametrize("num_pixels", [1, 3])
def test_images_can_have_one_pixel(num_pixels):
    memory, lists = make_memories(4, 4, 2)
    for seed in range(3):
        arguments = make_batch(seed, (0, 1), num_pixels)
        push_batch(memory, *arguments, images=num_pixels)
        lists.push_batch(arguments[0], arguments[1], num_pixels, arguments[2])
    assert_same_entries(memory, lists)


def test_samples_are_all_slots_with_their_classes_and_the_extra_rows():
    memory, _ = make_memories(3, 2, 1)
    push_batch(memory, *make_batch(0, (1,)))
    extra = torch.ones(2, CHANNELS), torch.tensor([3, IGNORED])
    rows, labels = memory.collect_samples(extra)
    assert rows.shape == (CLASSES * 5 + 2, CHANNELS)
    none = [IGNORED] * 3
    assert labels[:12].tolist() == [*none, 1, 1, 1, *none, *none]
    assert labels[12:20].tolist() == [IGNORED, IGNORED, 1, 1, *([IGNORED] * 4)]
    assert labels[20:].tolist() == [3, IGNORED]
    assert torch.equal(rows[3:6], memory.pixels[1])
    rows.zero_()
    assert memory.pixels[1].any(), (
        "samples must be a copy: the next batch must not change gradients of this one"
    )


def test_entries_have_no_gradient_and_are_in_the_state_dict():
    memory, _ = make_memories(3, 2, 2)
    rows = torch.tensor(make_batch(0)[0]).requires_grad_()
    memory.push_batch(rows, torch.tensor(make_batch(0)[1]), IMAGES, torch.tensor(make_batch(0)[2]))
    assert not list(memory.parameters())
    assert not memory.pixels.requires_grad
    assert memory.state_dict().keys() == {"pixels", "regions", "pixels_seen", "regions_seen"}


def test_a_resumed_memory_is_bit_identical():
    memory, _ = make_memories(7, 5, 2)
    for seed in range(3):
        push_batch(memory, *make_batch(seed))
    file = io.BytesIO()
    torch.save(memory.state_dict(), file)
    file.seek(0)
    resumed, _ = make_memories(7, 5, 2)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for seed in range(3, 6):
        push_batch(memory, *make_batch(seed))
        push_batch(resumed, *make_batch(seed))
    for name, value in memory.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_memory_stays_float32_in_a_half_precision_model(dtype):
    memory, _ = make_memories(7, 5, 2)
    push_batch(memory, *make_batch(0))
    before = copy.deepcopy(memory.state_dict())
    memory.to(dtype)
    for name, value in memory.state_dict().items():
        assert torch.equal(value, before[name]), name
    push_batch(memory, *make_batch(1))


def test_the_memory_has_the_documented_constant_size():
    memory = ContrastMemory(11, 256, pixel_queue=500, region_queue=300)
    numbers = memory.pixels.numel() + memory.regions.numel()
    assert 4 * numbers == 4 * 11 * (500 + 300) * 256
    before = numbers
    rows = torch.nn.functional.normalize(torch.randn(400, 256), dim=1)
    for _ in range(5):
        memory.push_batch(rows, torch.arange(400) % 11, 2, torch.rand(400))
    assert memory.pixels.numel() + memory.regions.numel() == before
