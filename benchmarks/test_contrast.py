"""A step of pixel contrast (anchors, samples, loss, gradient, queues) next to loops."""

from __future__ import annotations

from collections.abc import Callable

import batches
import pytest
import reference_contrast
import torch
from peak_memory import measure_peak_bytes
from torch import Tensor

from protoseg.core.memory_bank import ContrastMemory
from protoseg.core.memory_contrast import compute_memory_contrast
from protoseg.core.pixel_contrast import choose_anchors, choose_samples, compute_contrast_loss

IMAGES, CHANNELS, PER_IMAGE = 4, 256, 10
CASES = [
    pytest.param(pixels, classes, queue, anchors, id=f"{pixels}-{classes}-{queue}-{anchors}")
    for pixels, classes, queue, anchors in (
        (4_096, 11, 50, 64),
        (65_536, 19, 500, 256),
        (65_536, 19, 5000, 1024),
        (65_536, 150, 500, 1024),
    )
]


@pytest.mark.parametrize(("pixels", "classes", "queue", "anchors"), CASES)
def test_step(
    case: Callable[..., None],
    device: torch.device,
    pixels: int,
    classes: int,
    queue: int,
    anchors: int,
) -> None:
    """From the unit vectors of a batch to their gradient and the updated memory."""
    labels = batches.make_labels(pixels, classes, "long tail", device)
    embeddings = batches.make_embeddings(pixels, CHANNELS, device)
    generator = torch.Generator().manual_seed(0)
    random_keys = torch.rand(pixels, generator=generator).to(device)
    hard = (torch.rand(pixels, generator=generator) < 0.3).to(device)
    sizes = {"pixel_queue": queue, "region_queue": queue, "pixels_per_image": PER_IMAGE}
    memory = ContrastMemory(classes, CHANNELS, **sizes).to(device)
    for name in ("pixels", "regions"):  # half full
        slots = getattr(memory, name)
        rows = torch.randn(slots.shape, generator=generator)
        slots.copy_(torch.nn.functional.normalize(rows, dim=2))
        getattr(memory, f"{name}_seen").fill_(queue // 2)
        slots[:, queue // 2 :] = 0
    number = classes * 2 * queue + anchors
    sample_keys = torch.rand(number, generator=generator).to(device)
    start = {name: value.clone() for name, value in memory.state_dict().items()}
    entries = torch.cat([each.flatten(0, 1) for each in (start["pixels"], start["regions"])]).t()
    choice = {"positives": anchors, "negatives": 2 * anchors}

    def ours() -> tuple[Tensor, Tensor]:
        leaf = embeddings.detach().requires_grad_()
        chosen, own = choose_anchors(labels, hard, classes, anchors, random_keys)
        rows = leaf.index_select(0, chosen)
        samples, sample_labels = memory.collect_samples((rows.detach(), own))
        anchor_samples = torch.arange(number - anchors, number, device=device)
        picked = choose_samples(
            rows,
            own,
            samples,
            sample_labels,
            anchor_samples,
            classes,
            hard=True,
            random_keys=sample_keys,
            max_per_class=memory.slots_per_class + anchors,
            **choice,
        )
        loss = compute_contrast_loss(rows, samples, picked, 0.1)
        loss.backward()
        memory.push_batch(embeddings, labels, IMAGES, random_keys)
        assert leaf.grad is not None
        return loss.detach(), leaf.grad

    queues = reference_contrast.Queues(
        classes, memory.pixels, memory.regions, [memory.pixels_seen, memory.regions_seen]
    )
    inside = [torch.arange(queue, device=device) < queue // 2] * classes
    flags = torch.stack(inside).flatten().repeat(2)
    classes_of = torch.arange(classes, device=device).repeat_interleave(queue).repeat(2)

    def loop() -> tuple[Tensor, Tensor]:
        leaf = embeddings.detach().requires_grad_()
        chosen = reference_contrast.choose_anchors(labels, hard, anchors, random_keys)
        own = labels[chosen]
        rows = leaf[chosen]
        samples = torch.cat([entries.t(), rows.detach()])
        sample_labels = torch.cat([torch.where(flags, classes_of, reference_contrast.IGNORED), own])
        anchor_samples = torch.arange(number - anchors, number, device=device)
        loss = reference_contrast.compute_loss(
            rows,
            own,
            samples,
            sample_labels,
            anchor_samples,
            sample_keys,
            temperature=0.1,
            **choice,
        )
        loss.backward()
        queues.push_batch(embeddings, labels, IMAGES, random_keys, PER_IMAGE)
        assert leaf.grad is not None
        return loss.detach(), leaf.grad

    actual, expected = ours(), loop()
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-4, atol=0)
    difference = (actual[1] - expected[1]).norm() / expected[1].norm()
    assert difference < 1e-2, f"the gradients differ by {difference:.1e}"
    for queue_ours, queue_loop in zip((memory.pixels, memory.regions), queues.queues, strict=True):
        torch.testing.assert_close(queue_ours, queue_loop, rtol=0, atol=1e-5)
    name = f"{pixels:,} px, {classes} classes, {queue} + {queue} a class, {anchors} anchors"
    others = {"loop": loop, "anchors × memory alone": lambda: embeddings[:anchors] @ entries}
    case("pixel contrast", name, ours, others, memory=True, rounds=(5, 30), slow=2)


@pytest.mark.parametrize(("classes", "queue"), [(11, 500), (11, 5000), (150, 5000)])
def test_whole_memory(
    case: Callable[..., None], device: torch.device, classes: int, queue: int
) -> None:
    """The loss of ``contrast=released`` over the whole memory, with its gradient."""
    torch.manual_seed(0)
    memory = ContrastMemory(
        classes, CHANNELS, pixel_queue=queue, region_queue=queue, start="random"
    ).to(device)
    anchors = batches.make_embeddings(1024, CHANNELS, device)
    labels = torch.arange(1024, device=device) % classes
    entries = memory.list_entries()

    def ours() -> Tensor:
        leaf = anchors.detach().requires_grad_()
        loss = compute_memory_contrast(leaf, labels, entries, 0.07)
        loss.backward()
        return loss.detach()

    def multiply() -> None:
        for rows, _ in entries:
            for block in rows.split(2**14):
                anchors @ block.t()

    assert measure_peak_bytes(ours, device) < 2**30
    name = f"1024 anchors, {classes} classes, {queue} + {queue} a class"
    others = {"anchors × memory alone": multiply}
    case("contrast over the whole memory", name, ours, others, memory=True, rounds=(2, 5), slow=1)
