"""A layer that cannot compute with the shape of its input is named, with the setting to change."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from protoseg.config.schema import RunSpec
from protoseg.config.validation import check_values
from protoseg.datasets.folder_dataset import SegmentationFolder
from protoseg.errors import DataError, UsageError
from protoseg.runs.states import Reason
from protoseg.training.builders.components import build_components
from protoseg.training.builders.config import build_config
from protoseg.training.failures import classify_error
from protoseg.training.layer_errors import describe_shape_error
from training.small import small_spec


def fail(module: nn.Module, value: torch.Tensor) -> Exception:
    with pytest.raises((ValueError, RuntimeError)) as error:
        module.train()(value)
    return error.value


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["pspnet", "deeplabv3plus"])
def test_a_batch_of_one_names_the_layer_and_the_option(decoder: str, shapes_root: Path) -> None:
    overrides = (f"decoder={decoder}", "decoder.in_index=[3]", "schedule.batch_size=1")
    spec = small_spec(*overrides, "dataset.digest=unpinned")
    parts = build_components(build_config(spec, data_root=shapes_root), None)
    parts.model.train()
    batch = next(iter(parts.train_loader))
    with pytest.raises(ValueError, match="Expected more than 1 value") as error:
        parts.model.train_step(batch, optim_wrapper=parts.optimizer)
    reason, message = classify_error(error.value)
    assert reason is Reason.BAD_CONFIG
    layer = re.match(r"(decode_head\.[\w.]+) \(BatchNorm2d\): cannot normalise one value", message)
    assert layer
    assert layer[1] in dict(parts.model.named_modules())
    assert "Set schedule.batch_size to at least 2 images per process" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("layer", "shape", "problem"),
    [
        (nn.BatchNorm2d(3), (1, 3, 1, 1), "cannot normalise one value per channel (its"),
        (nn.InstanceNorm2d(3), (2, 3, 1, 1), "cannot normalise one value per channel"),
        (nn.Conv2d(3, 3, 5), (1, 3, 4, 4), "its input is too small"),
        (nn.MaxPool2d(5), (1, 3, 4, 4), "its input is too small"),
        (nn.ReflectionPad2d(4), (1, 3, 4, 4), "its input is too small"),
    ],
)  # fmt: skip
def test_a_small_input_names_the_layer(layer: nn.Module, shape: tuple, problem: str) -> None:
    model = nn.Sequential(nn.Identity(), nn.Sequential(layer))
    message = describe_shape_error(fail(model, torch.zeros(shape)))
    assert message is not None
    assert message.startswith(f"1.0 ({type(layer).__name__}): {problem}")


def test_other_errors_are_not_about_shapes() -> None:
    assert describe_shape_error(ValueError("Expected more than 1 value per channel")) is None
    error = fail(nn.Linear(3, 2), torch.zeros(1, 4))
    assert describe_shape_error(error) is None
    assert classify_error(error)[0] is Reason.CODE_ERROR


def test_an_image_too_thin_to_resize_is_named(tmp_path: Path) -> None:
    for folder in ("images", "annotations"):
        (tmp_path / folder / "train").mkdir(parents=True)
        mode = "RGB" if folder == "images" else "L"
        Image.new(mode, (900, 4)).save(tmp_path / folder / "train" / "a.png")
    dataset = {"name": "thin", "digest": "unpinned", "classes": ["a", "b"], "image_suffix": ".png"}
    resize = {"type": "RandomResize", "scale": (48, 48), "ratio_range": (1, 1), "keep_ratio": True}
    load = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}]
    samples = SegmentationFolder(str(tmp_path), dataset, "train", [*load, resize])
    np.random.seed(0)
    with pytest.raises(DataError) as error:
        samples[0]
    path = tmp_path / "images/train/a.png"
    assert str(error.value).startswith(f"{path}: RandomResize fails for its 900×4 pixels (")
    assert "Increase augmentation.scale" in str(error.value)


def test_one_class_is_refused_before_training() -> None:
    spec = small_spec()

    def with_classes(*names: str) -> RunSpec:
        return dataclasses.replace(spec, dataset=dataclasses.replace(spec.dataset, classes=names))

    check_values(with_classes("ground", "leaf"), "test")
    with pytest.raises(UsageError, match=r"dataset\.classes: shapes has one class, 'leaf', so"):
        check_values(with_classes("leaf"), "test")
