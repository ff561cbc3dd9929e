"""The overhead of exact resume: an iteration of protoseg's loop and of mmengine's Runner.

Both train the same MobileNetV2 with the same config on the same images (built-in data, size 360).
There are no loader processes, so reading and augmentation are included. Both write their logs. A
checkpoint is a separate case, because it is written once per minute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine_loop import (
    MMSEG_STEPS,
    Gate,
    build_mmengine_loop,
    build_protoseg_loop,
    close_log_files,
)
from networks import EXPERIMENTS

from protoseg.config.compose import Composer
from protoseg.config.overrides import parse_overrides
from protoseg.config.schema import RunSpec
from protoseg.datasets import shapes

GENERATOR = {"name": "shapes", "version": 1, "seed": 0, "size": 360, "train": 24, "val": 1}
CHECKPOINT_SECONDS = 60
"""Default interval of checkpoints."""


def spec_of(method: str) -> RunSpec:
    """Return the spec of MobileNetV2 as in ``camvid_methods``, on the built-in data."""
    overrides = (
        *(f"dataset.generator.{key}={value}" for key, value in GENERATOR.items()),
        f"dataset.digest={shapes.generator_digest(GENERATOR)}",
        *(f"dataset.counts.{split}={GENERATOR[split]}" for split in ("train", "val")),
        *("backbone=mobilenet_v2", "backbone.weights=''", "decoder=segformer_128"),
        *("augmentation=camvid_256", "schedule=cpu_300", "schedule.iterations=20000"),
        f"method={method}",
    )
    settings = [s for _, values in parse_overrides(overrides) for s in values]
    return Composer(EXPERIMENTS).spec(settings, "benchmarks")


@pytest.fixture
def close() -> Iterator[list[Callable[[], object]]]:
    """A list of functions that are called at the end, in reverse order."""
    calls: list[Callable[[], object]] = []
    yield calls
    for call in reversed(calls):
        call()


@pytest.fixture
def both(close: list[Any], tmp_path: Path, request: Any) -> dict[str, Any]:
    """Both loops before their first iteration."""
    spec = spec_of(request.param)
    protoseg_gate, loop, claim = build_protoseg_loop(spec, tmp_path, tmp_path / "ours")
    mmengine_gate, runner = build_mmengine_loop(spec, tmp_path, tmp_path / "plain")
    close += [claim.release, close_log_files, protoseg_gate.close, mmengine_gate.close]
    return {"ours": protoseg_gate, "loop": loop, "plain": mmengine_gate, "runner": runner}


def check_equal_training(loops: dict[str, Any]) -> None:
    """Assert that both loops have the same parameters, learning rates and pipelines."""
    for gate in (loops["ours"], loops["plain"]):
        assert isinstance(gate, Gate)
        gate()
    loop, runner = loops["loop"], loops["runner"]
    state, expected = loop.parts.module.state_dict(), runner.model.state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in expected.items()}
    rates = [[group["lr"] for group in wrapper.optimizer.param_groups]
             for wrapper in (loop.parts.optimizer, runner.optim_wrapper)]  # fmt: skip
    assert rates[0] == rates[1]
    assert [type(s) for s in loop.parts.schedulers] == [type(s) for s in runner.param_schedulers]
    pipelines = (
        loop.parts.train_loader.dataset.transforms,
        runner.train_dataloader.dataset.pipeline.transforms,
    )
    first, second = ([type(step).__name__ for step in steps][-5:] for steps in pipelines)
    assert first == second == list(MMSEG_STEPS)


@pytest.mark.parametrize("both", ["parametric", "paper"], indirect=True)
def test_iteration(
    both: dict[str, Any], case: Callable[..., None], request: pytest.FixtureRequest
) -> None:
    check_equal_training(both)
    method = request.node.callspec.params["both"]
    case(
        "overhead",
        f"training iteration with data, MobileNetV2, 8 crops of 256, {method}",
        both["ours"],
        {"mmengine Runner": both["plain"]},
        rounds=(20, 80),
        slow=60,
    )


@pytest.mark.parametrize("both", ["paper"], indirect=True)
def test_checkpoint(both: dict[str, Any], case: Callable[..., None], tmp_path: Path) -> None:
    """One checkpoint; its time divided by a minute is the overhead of saving once per minute."""
    check_equal_training(both)
    loop, runner = both["loop"], both["runner"]
    state = {"iteration": 0}

    def save() -> None:
        state["iteration"] += 1
        loop.save(state["iteration"])

    def save_plain() -> None:
        runner.save_checkpoint(str(tmp_path), "plain.pth", by_epoch=False)

    save()
    assert torch.load(
        loop.folder.checkpoints / "iter_00000001.pth", weights_only=True
    )["model"].keys() == loop.parts.module.state_dict().keys()  # fmt: skip
    case(
        "overhead",
        f"a checkpoint, MobileNetV2, paper; every {CHECKPOINT_SECONDS} s",
        save,
        {"mmengine save_checkpoint": save_plain},
        rounds=(7, 30),
    )
