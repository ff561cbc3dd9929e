"""What exact resume costs: an iteration of protoseg's loop beside one of mmengine's Runner.

The same MobileNetV2 on the same images (the built-in ones, drawn at 360), the same config, no
loader processes: reading and augmenting count. Both write their logs. What a checkpoint takes is a
case of its own, for it comes once a minute and not with an iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine_loop import MMSEG, Gate, forget_log, ours, plain
from networks import EXPERIMENTS

from protoseg.config.compose import Composer, parse_overrides
from protoseg.config.schema import RunSpec
from protoseg.datasets import shapes

GENERATOR = {"name": "shapes", "version": 1, "seed": 0, "size": 360, "train": 24, "val": 1}
CHECKPOINT_SECONDS = 60
"""How far apart checkpoints are unless a profile says otherwise."""


def spec_of(method: str) -> RunSpec:
    """MobileNetV2 as ``camvid_methods`` trains it, on images that the program makes."""
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
    """What is to be called at the end, last first."""
    calls: list[Callable[[], object]] = []
    yield calls
    for call in reversed(calls):
        call()


@pytest.fixture
def both(close: list[Any], tmp_path: Path, request: Any) -> dict[str, Any]:
    """Both loops, before their first iteration."""
    spec = spec_of(request.param)
    mine, loop, held = ours(spec, tmp_path, tmp_path / "ours")
    theirs, runner = plain(spec, tmp_path, tmp_path / "plain")
    close += [held.release, forget_log, mine.close, theirs.close]
    return {"ours": mine, "loop": loop, "plain": theirs, "runner": runner}


def check(found: dict[str, Any]) -> None:
    """Both train one model alike: the same numbers to learn, rates, schedules, pictures."""
    for gate in (found["ours"], found["plain"]):
        assert isinstance(gate, Gate)
        gate()
    loop, runner = found["loop"], found["runner"]
    mine, theirs = loop.parts.module.state_dict(), runner.model.state_dict()
    assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in theirs.items()}
    rates = [[group["lr"] for group in wrapper.optimizer.param_groups]
             for wrapper in (loop.parts.optimizer, runner.optim_wrapper)]  # fmt: skip
    assert rates[0] == rates[1]
    assert [type(s) for s in loop.parts.schedulers] == [type(s) for s in runner.param_schedulers]
    pipelines = (
        loop.parts.train_loader.dataset.transforms,
        runner.train_dataloader.dataset.pipeline.transforms,
    )
    first, second = ([type(step).__name__ for step in steps][-5:] for steps in pipelines)
    assert first == second == list(MMSEG)


@pytest.mark.parametrize("both", ["parametric", "paper"], indirect=True)
def test_iteration(
    both: dict[str, Any], case: Callable[..., None], request: pytest.FixtureRequest
) -> None:
    check(both)
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
    """One checkpoint; its median over a minute is what saving every minute costs."""
    check(both)
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
