"""The training loop: loss curve, checkpoints, stop requests, divergence."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from protoseg import files
from protoseg.errors import UsageError
from protoseg.runs.folder import Launch, RunFolder
from protoseg.training import checkpoint
from protoseg.training.builders.components import TrainingComponents
from protoseg.training.loop import TrainingLoop
from protoseg.training.run import execute_run
from protoseg.training.signals import ClaimLost, StopRequest, StopRequested
from training.small import make_folder, small_spec


class CountingModel:
    """A model whose loss at step n is n or ``losses(n)``; it sets a stop request at one step."""

    def __init__(self, stop: StopRequest, stop_at: int | None = None, losses: Any = None) -> None:
        self.weight, self.steps, self.stop, self.stop_at = torch.zeros(1), 0, stop, stop_at
        self.losses = losses or float

    def train(self) -> None:
        pass

    def train_step(self, batch: Any, optim_wrapper: Any) -> dict[str, torch.Tensor]:
        self.steps += 1
        if self.steps == self.stop_at:
            self.stop.signal_number = signal.SIGTERM
        self.weight = torch.tensor([float(batch)])
        return {"decode.loss_ce": torch.tensor(self.losses(batch))}

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.weight = state["weight"]


def make_loop(
    folder: Path, iterations: int, *, start: int = 0, seconds: float = 1e9, **model: Any
) -> tuple[TrainingLoop, CountingModel]:
    stop = StopRequest()
    counting = CountingModel(stop, **model)
    optimizer = SimpleNamespace(state_dict=dict, load_state_dict=lambda state: None)
    loader: Any = list(range(start + 1, iterations + 1))
    parts = TrainingComponents(counting, optimizer, [], loader, [])  # type: ignore[arg-type]
    run = RunFolder(folder)
    folder.mkdir(exist_ok=True)
    return TrainingLoop(parts, run, iterations, seconds, stop), counting


def saved_names(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "checkpoints").glob("*.pth"))


def test_each_iteration_runs_once_and_the_last_one_is_saved(tmp_path: Path) -> None:
    loop, model = make_loop(tmp_path, 7)
    loop.run(0)
    assert model.steps == 7
    assert saved_names(tmp_path) == ["iter_00000007"]
    assert loop.curve == [[i, {"loss_ce": float(i)}] for i in range(1, 8)]


def test_the_curve_has_about_100_points_each_a_mean(tmp_path: Path) -> None:
    loop, _ = make_loop(tmp_path, 251)
    loop.run(0)
    expected = [[i, {"loss_ce": i - 0.5}] for i in range(2, 251, 2)]
    assert loop.curve == [*expected, [251, {"loss_ce": 251.0}]]


@pytest.mark.parametrize("stop_at", [1, 100, 101, 250])
def test_a_stopped_loop_saves_and_a_resumed_one_gives_the_same_curve(
    tmp_path: Path, stop_at: int
) -> None:
    uninterrupted, _ = make_loop(tmp_path / "uninterrupted", 251)
    uninterrupted.run(0)
    loop, model = make_loop(tmp_path / "stopped", 251, stop_at=stop_at)
    with pytest.raises(StopRequested) as stopped:
        loop.run(0)
    assert stopped.value.signal_number == signal.SIGTERM
    assert model.steps == stop_at
    newest, problems = checkpoint.find_newest(tmp_path / "stopped" / "checkpoints")
    assert (newest.iteration, problems) == (stop_at, [])
    resumed, model = make_loop(tmp_path / "stopped", 251, start=stop_at)
    resumed.resume(newest)
    assert model.weight == stop_at
    resumed.run(stop_at)
    assert resumed.curve == uninterrupted.curve
    assert model.steps == 251 - stop_at
    assert resumed.seconds > loop.seconds


def test_checkpoints_are_saved_when_they_are_due(tmp_path: Path) -> None:
    always, _ = make_loop(tmp_path / "always", 5, seconds=0)
    always.run(0)
    assert saved_names(tmp_path / "always") == ["iter_00000004", "iter_00000005"]
    never, _ = make_loop(tmp_path / "never", 5)
    never.run(0)
    assert saved_names(tmp_path / "never") == ["iter_00000005"]


def test_the_progress_file_has_the_curves_so_far(tmp_path: Path) -> None:
    loop, _ = make_loop(tmp_path, 251)
    loop.curve = [[n, {"loss": 1 / n, "loss_ce": 0.5}] for n in range(1, 4)]
    loop.metrics.points = [{"iteration": n, "miou": n / 3} for n in range(1, 150)]
    loop.progress.add_iteration(0.5)
    loop._report(3)
    progress = files.read_json(tmp_path / "progress.json")
    assert progress["losses"] == [[1, 1.0], [2, 0.5], [3, 0.33333]]
    assert progress["evaluations"][-1] == [149, 49.667]
    assert [n for n, _ in progress["evaluations"]] == [*range(50, 150)]
    assert (tmp_path / "progress.json").stat().st_size < 5000


class Clock:
    """A clock that only the test advances."""

    def __init__(self, now: float) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        return self.now + 0.5  # another origin


@pytest.mark.parametrize(
    ("checkpoint_seconds", "saved"),
    [(9.0, [2, 4, 6, 7]), (10.0, [2, 4, 6, 7]), (10.5, [3, 6, 7]), (40.0, [7])],
)
def test_the_time_to_the_next_checkpoint_starts_at_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint_seconds: float, saved: list[int]
) -> None:
    """An iteration takes 5 s and a save 100 s, on the clock of the test."""
    clock, iterations, save = Clock(1000.0), [], checkpoint.save

    def train_5_seconds(batch: int) -> float:
        clock.now += 5
        return float(batch)

    def save_100_seconds(*arguments: Any) -> None:
        save(*arguments)
        iterations.append(arguments[2])
        clock.now += 100

    monkeypatch.setattr("protoseg.training.loop.time", clock)
    monkeypatch.setattr(checkpoint, "save", save_100_seconds)
    loop, _ = make_loop(tmp_path, 7, seconds=checkpoint_seconds, losses=train_5_seconds)
    loop.run(0)
    assert iterations == saved
    assert loop.seconds == 35.0, "the time of the iterations, without that of the saves"


def test_the_seconds_of_all_attempts_are_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(1000.0)

    def train_5_seconds(batch: int) -> float:
        clock.now += 5
        return float(batch)

    monkeypatch.setattr("protoseg.training.loop.time", clock)
    stopped, _ = make_loop(tmp_path, 7, stop_at=3, losses=train_5_seconds)
    with pytest.raises(StopRequested):
        stopped.run(0)
    clock.now += 1000
    resumed, _ = make_loop(tmp_path, 7, start=3, losses=train_5_seconds)
    resumed.resume(checkpoint.find_newest(tmp_path / "checkpoints")[0])
    resumed.run(3)
    assert (stopped.seconds, resumed.seconds) == (15.0, 35.0)
    progress = files.read_json(tmp_path / "progress.json")
    assert progress["iterations_per_second"] == 0.2


class DrawingLoader(list[int]):
    """Batches whose iterator draws from torch's generator, like that of a real loader."""

    def __iter__(self) -> Any:
        torch.rand(1)
        return super().__iter__()


@pytest.mark.parametrize("start", [0, 1, 4])
def test_only_the_first_attempt_keeps_the_draw_of_the_loader(tmp_path: Path, start: int) -> None:
    """An uninterrupted run draws once; a resumed one has that draw in its checkpoint."""
    loop, _ = make_loop(tmp_path, 7, start=start)
    loader: Any = DrawingLoader(loop.parts.train_loader)
    loop.parts = dataclasses.replace(loop.parts, train_loader=loader)
    torch.manual_seed(0)
    loop.run(start)
    drawn = torch.rand(2)
    torch.manual_seed(0)
    expected = torch.rand(3)
    assert drawn.tolist() == (expected[:2] if start else expected[1:]).tolist()


def test_a_loop_without_its_claim_saves_nothing(tmp_path: Path) -> None:
    loop, model = make_loop(tmp_path, 3)

    def lose_claim() -> None:
        raise ClaimLost

    loop.stop.check_ownership = lose_claim  # type: ignore[method-assign]
    with pytest.raises(ClaimLost):
        loop.run(0)
    assert model.steps == 3
    assert saved_names(tmp_path) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_one_sentence(tmp_path: Path, value: float) -> None:
    loop, model = make_loop(tmp_path, 9, losses=lambda i: value if i == 4 else 1.0)
    with pytest.raises(
        UsageError, match=r"loss_ce is \S+ at iteration 4; the .* diverged"
    ) as error:
        loop.run(0)
    assert "schedule.learning_rate" in str(error.value)
    assert model.steps == 4


def test_a_diverging_run_raises_an_error(data: Path, tmp_path: Path) -> None:
    spec = small_spec("schedule.learning_rate=1e30", "schedule.warmup_iterations=0")
    folder = make_folder(tmp_path, spec, data)
    with pytest.raises(UsageError, match="the training diverged"):
        execute_run(spec, folder, Launch(str(data), str(data)), StopRequest())
    assert not folder.record.exists()


def test_a_signal_before_the_first_iteration_trains_nothing(data: Path, tmp_path: Path) -> None:
    spec = small_spec()
    folder = make_folder(tmp_path, spec, data)
    stop = StopRequest()
    stop.signal_number = signal.SIGTERM
    with pytest.raises(StopRequested):
        execute_run(spec, folder, Launch(str(data), str(data)), stop)
    assert not folder.record.exists()


def test_the_progress_file_holds_the_iteration(tmp_path: Path) -> None:
    import json

    loop, _ = make_loop(tmp_path, 3)
    loop.run(0)
    progress = json.loads((tmp_path / "progress.json").read_text())
    assert (progress["iteration"], progress["iterations"]) == (3, 3)
    assert progress["phase"] == "evaluation"
    assert progress["iterations_per_second"] > 0


def test_a_full_disk_between_checkpoints_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, full = files.write_json, []

    def write_json(path: Path, value: Any, **options: Any) -> None:
        if path.name == "progress.json":
            full.append(path)
            raise files.StorageError("no space left on the disk")
        write(path, value)

    loop, model = make_loop(tmp_path, 7)
    with open("/dev/full", "w") as log, monkeypatch.context() as patch:
        patch.setattr(files, "write_json", write_json)
        patch.setattr("sys.stdout", log)
        loop.run(0)
        with contextlib.suppress(OSError):  # closing writes the buffered output
            log.close()
    assert model.steps == 7
    assert full
    assert saved_names(tmp_path) == ["iter_00000007"]


def test_the_loop_stops_after_a_takeover(tmp_path: Path) -> None:
    loop, model = make_loop(tmp_path, 7)
    loop.stop.taken_over = lambda: model.steps == 3
    with pytest.raises(ClaimLost):
        loop.run(0)
    assert model.steps == 3
    assert saved_names(tmp_path) == []


def test_a_signal_sets_the_flag() -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
    try:
        for number in before:
            stop = StopRequest()
            stop.listen()
            signal.raise_signal(number)
            assert stop.signal_number == number
            with (
                pytest.raises(StopRequested, match=signal.Signals(number).name),
                stop.raise_immediately(),
            ):
                pytest.fail("an earlier signal raises at once")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
