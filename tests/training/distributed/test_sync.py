"""Several processes, each with a part of every batch, against one with the whole of it.

The pixels of the parts are labelled unevenly: in one part of a batch of four, a whole image and
more is ignored. Differences are those of summing float32 in another order.
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
from protoseg.training.build.components import build_model
from protoseg.training.build.config import build_config
from protoseg.training.distributed import sync
from training import shared_work
from training.shared_work import CASES, STEPS, normalise
from training.small import small_spec

RELATIVE = 1e-5
"""Largest difference, in parts of the largest number of a tensor."""


SHORT = ("parametric", "prototypes")
GROUPS = (
    (2, SHORT),
    (2, tuple(case for case in CASES if case not in SHORT)),
    (4, ("parametric", "released")),
)
"""Number of processes, and the cases that they run one after the other."""


@pytest.fixture(scope="module")
def processes(
    shapes_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int, str], list[dict[str, Any]]]:
    """What every process of a group ended with, by rank."""

    @functools.cache
    def run(world: int, cases: tuple[str, ...]) -> list[dict[str, Any]]:
        folder = tmp_path_factory.mktemp("shared")
        arguments = (world, str(folder), str(shapes_root), list(cases))
        run_in_processes(shared_work.work, world, *arguments)
        return [torch.load(folder / f"{n}.pt", weights_only=True) for n in range(world)]

    def of_case(world: int, case: str) -> list[dict[str, Any]]:
        (group,) = (group for group in GROUPS if group[0] == world and case in group[1])
        return run(*group)

    return of_case


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
def alone(shapes_root: Path) -> Callable[[str], dict[str, Any]]:
    """What one process makes of the whole batches of a case."""

    @functools.cache
    def train(case: str) -> dict[str, Any]:
        return shared_work.train(case, shapes_root, 1, 0)

    return train


def assert_close(found: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    if not expected.is_floating_point():
        assert torch.equal(found, expected), name
        return
    largest = expected.abs().max().item()
    difference = (found - expected).abs().max().item()
    # Biases before a batch norm have no gradient but rounding.
    assert difference <= RELATIVE * max(largest, 1e-2), (name, difference, largest)


@every_case
def test_the_losses_are_those_of_the_whole_batch(
    processes: Processes, alone: Callable[[str], Any], world: int, case: str
) -> None:
    for step in range(STEPS):
        expected = alone(case)["losses"][step]
        for rank in processes(world, case):
            found = rank[case]["losses"][step]
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                # An accuracy jumps by a pixel (0.02 %) where two scores are all but equal.
                least = 0.05 if name.endswith("acc_seg") else 1e-7
                assert found[name] == pytest.approx(value, rel=RELATIVE, abs=least), (step, name)


@every_case
def test_the_gradients_are_those_of_the_whole_batch(
    processes: Processes, alone: Callable[[str], Any], world: int, case: str
) -> None:
    unused = []
    for name, expected in alone(case)["gradients"].items():
        for rank in processes(world, case):
            found = rank[case]["gradients"][name]
            if expected is None:
                assert found is None, "no gradient: the optimiser must leave it alone"
                unused.append(name)
            else:
                assert_close(found, expected, name)
    assert bool(unused) == (case == "unused parameters")


@every_case
def test_weights_statistics_and_prototypes_are_those_of_one_process(
    processes: Processes, alone: Callable[[str], Any], world: int, case: str
) -> None:
    expected = alone(case)["state"]
    for rank in processes(world, case):
        assert rank[case]["state"].keys() == expected.keys(), "a checkpoint fits any number"
        for name, value in expected.items():
            assert_close(rank[case]["state"][name], value, name)
            assert torch.equal(
                rank[case]["state"][name], processes(world, case)[0][case]["state"][name]
            ), name


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_of_uneven_parts(processes: Processes, momentum: float | None) -> None:
    whole = normalise(nn.BatchNorm2d, slice(0, 7), momentum)
    for rank, share in zip(processes(2, SHORT[0]), (slice(0, 1), slice(1, 7)), strict=True):
        found = rank[f"norm {momentum}"]
        for name, value in whole.items():
            expected = value[share] if name in ("output", "input", "evaluated") else value
            torch.testing.assert_close(found[name], expected, rtol=2e-5, atol=5e-5)


def test_alone_and_in_evaluation_it_is_a_batch_norm() -> None:
    whole = normalise(nn.BatchNorm2d, slice(0, 7), 0.1)
    found = normalise(sync.SharedBatchNorm, slice(0, 7), 0.1)
    for name, value in whole.items():
        assert torch.equal(found[name], value), name


def test_every_norm_is_replaced_with_its_very_tensors(shapes_root: Path) -> None:
    config = build_config(small_spec("method=released"), data_root=shapes_root, world_size=2)
    model = build_model(config.model, None)
    before = dict((*model.named_parameters(), *model.named_buffers()))
    sync.share(model)
    after = dict((*model.named_parameters(), *model.named_buffers()))
    assert before.keys() == after.keys()
    assert all(after[name] is tensor for name, tensor in before.items())
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 8 + 5 + 1  # TinyNet, the decoder (recipe: SyncBN), the projection
    assert {type(norm) for norm in norms} == {sync.SharedBatchNorm}


@pytest.mark.filterwarnings("ignore:``build_pixel_sampler`` would be deprecated")
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
            "+decoder.settings.loss_decode.class_weight=[1,1,1,1,1,2]",
            "CrossEntropyLoss as it is set",
        ),
        (
            "+decoder.settings.sampler={type:OHEMPixelSampler,thresh:0.7,min_kept:100}",
            "OHEMPixelSampler picks",
        ),
    ],
)
def test_what_can_not_be_shared_is_refused(settings: str, name: str, shapes_root: Path) -> None:
    spec = small_spec(settings)
    model = build_model(build_config(spec, data_root=shapes_root, world_size=2).model, None)
    with pytest.raises(UsageError, match=name) as error:
        sync.share(model)
    assert "train with one process" in str(error.value)
