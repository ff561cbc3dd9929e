"""Convert a RunSpec to an mmengine Config, based on the values of its recipes.

`protoseg.config.recipes.values` reads them; no recipe file is read here. The values of the spec
replace those of the recipe. Two more changes apply to every run:

- SyncBN becomes BN in a single process; `protoseg.training.distributed.sync` handles several.
- L_CE is a mean over the pixels that are not ignored (Eq. 13; mmseg's default divides by all). With
  class weights it is the mean weighted by them.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmseg.registry import MODELS

from protoseg.config import plugins
from protoseg.config.fields import to_plain
from protoseg.config.recipes.ignored import find_ignored_settings
from protoseg.config.recipes.values import read_values
from protoseg.config.schema import DecoderSpec, RunSpec
from protoseg.datasets.labels import check_labels, ignored_label
from protoseg.errors import UsageError
from protoseg.training.builders.dataloaders import (
    build_test_loader,
    build_train_loader,
    check_weak_task,
)
from protoseg.training.builders.optimizer_config import build_optimizer, build_schedulers
from protoseg.training.builders.timm_models import fill_backbone, load_timm


def first_line(error: Exception) -> str:
    """The first line of an error message, without the full stop."""
    # str(KeyError) adds quotes.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0].rstrip(" .")


def build_error(name: str, error: Exception) -> UsageError:
    """The error for a network, or a part of it, that its constructor refuses."""
    advice = "Check backbone.settings, decoder.settings and the recipes."
    if "not installed" in str(error) or isinstance(error, ImportError):
        advice = "Install the package, or choose another backbone or decoder."
    return UsageError(f"model: mmseg cannot build {name}: {first_line(error)}. {advice}")


def merge_settings(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Merge nested settings as mmengine does; ``_delete_`` removes the old settings of a level."""
    # mmengine handles ``_delete_`` only below the top level.
    changes = dict(changes)
    start = {} if changes.pop("_delete_", False) else base
    merged: dict[str, Any] = Config._merge_a_into_b(changes, start)
    return merged


def build_config(
    spec: RunSpec,
    *,
    data_root: Path,
    num_workers: int = 0,
    world_size: int = 1,
    start: int = 0,
) -> Config:
    """Build the mmengine Config of a run: model, data, optimiser, schedule, evaluation.

    Args:
        data_root: folder of the data set.
        num_workers: number of loader processes; does not change the training batches.
        world_size: number of processes that share ``spec.schedule.batch_size``.
        start: number of iterations already trained.

    Raises:
        UsageError: a recipe without known values, values that no run uses, a batch that is not
            divisible by ``world_size``, or inconsistent label settings.
    """
    if spec.schedule.batch_size % world_size:
        raise UsageError(
            f"schedule.batch_size: {spec.schedule.batch_size} is not divisible by {world_size} "
            f"processes. Set a multiple of {world_size}."
        )
    if spec.contrast.sample_gradient and world_size > 1:
        raise UsageError(
            "contrast.sample_gradient: samples of other processes would get no gradient. Train "
            "with one process, or set contrast.sample_gradient=false."
        )
    check_labels(spec.dataset)
    check_weak_task(spec)
    config = {
        "default_scope": "mmseg",
        "custom_imports": {"imports": ["protoseg.models", "protoseg.datasets.folder_dataset"]},
        "model": build_model(spec, world_size),
        "train_dataloader": build_train_loader(spec, data_root, num_workers, world_size, start),
        "test_dataloader": build_test_loader(spec, data_root, num_workers),
        "optim_wrapper": build_optimizer(spec),
        "param_scheduler": build_schedulers(spec),
        "randomness": {"seed": spec.seed},
    }
    return Config(config)


def build_model(spec: RunSpec, world_size: int = 1) -> dict[str, Any]:
    """Build the ``model`` part of the config: an mmseg ``EncoderDecoder``.

    Raises:
        UsageError: a class named by its full path that cannot be imported, a model that timm does
            not have, or values that no run uses.
    """
    for problem in find_ignored_settings(spec):
        raise UsageError(problem)
    for key, name in plugins.find_full_names(spec):
        plugins.load_class(name, key)  # mmengine would hide the reason why an import fails
    spec, timm_model = fill_backbone(spec)
    encoder = read_values(spec, "backbone")
    preprocessor = encoder["data_preprocessor"]
    if timm_model:
        preprocessor.update(mean=list(timm_model.mean), std=list(timm_model.std))
    preprocessor.update(size=spec.augmentation.crop_size, seg_pad_val=ignored_label(spec.dataset))
    backbone = merge_settings(encoder["backbone"], to_plain(spec.backbone.settings))
    _check_default_weights(backbone)
    if str(backbone.get("type")).endswith("TIMMBackbone"):
        load_timm("backbone.settings.type")  # mmseg was imported without it
    heads = read_values(spec, "decoder")
    decode_head = _build_decode_head(heads["decode_head"], spec)
    # Without fields that were added later and are not set: their heads have the same defaults.
    method = to_plain(spec.method, identity=True)
    del method["kind"]
    if spec.method.needs_hierarchy:
        method |= {
            "hierarchy": to_plain(spec.dataset.hierarchy),
            "iterations": spec.schedule.iterations,
        }
    if spec.contrast.weight:
        method["contrast"] = to_plain(spec.contrast, identity=True)
    model: dict[str, Any] = {
        "type": spec.method.segmentor,
        "data_preprocessor": preprocessor,
        "backbone": backbone,
        "decode_head": {"type": spec.method.head, "decode_head": decode_head, **method},
        "train_cfg": {},
        "test_cfg": _build_test_cfg(spec),
    }
    if spec.decoder.auxiliary:
        model["auxiliary_head"] = _build_auxiliary_head(heads, spec.decoder, spec)
    if world_size == 1:
        model = _replace_sync_bn(model)
    return model


def _build_decode_head(head: dict[str, Any], spec: RunSpec) -> dict[str, Any]:
    num_maps = len(spec.backbone.channels)
    if max(spec.decoder.in_index) >= num_maps:  # planning checks it, except for a model of timm
        raise UsageError(
            f"decoder.in_index: expected feature maps 0 to {num_maps - 1} of {spec.backbone.name}, "
            f"found {list(spec.decoder.in_index)}. Name others, or set "
            "backbone.settings.out_indices."
        )
    inputs = [spec.backbone.channels[i] for i in spec.decoder.in_index]
    reads_one_map = isinstance(head.get("in_index", -1), int)
    if reads_one_map and len(inputs) > 1:
        raise UsageError(
            f"decoder.in_index: {spec.decoder.name} reads one feature map, found "
            f"{list(spec.decoder.in_index)}. Name one map."
        )
    head.update(
        in_channels=inputs[0] if reads_one_map else inputs,
        in_index=spec.decoder.in_index[0] if reads_one_map else list(spec.decoder.in_index),
        channels=spec.decoder.channels,
        dropout_ratio=spec.decoder.dropout,
        num_classes=len(spec.dataset.classes),
        ignore_index=ignored_label(spec.dataset),
    )
    if "c1_in_channels" in head:  # DeepLabV3+ also reads the first map
        head["c1_in_channels"] = spec.backbone.channels[0]
    if spec.decoder.align_corners is not None:
        head["align_corners"] = spec.decoder.align_corners
    return _average_over_valid_pixels(merge_settings(head, to_plain(spec.decoder.settings)), spec)


def _check_default_weights(backbone: dict[str, Any]) -> None:
    """Refuse a backbone that downloads weights unless it is told not to."""
    cls = MODELS.get(backbone["type"]) if isinstance(backbone.get("type"), str) else None
    if "pretrained" in backbone or not isinstance(cls, type):
        return
    default = inspect.signature(cls).parameters.get("pretrained")
    if default is not None and default.default not in (None, False, inspect.Parameter.empty):
        raise UsageError(
            f"backbone.settings: {backbone['type']} downloads weights, unless 'pretrained' is "
            "false. Set backbone.settings.pretrained=false; backbone.weights names a file."
        )


def _build_auxiliary_head(
    heads: dict[str, Any], decoder: DecoderSpec, spec: RunSpec
) -> dict[str, Any]:
    head = heads.get("auxiliary_head")
    if head is None or "type" not in head:
        number = "no auxiliary head" if head is None else "several auxiliary heads"
        raise UsageError(
            f"decoder.auxiliary: the recipe {decoder.recipe} has {number}. Set "
            "decoder.auxiliary=false."
        )
    if not -1 <= head["in_index"] < len(spec.backbone.channels):
        raise UsageError(
            f"decoder.auxiliary: the head reads feature map {head['in_index']}, and "
            f"{spec.backbone.name} has 0 to {len(spec.backbone.channels) - 1}. Set "
            "decoder.auxiliary=false."
        )
    head.update(
        in_channels=spec.backbone.channels[head["in_index"]],
        num_classes=len(spec.dataset.classes),
        ignore_index=ignored_label(spec.dataset),
    )
    if spec.decoder.align_corners is not None:
        head["align_corners"] = spec.decoder.align_corners
    return _average_over_valid_pixels(head, spec)


def _average_over_valid_pixels(head: dict[str, Any], spec: RunSpec) -> dict[str, Any]:
    """Make the cross entropy of a head a mean over the pixels that are not ignored.

    Raises:
        UsageError: class weights for a head without cross entropy, or two settings of them.
    """
    losses = head["loss_decode"]
    losses = losses if isinstance(losses, list | tuple) else [losses]
    entropies = [loss for loss in losses if loss["type"] == "CrossEntropyLoss"]
    if spec.class_weights == "dataset" and any(loss.get("use_sigmoid") for loss in entropies):
        raise UsageError(
            "class_weights=dataset: a loss of decoder.settings has use_sigmoid, for which mmseg's "
            "weights mean something else. Remove use_sigmoid, or set class_weights=none."
        )
    for loss in entropies:
        if spec.class_weights == "dataset":
            if loss.get("class_weight") is not None:
                raise UsageError(
                    "class_weights=dataset: decoder.settings also has a class_weight. Remove it, "
                    "or set class_weights=none."
                )
            loss["class_weight"] = list(spec.dataset.class_weights)
        # With class weights, mmseg's mean is over the weights of valid pixels without this option,
        # and fails with it.
        loss["avg_non_ignore"] = loss.get("class_weight") is None
    if spec.class_weights == "dataset" and not entropies:
        raise UsageError(
            f"class_weights=dataset: the loss of {head['type']} is {losses[0]['type']}, not "
            "CrossEntropyLoss. Set class_weights=none."
        )
    return head


def _replace_sync_bn(value: Any) -> Any:
    if isinstance(value, dict):
        changed = {k: _replace_sync_bn(v) for k, v in value.items()}
        return {**changed, "type": "BN"} if value.get("type") == "SyncBN" else changed
    if isinstance(value, list | tuple):
        return type(value)(_replace_sync_bn(v) for v in value)
    return value


def _build_test_cfg(spec: RunSpec) -> dict[str, Any]:
    evaluation = spec.evaluation
    if evaluation.mode == "whole":
        return {"mode": "whole"}
    if len(evaluation.crop_size) != 2 or len(evaluation.stride) != 2:
        raise UsageError(
            "evaluation: mode 'slide' needs crop_size and stride. Set each to [height, width]."
        )
    return {"mode": "slide", "crop_size": evaluation.crop_size, "stride": evaluation.stride}
