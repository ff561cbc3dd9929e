"""Training on several processes, each with a part of the batch, compared with one process.

The parts have different numbers of labelled pixels: of four images, one is ignored completely and
one in part. Results differ only by the order in which float32 values are summed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import run_in_processes
from torch import nn

from protoseg.errors import UsageError
from protoseg.training.builders.components import build_model
from protoseg.training.builders.config import build_config
from protoseg.training.distributed import sync
from training import shared_work
from training.shared_work import CASES, STEPS, normalise
from training.small import small_spec

RELATIVE = 1e-5
"""Largest difference, relative to the largest absolute value of a tensor."""


SHORT = ("parametric", "prototypes")
GROUPS = (
    (2, SHORT),
    (2, tuple(case for case in CASES if case not in SHORT)),
    (4, ("parametric", "released_2026_11")),
)
"""Number of processes, and the cases that they run in order."""


@pytest.fixture(scope="module")
def processes(
    shapes_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int, str], list[dict[str, Any]]]:
    """The results of all processes for a number of processes and a case, by rank."""

    @functools.cache
    def run(world: int, cases: tuple[str, ...]) -> list[dict[str, Any]]:
        folder = tmp_path_factory.mktemp("shared")
        arguments = (world, str(folder), str(shapes_root), list(cases))
        run_in_processes(shared_work.work, world, *arguments)
        return [torch.load(folder / f"{n}.pt", weights_only=True) for n in range(world)]

    def run_group_of(world: int, case: str) -> list[dict[str, Any]]:
        (group,) = (group for group in GROUPS if group[0] == world and case in group[1])
        return run(*group)

    return run_group_of


Processes = Callable[[int, str], list[dict[str, Any]]]
every_case = pytest.mark.parametrize(
    ("world", "case"),
    [
        pytest.param(world, case, marks=[] if cases == SHORT else pytest.mark.slow)
        for world, cases in GROUPS
        for case in cases
    ],
)


@pytest.fixture(scope="module")
def single_process(shapes_root: Path) -> Callable[[str], dict[str, Any]]:
    """The results of one process with the whole batches of a case."""

    @functools.cache
    def train(case: str) -> dict[str, Any]:
        return shared_work.train(case, shapes_root, 1, 0)

    return train


def assert_close(actual: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    if not expected.is_floating_point():
        assert torch.equal(actual, expected), name
        return
    largest = expected.abs().max().item()
    difference = (actual - expected).abs().max().item()
    # Gradients of biases before a batch norm are rounding errors.
    assert difference <= RELATIVE * max(largest, 1e-2), (name, difference, largest)


@every_case
def test_losses_equal_those_of_the_whole_batch(
    processes: Processes, single_process: Callable[[str], Any], world: int, case: str
) -> None:
    for step in range(STEPS):
        expected = single_process(case)["losses"][step]
        for rank_result in processes(world, case):
            actual = rank_result[case]["losses"][step]
            assert actual.keys() == expected.keys()
            for name, value in expected.items():
                # An accuracy changes by one pixel (0.02%) where two scores are almost equal.
                tolerance = 0.05 if name.endswith("acc_seg") else 1e-7
                approximate = pytest.approx(value, rel=RELATIVE, abs=tolerance)
                assert actual[name] == approximate, (step, name)


@every_case
def test_gradients_equal_those_of_the_whole_batch(
    processes: Processes, single_process: Callable[[str], Any], world: int, case: str
) -> None:
    unused = []
    for name, expected in single_process(case)["gradients"].items():
        for rank_result in processes(world, case):
            actual = rank_result[case]["gradients"][name]
            if expected is None:
                assert actual is None, "the optimiser must not change an unused parameter"
                unused.append(name)
            else:
                assert_close(actual, expected, name)
    assert bool(unused) == (case == "unused parameters")


@every_case
def test_weights_statistics_and_prototypes_equal_those_of_one_process(
    processes: Processes, single_process: Callable[[str], Any], world: int, case: str
) -> None:
    expected = single_process(case)["state"]
    rank_0_state = processes(world, case)[0][case]["state"]
    for rank_result in processes(world, case):
        state = rank_result[case]["state"]
        assert state.keys() == expected.keys(), "a checkpoint fits any number of processes"
        for name, value in expected.items():
            assert_close(state[name], value, name)
            assert torch.equal(state[name], rank_0_state[name]), name


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_of_parts_of_different_size_equals_that_of_the_batch(
    processes: Processes, momentum: float | None
) -> None:
    whole = normalise(nn.BatchNorm2d, slice(0, 7), momentum)
    for rank_result, share in zip(processes(2, SHORT[0]), (slice(0, 1), slice(1, 7)), strict=True):
        actual = rank_result[f"norm {momentum}"]
        for name, value in whole.items():
            expected = value[share] if name in ("output", "input", "evaluated") else value
            torch.testing.assert_close(actual[name], expected, rtol=2e-5, atol=5e-5)


def test_in_one_process_it_equals_a_batch_norm() -> None:
    whole = normalise(nn.BatchNorm2d, slice(0, 7), 0.1)
    actual = normalise(sync.SharedBatchNorm, slice(0, 7), 0.1)
    for name, value in whole.items():
        assert torch.equal(actual[name], value), name


def test_every_batch_norm_is_replaced_and_keeps_its_tensors(shapes_root: Path) -> None:
    config = build_config(
        small_spec("method=released_2026_11"), data_root=shapes_root, world_size=2
    )
    model = build_model(config.model, None)
    before = dict((*model.named_parameters(), *model.named_buffers()))
    sync.synchronise_model(model)
    after = dict((*model.named_parameters(), *model.named_buffers()))
    assert before.keys() == after.keys()
    assert all(after[name] is tensor for name, tensor in before.items())
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 8 + 5 + 1  # TinyNet, the decoder (recipe: SyncBN), the projection
    assert {type(norm) for norm in norms} == {sync.SharedBatchNorm}


@pytest.mark.filterwarnings("ignore:``build_pixel_sampler`` would be deprecated")
class NormWithActivation(nn.BatchNorm2d):
    """As ``BatchNormAct2d`` of timm."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(features)))


def test_the_activation_of_a_norm_is_kept() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), NormWithActivation(4)).eval()
    images = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    expected = network(images)
    keys = list(network.state_dict())
    sync.synchronise_norms(network, sync.SharedBatchNorm)
    assert isinstance(network[1], sync.SharedBatchNorm)
    torch.testing.assert_close(network(images), expected)
    assert list(network.state_dict()) == keys


def test_a_norm_that_computes_something_else_is_refused() -> None:
    class Other(nn.BatchNorm2d):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return super().forward(features) * 2

    with pytest.raises(UsageError, match="Other is a batch norm that several processes"):
        sync.synchronise_norms(nn.Sequential(Other(4)), sync.SharedBatchNorm)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ("+decoder.settings.loss_decode={type:DiceLoss}", "DiceLoss"),
        (
            "+decoder.settings.loss_decode="
            "{_delete_:true,type:LovaszLoss,reduction:none,loss_weight:1.0}",
            "LovaszLoss",
        ),
        (
            "+decoder.settings.loss_decode=[{type:CrossEntropyLoss},"
            "{type:CrossEntropyLoss,class_weight:[1,1,1,1,1,2]}]",
            "CrossEntropyLoss with these settings",
        ),
        (
            "+decoder.settings.sampler={type:OHEMPixelSampler,thresh:0.7,min_kept:100}",
            "OHEMPixelSampler samples",
        ),
    ],
)
def test_losses_that_processes_cannot_compute_together_are_refused(
    settings: str, name: str, shapes_root: Path
) -> None:
    spec = small_spec(settings)
    model = build_model(build_config(spec, data_root=shapes_root, world_size=2).model, None)
    with pytest.raises(UsageError, match=name) as error:
        sync.synchronise_model(model)
    assert "Train with one process" in str(error.value)
