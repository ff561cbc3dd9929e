"""The references of the benchmarks, their timing and their memory measurement."""

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
from models.segmentors import (
    make_decode_head,
    make_feature_maps,
    make_label_maps,
    make_samples,
    sum_losses,
)
from peak_memory import measure_peak_bytes

from protoseg.models import PrototypeHead

CPU = torch.device("cpu")


def test_sinkhorn_of_the_loop_equals_the_paper() -> None:
    own = batches.make_cosines(40, 5)
    plan = reference_clustering.run_sinkhorn(own)
    expected = reference.solve_sinkhorn_of_class(own.numpy(), 0.05, 3)
    np.testing.assert_allclose(plan.numpy(), expected, atol=1e-5)
    torch.testing.assert_close(plan.sum(1), torch.ones(40))
    chosen, sample = reference_clustering.assign_class_released(own)
    assert (chosen == plan.argmax(1)).all()
    assert (sample.sum(1) == 1).all()


@pytest.mark.parametrize("sizes", ["even", "long tail", "20 present"])
def test_the_loop_equals_the_exact_assignment(sizes: batches.Sizes) -> None:
    labels = batches.make_labels(2000, 30, sizes)
    own = batches.make_cosines(2000, 5)
    expected = float64_oracle.assign_exactly(own, labels, 30)
    actual = reference_clustering.assign_pixels(own, labels, 30)
    float64_oracle.check_assignment(actual, expected, "loop")
    float64_oracle.check_assignment(
        reference_clustering.assign_released(own, labels, 30), expected, "released"
    )
    plan = reference.solve_sinkhorn(own.numpy(), labels.numpy(), 30, 0.05, 3)
    is_clear = (reference.compute_margins(plan) > 1e-3) & (labels.numpy() >= 0)
    assert (expected[0].numpy()[is_clear] == plan.argmax(1)[is_clear]).all()
    wrong = torch.where(actual == 1, 2, actual)
    with pytest.raises(AssertionError, match=r"assigned wrongly"):
        float64_oracle.check_assignment(wrong, expected, "another")


def test_the_update_of_the_loop_equals_the_paper() -> None:
    labels = batches.make_labels(300, 4, "long tail")
    pixels = batches.make_embeddings(300, 8)
    prototypes = torch.nn.functional.normalize(torch.randn(4, 3, 8), dim=-1)
    similarities = pixels @ prototypes.flatten(0, 1).t()
    target, after = reference_clustering.assign_and_update(
        similarities, pixels, labels, prototypes, 0.9
    )
    expected, is_clear = reference.assign_pixels(
        similarities.numpy(), labels.numpy(), 4, 3, 0.05, 3
    )
    assert (target.numpy() == expected)[is_clear > 1e-3].all()
    moved = reference.update_prototypes(
        prototypes.numpy(), pixels.numpy(), target.numpy(), 0.9, "cosine"
    )
    np.testing.assert_allclose(after.numpy(), moved, atol=1e-5)


def test_the_loop_head_equals_the_prototype_head() -> None:
    heads = []
    for head_class in (PrototypeHead, reference_clustering.LoopHead):
        torch.manual_seed(0)
        heads.append(head_class(make_decode_head("SegformerHead"), num_prototypes=4))
    results = []
    for head in heads:
        maps = [each.requires_grad_() for each in make_feature_maps()]
        loss = sum_losses(head.loss(maps, make_samples(make_label_maps(3)), None))
        loss.backward()
        results.append((loss.detach(), *(each.grad for each in maps), head.bank.prototypes))
    for ours, loop in zip(*results, strict=True):
        torch.testing.assert_close(ours, loop, atol=1e-5, rtol=1e-4)


def test_labels_have_the_requested_class_sizes() -> None:
    even = torch.bincount(batches.make_labels(1000, 7))
    assert even.max() - even.min() <= 1
    tail = batches.make_labels(100_000, 50, "long tail")
    counts = torch.bincount(tail[tail >= 0], minlength=50).sort(descending=True).values
    assert 1.7 < counts[0] / counts[1] < 2.3
    assert (tail < 0).float().mean() == pytest.approx(0.1, abs=0.01)
    present = batches.make_labels(100_000, 150, "20 present")
    assert len(present[present >= 0].unique()) == 20


def test_peak_memory_counts_simultaneous_allocations() -> None:
    def step() -> None:
        first, second = torch.empty(1000), torch.empty(500)
        del first
        torch.empty(250)
        del second

    assert measure_peak_bytes(step, CPU) == 6000
    numbers = torch.ones(1000, requires_grad=True)

    def backward() -> None:
        numbers.grad = None
        numbers.exp().sum().backward()

    # Allocated before: the released gradient. Then: the exponentials and two gradients of them.
    actual = [measure_peak_bytes(backward, CPU) for _ in range(3)]
    assert actual[0] == actual[1] == actual[2]
    assert 4000 <= actual[0] <= 8100


class Clock:
    """A clock that advances only when a timed function is called.

    Attributes:
        seconds: name -> seconds per call.
        calls: names in the order of their calls.
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

    def time_all(self, seconds: float, rounds: tuple[int, int]) -> dict[str, list[float]]:
        steps = {name: functools.partial(self.call, name) for name in self.seconds}
        return interleaved_timing.time_contenders(steps, CPU, seconds=seconds, rounds=rounds)


def test_interleaved_timing_runs_equal_rounds_and_measures_each_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch, a=0.0625, b=0.25)
    actual = clock.time_all(seconds=0.0, rounds=(6, 9))
    assert actual == {"a": [0.0625] * 6, "b": [0.25] * 6}
    assert interleaved_timing.summarise_ratios(actual["b"], actual["a"]) == {
        "median": 4.0,
        "low": 4.0,
        "high": 4.0,
    }
    # Three calls of each to measure one call; then the order rotates from round to round.
    assert "".join(clock.calls) == "aaabbb" + "abba" * 3


def test_timing_ends_after_the_round_that_reaches_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch, a=0.0625, b=0.25)
    assert len(clock.time_all(seconds=1.0, rounds=(2, 9))["a"]) == 4
    assert len(clock.time_all(seconds=9.0, rounds=(2, 9))["a"]) == 9


def test_a_fast_function_is_called_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, a=interleaved_timing.BLOCK_SECONDS / 8, b=1.0)
    actual = clock.time_all(seconds=0.0, rounds=(2, 2))
    assert actual["a"] == pytest.approx([interleaved_timing.BLOCK_SECONDS / 8] * 2)
    assert clock.calls.count("a") == 3 + 2 * 8
    # A call of half a second or more is measured only once.
    assert clock.calls.count("b") == 1 + 2


def test_the_interval_of_the_median_is_wider_for_few_values() -> None:
    assert interleaved_timing.summarise_times([3.0, 1.0, 2.0]) == {
        "median": 2.0,
        "low": 1.0,
        "high": 3.0,
    }
    many = interleaved_timing.summarise_times([float(v) for v in range(1, 21)])
    assert many == {"median": 10.5, "low": 6.0, "high": 15.0}  # the sixth of twenty: 95.9%
    rng = np.random.default_rng(0)
    contains_median = [
        (s := interleaved_timing.summarise_times(list(rng.exponential(size=15))))["low"]
        <= np.log(2)
        <= s["high"]
        for _ in range(500)
    ]
    assert np.mean(contains_median) > 0.93


def test_the_replay_timer_returns_the_measured_times() -> None:
    timer = interleaved_timing.ReplayTimer()
    timer.load_times([0.5, 0.25])
    differences = [-(timer() - timer()) for _ in range(2)]
    assert differences == [0.5, 0.25]
