"""Predictions, evaluations and samples of a run use its level of determinism, and restore torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cli.conftest import CommandLine

from inference.finished import make_finished_run
from protoseg.errors import UsageError
from protoseg.inference.settings import PredictionSettings
from protoseg.inference.trained_model import load_run
from protoseg.models.tiny_backbone import TinyNet
from protoseg.runs.folder import RunFolder
from protoseg.runs.results.evaluation import read_evaluation
from protoseg.training.evaluation.finished_samples import sample_finished_run
from protoseg.training.machine import determinism


def read_settings() -> tuple[Any, ...]:
    backends = torch.backends
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        backends.cudnn.deterministic,
        backends.cudnn.benchmark,
        backends.cudnn.allow_tf32,
        backends.cuda.matmul.allow_tf32,
        os.environ.get(determinism.CUBLAS),
    )


@pytest.fixture(autouse=True)
def before(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, ...]]:
    """Settings that differ from those of ``bitwise``; they must be the same after each test."""
    monkeypatch.delenv(determinism.CUBLAS, raising=False)
    benchmark, tf32 = torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = True
    settings = read_settings()
    yield settings
    after = read_settings()
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32 = benchmark, tf32
    assert after == settings


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The settings at each pass of the backbone."""
    recorded: list[tuple[Any, ...]] = []
    forward = TinyNet.forward

    def record_settings(self: TinyNet, image: torch.Tensor) -> Any:
        recorded.append(read_settings())
        return forward(self, image)

    monkeypatch.setattr(TinyNet, "forward", record_settings)
    return recorded


BITWISE = (True, False, False, True, False, False, False, ":4096:8")


@pytest.fixture
def run(tmp_path: Path, data: Path) -> RunFolder:
    return make_finished_run(tmp_path / "runs", data, "determinism=bitwise")


def test_predictions_have_the_level_of_the_run(
    run: RunFolder, images: Path, before: tuple[Any, ...], during: list[tuple[Any, ...]]
) -> None:
    photo = min(images.iterdir())
    model = load_run(run.path, "cpu")
    assert read_settings() == before
    result = model.predict(photo)
    model.predict(photo, PredictionSettings(flip=True))
    assert result.embedding.ndim == result.assignments.ndim + 1
    assert read_settings() == before
    assert len(during) == 4
    assert set(during) == {BITWISE}


def test_bands_keep_the_settings_of_the_caller(
    run: RunFolder, images: Path, before: tuple[Any, ...], during: list[tuple[Any, ...]]
) -> None:
    model = load_run(run.path, "cpu")
    image = model.predict(min(images.iterdir())).image[..., ::-1]
    settings = PredictionSettings(mode="slide", window=(16, 16))
    for band in model.iterate_probabilities(image, settings):
        assert band.ndim == 3
        assert read_settings() == before
        assert torch.is_grad_enabled()
    assert set(during) == {BITWISE}


def test_a_seeded_run_changes_nothing(
    tmp_path: Path,
    data: Path,
    images: Path,
    before: tuple[Any, ...],
    during: list[tuple[Any, ...]],
) -> None:
    run = make_finished_run(tmp_path / "runs", data)
    during.clear()
    load_run(run.path, "cpu").predict(min(images.iterdir()))
    assert set(during) == {before}


@pytest.mark.slow
def test_evaluations_and_samples_have_the_level_of_the_run(
    protoseg: CommandLine, run: RunFolder, data: Path, during: list[tuple[Any, ...]]
) -> None:
    for options in ((), ("--tta", "--scales", "1")):
        arguments = ("--split", "val", "--data", str(data), "--runs", str(run.path.parent))
        result = protoseg("evaluate", run.run_id, *arguments, *options)
        assert (result.status, result.err) == (0, "")
    for path in (run.path.parent / "evaluations").glob("*.json"):
        assert read_evaluation(path)["provenance"]["kernels"]["deterministic_algorithms"] is True
    sample_finished_run(run, data)
    assert set(during) == {BITWISE}


def test_an_operation_without_a_deterministic_kernel_is_one_sentence(
    run: RunFolder, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = TinyNet.forward

    def forward_nondeterministic(self: TinyNet, image: torch.Tensor) -> Any:
        torch.zeros(3).put_(torch.tensor([1, 1]), torch.tensor([1.0, 2.0]))
        return forward(self, image)

    model = load_run(run.path, "cpu")
    monkeypatch.setattr(TinyNet, "forward", forward_nondeterministic)
    with pytest.raises(UsageError, match="no deterministic kernel of put_ on "):
        model.predict(min(images.iterdir()))
