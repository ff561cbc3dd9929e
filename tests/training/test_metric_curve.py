"""Metrics on the way (``evaluation.every``): same bits with and without, and after any kill."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from waiting import finish

from protoseg import files
from protoseg.config.identity import run_id
from protoseg.config.schema import RunSpec
from protoseg.runs.folder import RunFolder
from protoseg.runs.states import State
from protoseg.training import checkpoint
from protoseg.training.evaluation.confusion import summarise_matrix
from protoseg.training.evaluation.metric_curve import MetricCurve
from protoseg.training.signals import StopRequested
from training.launch import Workers
from training.small import (
    ends,
    log,
    make_folder,
    record_of,
    result,
    small_spec,
    start_worker,
    wait_for_checkpoint,
    work,
)
from training.test_loop import make_loop
from training.test_weak import WEAK
from training.test_worker import assert_same_result

# Dropout, Gumbel samples and a learning rate with which mIoU changes in a few iterations.
SPEC = (
    *("method=released", "method.num_prototypes=3", "method.momentum=0.9"),
    "schedule.learning_rate=0.003",
)
EVERY = 4
IN_EVALUATION = """
import os, signal
from protoseg.training.evaluation.confusion import ConfusionCounts
process, images = ConfusionCounts.process, []
def interrupt(self, batch, samples):
    process(self, batch, samples)
    images.append(1)
    if len(images) == {}:
        os.kill(os.getpid(), {})
ConfusionCounts.process = interrupt
"""
"""Sends a signal after this many images of 4 for each evaluation."""
AT_METHOD = """
import os
from protoseg.training.loop import TrainingLoop
{1}, calls = TrainingLoop.{1}, []
def interrupt(self, *arguments):
    calls.append(1)
    if {0} and len(calls) == {2}:
        os.kill(os.getpid(), 9)
    {1}(self, *arguments)
    if len(calls) == {2}:
        os.kill(os.getpid(), 9)
TrainingLoop.{1} = interrupt
"""
"""Kills the process at the third number of calls of a method, before the call or after it."""


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    return small_spec(*SPEC, f"evaluation.every={EVERY}")


@pytest.fixture(scope="module")
def finished(spec: RunSpec, data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """An uninterrupted run with metrics on the way."""
    folder = make_folder(tmp_path_factory.mktemp("finished"), spec, data)
    assert work(folder)[0] == 0, log(folder)
    return folder


def saved_models(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.checkpoints.glob("best_*"))


def load_model(path: Path) -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["model"]
    return model


def assert_same_models(folder: RunFolder, other: RunFolder) -> None:
    """Compare the best models bit by bit."""
    assert saved_models(folder) == saved_models(other)
    (path,) = folder.checkpoints.glob("best_*.pth")
    one, two = load_model(path), load_model(other.checkpoints / path.name)
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


# Same bits with and without


def list_methods() -> Iterator[Any]:
    contrast = ("contrast=pixel_small", "contrast.pixel_queue=8", "contrast.region_queue=8")
    yield pytest.param(SPEC, 0, id="released")
    yield pytest.param((*SPEC, *contrast), 0, id="memory", marks=pytest.mark.slow)
    yield pytest.param((*SPEC, "precision=bf16"), 0, id="bf16", marks=pytest.mark.slow)
    yield pytest.param(SPEC, 2, id="loader workers", marks=pytest.mark.slow)
    yield pytest.param(WEAK, 0, id="weak", marks=pytest.mark.slow)


@pytest.mark.parametrize(("overrides", "workers"), list(list_methods()))
def test_a_run_has_the_same_bits_with_and_without_metrics_on_the_way(
    overrides: tuple[str, ...], workers: int, data: Path, tmp_path: Path
) -> None:
    """Weights, batch norm statistics, prototypes, optimiser, generators, losses, counts."""
    folders = []
    for every in (0, 1):
        one = small_spec(*overrides, f"evaluation.every={every}")
        folders.append(make_folder(tmp_path, one, data, workers=workers))
        assert work(folders[-1])[0] == 0, log(folders[-1])
    without, on_the_way = folders
    records = [record_of(folder) for folder in folders]
    assert records[0]["run_id"] != records[1]["run_id"]
    digests = [record["provenance"]["state_sha256"] for record in records]
    assert digests[0] == digests[1]
    assert "curve" not in records[0]
    assert [point["iteration"] for point in records[1]["curve"]] == list(range(1, 13))
    for key in ("metrics", "per_class", "parameters", "losses", "confusion"):
        assert records[0][key] == records[1][key], key
    states = [
        torch.load(folder.checkpoints / "iter_00000012.pth", weights_only=True)
        for folder in folders
    ]
    for key in ("model", "optimizer", "schedulers", "random"):
        assert_equal_values(states[0][key], states[1][key], key)
    assert saved_models(without) == []
    assert len(saved_models(on_the_way)) == 2


def assert_equal_values(one: Any, other: Any, where: str) -> None:
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal_values(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal_values(a, b, f"{where}[{number}]")
    else:
        assert one == other, where


# The record


def test_the_record_has_a_point_for_each_evaluation(finished: RunFolder, spec: RunSpec) -> None:
    record = record_of(finished)
    curve = record["curve"]
    assert [point["iteration"] for point in curve] == [4, 8, 12]
    for point in curve:
        assert {*point} == {
            *("iteration", "miou", "macc", "aacc", "miou_present", "iou", "loss"),
        }
        assert len(point["iou"]) == len(spec.dataset.classes)
    last = curve[-1]
    assert {key: record["metrics"][key] for key in ("miou", "macc", "aacc")} == {
        key: last[key] for key in ("miou", "macc", "aacc")
    }
    assert last["iou"] == [entry["iou"] for entry in record["per_class"]]
    assert len({point["miou"] for point in curve}) == 3, "mIoU changes, so the tests can see it"
    # A point's loss is the mean since the point before; the losses have one point an iteration.
    losses = [values["loss"] for _, values in record["losses"]]
    assert [point["loss"] for point in curve] == pytest.approx(
        [sum(losses[i : i + 4]) / 4 for i in (0, 4, 8)]
    )
    assert record["cost"]["curve_seconds"] > 0
    assert record["cost"]["evaluation_seconds"] > 0
    assert run_id(spec) != run_id(small_spec(*SPEC))


def test_the_best_model_is_kept_beside_the_last_checkpoint(finished: RunFolder) -> None:
    curve = record_of(finished)["curve"]
    best = max(curve, key=lambda point: point["miou"])
    name = f"best_{best['iteration']:08d}"
    assert saved_models(finished) == [f"{name}.json", f"{name}.pth"]
    newest, problems = checkpoint.find_newest(finished.checkpoints)
    assert newest is not None
    assert (newest.iteration, problems) == (12, [])
    kept = checkpoint.find_best(finished.checkpoints)
    assert kept is not None
    assert kept.iteration == best["iteration"]
    size, whole = (path.stat().st_size for path in (kept.path, newest.path))
    assert size < 0.4 * whole, "the model without the two moments of AdamW"
    kept.path.write_bytes(kept.path.read_bytes()[:-1] + b"x")
    try:
        assert checkpoint.find_best(finished.checkpoints) is None, "its digest differs"
    finally:
        kept.path.write_bytes(kept.path.read_bytes()[:-1] + b"\0")


def test_the_log_and_the_progress_show_the_last_evaluation(finished: RunFolder) -> None:
    text = log(finished)
    curve = record_of(finished)["curve"]
    for point in curve[:-1]:
        assert f"iteration {point['iteration']}/12  mIoU {point['miou']:.2f}  evaluation" in text
    shown = json.loads(finished.progress.read_text())["evaluation"]
    assert (shown["iteration"], shown["miou"]) == (8, curve[1]["miou"])
    assert shown["seconds"] > 0
    assert finished.status().evaluation == shown


# Interruptions


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("code", "seconds"),
    [
        pytest.param(code, seconds, id=f"{where}, {saved}", marks=SLOW if is_slow else ())
        for where, code, is_slow in (
            ("before", AT_METHOD.format(1, "_evaluate", 9), True),
            ("in", IN_EVALUATION.format(6, 9), False),
            ("after the best model", AT_METHOD.format(0, "save_best", 2), True),
            ("after", AT_METHOD.format(0, "_evaluate", 9), False),
            ("at the end", IN_EVALUATION.format(10, 9), True),
            ("after the last point", AT_METHOD.format(0, "finish_metrics", 1), True),
        )
        for saved, seconds in (("saved", 0.0), ("unsaved", 1e9))
    ],
)
def test_a_killed_run_gives_the_same_bits(
    code: str, seconds: float, spec: RunSpec, finished: RunFolder, data: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Kills around the second of three evaluations, with and without checkpoints before it."""
    folder = make_folder(tmp_path, spec, data, checkpoint_seconds=seconds)
    assert work(folder, code)[0] == -signal.SIGKILL, log(folder)
    assert not folder.record.exists()
    assert work(folder)[0] == 0, log(folder)
    assert ends(folder) == ["lost", None]
    assert_same_result(folder, finished)
    assert_same_models(folder, finished)


@pytest.mark.parametrize("image", [pytest.param(1, marks=SLOW), 6, pytest.param(8, marks=SLOW)])
def test_a_signal_in_an_evaluation_saves_and_the_next_attempt_evaluates_again(
    image: int, spec: RunSpec, finished: RunFolder, data: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, spec, data, checkpoint_seconds=1e9)
    code = IN_EVALUATION.format(image, int(signal.SIGTERM))
    assert work(folder, code)[0] == 75, log(folder)
    reached = 4 if image == 1 else 8
    # After the last image the evaluation is finished; the signal is noticed an iteration later.
    assert folder.checkpoint_iteration() == reached + (image == 8)
    assert folder.status().state is State.INTERRUPTED
    assert work(folder)[0] == 0, log(folder)
    assert f"resuming from iteration {reached + (image == 8)}" in log(folder)
    assert_same_result(folder, finished)
    assert_same_models(folder, finished)


@pytest.mark.slow
def test_two_processes_have_one_curve_and_resume_to_the_same_bits(
    spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    whole = make_folder(tmp_path / "whole", spec, data)
    assert Workers(whole).end() == [0, 0], log(whole)
    curve = record_of(whole)["curve"]
    assert [point["iteration"] for point in curve] == [4, 8, 12]
    without = make_folder(tmp_path / "without", small_spec(*SPEC), data)
    assert Workers(without).end() == [0, 0], log(without)
    digests = [record_of(each)["provenance"]["state_sha256"] for each in (whole, without)]
    assert digests[0] == digests[1]
    folder = make_folder(tmp_path / "stopped", spec, data)
    code = IN_EVALUATION.format(3, int(signal.SIGTERM))  # each process has two images
    assert Workers(folder, codes={1: code}).end()[0] == 75, log(folder)
    assert folder.checkpoint_iteration() == 8
    assert Workers(folder, step=1).end() == [0, 0], log(folder)
    assert_same_result(folder, whole)
    assert_same_models(folder, whole)


def test_a_running_run_shows_its_last_evaluation(spec: RunSpec, data: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, spec, data, checkpoint_seconds=0)
    pause = """
import time
from protoseg.training.loop import TrainingLoop
save = TrainingLoop.save
def pause(self, iteration):
    self._report(iteration)
    save(self, iteration)
    while iteration == 5 and self.stop.signal_number is None:
        time.sleep(0.01)
TrainingLoop.save = pause
"""
    process = start_worker(folder, pause)
    try:
        wait_for_checkpoint(folder, 5, process)
        status = folder.status()
        assert (status.state, status.evaluation["iteration"]) == (State.RUNNING, 4)
        assert 0 < status.evaluation["miou"] < 100
    finally:
        process.kill()
        finish(process)


# Without a model


class Model:
    """A model whose evaluations give mIoU values in turn."""

    def __init__(self, *mious: float) -> None:
        self.mious, self.training, self.drawn = iter(mious), True, 0

    def train(self) -> None:
        self.training = True

    def evaluate(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        self.training = False
        torch.rand(3)
        value = next(self.mious)
        entries = [
            {"name": "a", "iou": value, "acc": 1.0, "pixels": 4},
            {"name": "b", "iou": 0.0, "acc": None, "pixels": 0},
            {"name": "c", "iou": None, "acc": None, "pixels": 0},
        ]
        return {"miou": value / 2, "macc": 1.0, "aacc": 2.0, "threshold": 0.5}, entries


def make_curve(model: Model, every: int = 2, iterations: int = 9) -> MetricCurve:
    return MetricCurve(every, iterations, model.evaluate)


def test_an_evaluation_restores_the_mode_and_the_generators() -> None:
    model = Model(40.0)
    curve = make_curve(model)
    torch.manual_seed(0)
    expected = torch.rand(2).tolist()
    torch.manual_seed(0)
    curve.evaluate(2, model)
    assert torch.rand(2).tolist() == expected
    assert model.training


def test_a_failed_evaluation_restores_them_too_and_adds_no_point() -> None:
    model = Model()

    def stop() -> Any:
        model.training = False
        torch.rand(3)
        raise StopRequested(signal.SIGTERM)

    curve = MetricCurve(2, 9, stop)
    torch.manual_seed(0)
    expected = torch.rand(2).tolist()
    torch.manual_seed(0)
    with pytest.raises(StopRequested):
        curve.evaluate(2, model)
    assert torch.rand(2).tolist() == expected
    assert model.training
    assert curve.points == []
    assert curve.is_due(2)


def test_a_point_has_the_mean_over_classes_with_ground_truth_and_the_mean_loss() -> None:
    model = Model(40.0, 50.0)
    curve = make_curve(model)
    for loss in (3.0, 5.0):
        curve.add_loss(loss)
    curve.evaluate(2, model)
    curve.evaluate(4, model)
    assert curve.points[0] == {
        "iteration": 2, "miou": 20.0, "macc": 1.0, "aacc": 2.0, "miou_present": 40.0,
        "iou": [40.0, 0.0, None], "loss": 4.0,
    }  # fmt: skip
    assert curve.points[1]["loss"] is None, "no iteration since the point before"


def test_miou_present_is_that_of_a_confusion_matrix() -> None:
    """Class 1 is predicted alone: mmseg's mean counts it with 0, the other one leaves it out."""
    import numpy as np

    overall, per_class = summarise_matrix(np.array([[3, 1, 0], [0, 0, 0], [1, 0, 5]]), "abc")
    curve = MetricCurve(1, 2)
    curve.add_point(1, overall, per_class)
    assert curve.points[0]["miou"] == pytest.approx(100 * (3 / 5 + 0 + 5 / 6) / 3)
    assert curve.points[0]["miou_present"] == pytest.approx(100 * (3 / 5 + 5 / 6) / 2)


def test_evaluations_are_due_every_n_iterations_but_not_at_the_end() -> None:
    curve = make_curve(Model(*[1.0] * 9), every=3, iterations=9)
    assert [i for i in range(10) if curve.is_due(i)] == [3, 6]
    assert not any(map(MetricCurve().is_due, range(10)))
    curve.evaluate(3, Model())
    assert [i for i in range(10) if curve.is_due(i)] == [6], "no evaluation is made twice"


def test_the_first_of_equal_evaluations_is_the_best() -> None:
    model = Model(10.0, 30.0, 30.0, 20.0)
    curve = make_curve(model)
    assert curve.best is None
    chosen = []
    for iteration in (2, 4, 6, 8):
        curve.evaluate(iteration, model)
        assert curve.best is not None
        chosen.append(curve.best["iteration"])
    assert chosen == [2, 4, 4, 4]


def test_earlier_models_are_kept_until_the_next_checkpoint(tmp_path: Path) -> None:
    """A run killed before it resumes from a checkpoint whose best model is an earlier one."""
    loop, model = make_loop(tmp_path, 9)
    loop.metrics = make_curve(Model(10.0, 30.0, 20.0, 40.0, 5.0))
    folder = loop.folder
    names: list[list[str]] = []
    report = loop._report

    def note(iteration: int) -> None:
        report(iteration)
        names.append(sorted(path.stem[-1] for path in folder.checkpoints.glob("best_*.pth")))
        if iteration == 5:
            loop.save(5)

    loop._report = note  # type: ignore[method-assign]
    loop.run(0)
    expected = [[], ["2"], ["2"], ["2", "4"], ["2", "4"], ["4"], ["4"], ["4", "8"], ["8"]]
    assert names == expected
    loop.finish_metrics(*Model(5.0).evaluate())
    assert saved_models(folder) == ["best_00000008.json", "best_00000008.pth"]
    assert [point["iteration"] for point in loop.metrics.points] == [2, 4, 6, 8, 9]
    assert model.steps == 9


@pytest.mark.parametrize("stop_at", range(1, 9))
def test_a_stopped_loop_gives_the_same_points(tmp_path: Path, stop_at: int) -> None:
    values = [10.0, 30.0, 20.0, 40.0]

    def add_losses(loop: Any) -> None:
        exchange = loop._exchange

        def with_total(losses: Any, is_due: bool) -> Any:
            numbers, *rest = exchange(losses, is_due)
            return {**numbers, "loss": numbers["decode.loss_ce"]}, *rest

        loop._exchange = with_total

    whole, _ = make_loop(tmp_path / "whole", 9)
    whole.metrics = make_curve(Model(*values))
    add_losses(whole)
    whole.run(0)
    stopped, _ = make_loop(tmp_path / "stopped", 9, stop_at=stop_at)
    stopped.metrics = make_curve(Model(*values))
    add_losses(stopped)
    with pytest.raises(StopRequested):
        stopped.run(0)
    # The signal came in an iteration, so the evaluation after it is left to the next attempt.
    made = (stop_at - 1) // 2
    assert len(stopped.metrics.points) == made
    newest, _ = checkpoint.find_newest(tmp_path / "stopped" / "checkpoints")
    assert newest is not None
    resumed, _ = make_loop(tmp_path / "stopped", 9, start=stop_at)
    resumed.metrics = make_curve(Model(*itertools.islice(values, made, None)))
    add_losses(resumed)
    resumed.resume(newest)
    resumed.run(stop_at)
    assert resumed.metrics.points == whole.metrics.points
    assert [point["loss"] for point in whole.metrics.points] == [1.5, 3.5, 5.5, 7.5]
    assert resumed.metrics.seconds > 0


def test_a_full_disk_at_the_best_model_ends_the_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, _ = make_loop(tmp_path, 9)
    loop.metrics = make_curve(Model(10.0, 30.0))

    def fail(*arguments: Any) -> None:
        raise files.StorageError("no space left on the disk")

    monkeypatch.setattr(files, "write_with", fail)
    with pytest.raises(files.StorageError):
        loop.run(0)
    assert saved_models(loop.folder) == []


def test_the_result_compares_the_curve(finished: RunFolder) -> None:
    assert len(result(finished)["curve"]) == 3
