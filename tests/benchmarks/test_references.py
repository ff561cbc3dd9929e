"""The references that the benchmarks compare with are right, and so are their watch and scales."""

from __future__ import annotations

import functools
import types

import batches
import float64_oracle
import interleaved_timing
import numpy as np
import pytest
import reference_clustering
import torch
from core import reference
from models.segmentors import decode_head, feature_maps, label_maps, samples, total_loss
from peak_memory import peak_bytes

from protoseg.models import PrototypeHead

CPU = torch.device("cpu")


def test_the_loops_sinkhorn_is_the_papers() -> None:
    own = batches.cosines(40, 5)
    plan = reference_clustering.sinkhorn(own)
    expected = reference.sinkhorn_of_class(own.numpy(), 0.05, 3)
    np.testing.assert_allclose(plan.numpy(), expected, atol=1e-5)
    torch.testing.assert_close(plan.sum(1), torch.ones(40))
    chosen, sample = reference_clustering.released(own)
    assert (chosen == plan.argmax(1)).all()
    assert (sample.sum(1) == 1).all()


@pytest.mark.parametrize("sizes", ["even", "long tail", "20 present"])
def test_the_loop_and_the_exact_solution_agree(sizes: batches.Sizes) -> None:
    labels = batches.labels(2000, 30, sizes)
    own = batches.cosines(2000, 5)
    expected = float64_oracle.assignment(own, labels, 30)
    found = reference_clustering.assign_pixels(own, labels, 30)
    float64_oracle.check_assignment(found, expected, "loop")
    float64_oracle.check_assignment(
        reference_clustering.assign_released(own, labels, 30), expected, "released"
    )
    plan = reference.sinkhorn(own.numpy(), labels.numpy(), 30, 0.05, 3)
    sure = (reference.margin(plan) > 1e-3) & (labels.numpy() >= 0)
    assert (expected[0].numpy()[sure] == plan.argmax(1)[sure]).all()
    wrong = torch.where(found == 1, 2, found)
    with pytest.raises(AssertionError, match=r"assigned wrongly"):
        float64_oracle.check_assignment(wrong, expected, "another")


def test_the_loops_update_is_the_papers() -> None:
    labels = batches.labels(300, 4, "long tail")
    pixels = batches.embeddings(300, 8)
    prototypes = torch.nn.functional.normalize(torch.randn(4, 3, 8), dim=-1)
    similarities = pixels @ prototypes.flatten(0, 1).t()
    target, after = reference_clustering.cluster_and_update(
        similarities, pixels, labels, prototypes, 0.9
    )
    expected, sure = reference.assign_pixels(similarities.numpy(), labels.numpy(), 4, 3, 0.05, 3)
    assert (target.numpy() == expected)[sure > 1e-3].all()
    moved = reference.update_prototypes(
        prototypes.numpy(), pixels.numpy(), target.numpy(), 0.9, "cosine"
    )
    np.testing.assert_allclose(after.numpy(), moved, atol=1e-5)


def test_the_loop_head_is_the_prototype_head() -> None:
    heads = []
    for kind in (PrototypeHead, reference_clustering.LoopHead):
        torch.manual_seed(0)
        heads.append(kind(decode_head("SegformerHead"), num_prototypes=4))
    results = []
    for head in heads:
        maps = [each.requires_grad_() for each in feature_maps()]
        loss = total_loss(head.loss(maps, samples(label_maps(3)), None))
        loss.backward()
        results.append((loss.detach(), *(each.grad for each in maps), head.bank.prototypes))
    for ours, loop in zip(*results, strict=True):
        torch.testing.assert_close(ours, loop, atol=1e-5, rtol=1e-4)


def test_labels_have_the_sizes_they_are_asked_for() -> None:
    even = torch.bincount(batches.labels(1000, 7))
    assert even.max() - even.min() <= 1
    tail = batches.labels(100_000, 50, "long tail")
    counts = torch.bincount(tail[tail >= 0], minlength=50).sort(descending=True).values
    assert 1.7 < counts[0] / counts[1] < 2.3
    assert (tail < 0).float().mean() == pytest.approx(0.1, abs=0.01)
    present = batches.labels(100_000, 150, "20 present")
    assert len(present[present >= 0].unique()) == 20


def test_peak_memory_counts_what_is_held_at_once() -> None:
    def step() -> None:
        first, second = torch.empty(1000), torch.empty(500)
        del first
        torch.empty(250)
        del second

    assert peak_bytes(step, CPU) == 6000
    numbers = torch.ones(1000, requires_grad=True)

    def backward() -> None:
        numbers.grad = None
        numbers.exp().sum().backward()

    # Held before: the gradient that is dropped. Then: the exponentials, and two gradients of them.
    found = [peak_bytes(backward, CPU) for _ in range(3)]
    assert found[0] == found[1] == found[2]
    assert 4000 <= found[0] <= 8100


class Clock:
    """A clock that only the steps of a race move.

    Attributes:
        seconds: step -> what a call of it takes.
        calls: the steps in the order of their calls.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
        self.now = 0.0
        self.seconds = seconds
        self.calls: list[str] = []
        monkeypatch.setattr(
            interleaved_timing, "time", types.SimpleNamespace(perf_counter=lambda: self.now)
        )

    def call(self, name: str) -> None:
        self.now += self.seconds[name]
        self.calls.append(name)

    def race(self, seconds: float, rounds: tuple[int, int]) -> dict[str, list[float]]:
        steps = {name: functools.partial(self.call, name) for name in self.seconds}
        return interleaved_timing.race(steps, CPU, seconds=seconds, rounds=rounds)


def test_a_race_gives_everyone_the_same_rounds_and_tells_fast_from_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch, a=0.0625, b=0.25)
    found = clock.race(seconds=0.0, rounds=(6, 9))
    assert found == {"a": [0.0625] * 6, "b": [0.25] * 6}
    assert interleaved_timing.ratios(found["b"], found["a"]) == {
        "median": 4.0,
        "low": 4.0,
        "high": 4.0,
    }
    # Three calls of each to learn what one takes; then the order turns from round to round.
    assert "".join(clock.calls) == "aaabbb" + "abba" * 3


def test_a_race_ends_after_the_round_that_uses_up_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, a=0.0625, b=0.25)
    assert len(clock.race(seconds=1.0, rounds=(2, 9))["a"]) == 4
    assert len(clock.race(seconds=9.0, rounds=(2, 9))["a"]) == 9


def test_a_step_that_takes_no_time_is_called_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, a=interleaved_timing.BLOCK_SECONDS / 8, b=1.0)
    found = clock.race(seconds=0.0, rounds=(2, 2))
    assert found["a"] == pytest.approx([interleaved_timing.BLOCK_SECONDS / 8] * 2)
    assert clock.calls.count("a") == 3 + 2 * 8
    # What takes half a second or more is not called again to learn how long it takes.
    assert clock.calls.count("b") == 1 + 2


def test_an_interval_of_the_median_widens_for_few_values() -> None:
    assert interleaved_timing.summary([3.0, 1.0, 2.0]) == {"median": 2.0, "low": 1.0, "high": 3.0}
    many = interleaved_timing.summary([float(v) for v in range(1, 21)])
    assert many == {"median": 10.5, "low": 6.0, "high": 15.0}  # the sixth of twenty: 95.9 %
    rng = np.random.default_rng(0)
    holds = [
        (s := interleaved_timing.summary(list(rng.exponential(size=15))))["low"]
        <= np.log(2)
        <= s["high"]
        for _ in range(500)
    ]
    assert np.mean(holds) > 0.93


def test_a_replay_tells_the_times_of_a_race() -> None:
    timer = interleaved_timing.Replay()
    timer.load([0.5, 0.25])
    differences = [-(timer() - timer()) for _ in range(2)]
    assert differences == [0.5, 0.25]
