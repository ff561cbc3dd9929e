"""RunSpec -> mmengine Config, from the recipe files that mmseg itself ships.

A recipe is changed only where the spec says so, and in three ways that hold for every run:

- SyncBN is BN in a single process; `protoseg.training.distributed.sync` handles several processes;
- L_CE is a mean over the pixels that are not ignored (Eq. 13; mmseg's default divides by all);
- a recipe's address of pre-trained weights is dropped: the spec names the file and its digest,
  and `protoseg.training.weights.load` loads it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import mmseg
from mmengine.config import Config

from protoseg.config import plugins
from protoseg.config.fields import plain
from protoseg.config.schema import DecoderSpec, RunSpec
from protoseg.datasets.labels import check_labels, ignored_label
from protoseg.errors import UsageError, unknown
from protoseg.training.build.dataloaders import check_task, test_loader, train_loader

RECIPES = Path(mmseg.__file__).parent / ".mim" / "configs"


@cache
def _read(name: str) -> Config:
    path = RECIPES / name
    if not path.is_file():
        known = [str(p.relative_to(RECIPES)) for p in path.parent.glob("*.py")]
        # Hundreds in all: where the folder is not one of theirs, those are named.
        known = known or [f"{p.parent.name}/..." for p in RECIPES.glob("*/metafile.yaml")]
        raise UsageError(unknown("mmseg recipe", name, "recipe", known))
    return Config.fromfile(str(path))


def recipe(name: str) -> Config:
    """A recipe of mmseg by its path below its configs folder; a copy that may be changed."""
    return Config(_read(name).to_dict())


def reason(error: Exception) -> str:
    """Why mmseg could not build a part: the first line of what it says, without a full stop."""
    # The argument itself: the text of a KeyError stands in quotes.
    text = str(error.args[0]) if error.args else ""
    return (text.strip().splitlines() or [type(error).__name__])[0].rstrip(" .")


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """mmengine's merge of a config dict: nested, ``_delete_`` drops what was there."""
    # mmengine knows ``_delete_`` below the top level only.
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
    """The mmengine Config of a run: model, data, optimiser, schedule, evaluation.

    Args:
        data_root: folder of the data set itself.
        num_workers: loader processes; does not change what training sees.
        world_size: processes that share ``spec.schedule.batch_size``.
        start: iteration to go on from.

    Raises:
        UsageError: a recipe that mmseg does not ship, a batch that can not be shared out, or labels
            that do not fit together.
    """
    if spec.schedule.batch_size % world_size:
        raise UsageError(
            f"schedule.batch_size: {spec.schedule.batch_size} images can not be shared evenly by "
            f"{world_size} processes; choose a multiple of {world_size}."
        )
    check_labels(spec.dataset)
    check_task(spec)
    config = {
        "default_scope": "mmseg",
        "custom_imports": {"imports": ["protoseg.models", "protoseg.datasets.folder_dataset"]},
        "model": build_model(spec, world_size),
        "train_dataloader": train_loader(spec, data_root, num_workers, world_size, start),
        "test_dataloader": test_loader(spec, data_root, num_workers),
        "optim_wrapper": _optimizer(spec),
        "param_scheduler": _learning_rate(spec),
        "randomness": {"seed": spec.seed},
    }
    return Config(config)


def build_model(spec: RunSpec, world_size: int = 1) -> dict[str, Any]:
    """The ``model`` part of the config: an mmseg ``EncoderDecoder``.

    Raises:
        UsageError: a class named in full that can not be imported.
    """
    for place, name in plugins.names(spec):
        plugins.load(name, place)  # mmengine would, and keep silent about why it can not
    backbone_recipe = recipe(spec.backbone.recipe)
    preprocessor = dict(backbone_recipe.model.data_preprocessor)
    preprocessor.update(size=spec.augmentation.crop_size, seg_pad_val=ignored_label(spec.dataset))
    preprocessor.pop("test_cfg", None)
    backbone = merge(dict(backbone_recipe.model.backbone), plain(spec.backbone.settings))
    backbone.pop("pretrained", None)
    backbone.pop("init_cfg", None)
    decoder_recipe = recipe(spec.decoder.recipe).model
    decode_head = _decode_head(dict(decoder_recipe.decode_head), spec)
    method = plain(spec.method)
    del method["kind"]
    if spec.contrast.weight:
        method["contrast"] = plain(spec.contrast)
    model: dict[str, Any] = {
        "type": spec.method.segmentor,
        "data_preprocessor": preprocessor,
        "backbone": backbone,
        "decode_head": {"type": spec.method.head, "decode_head": decode_head, **method},
        "train_cfg": {},
        "test_cfg": _test_cfg(spec),
    }
    if spec.decoder.auxiliary:
        model["auxiliary_head"] = _auxiliary_head(decoder_recipe, spec.decoder, spec)
    if world_size == 1:
        model = _replace_sync_bn(model)
    return model


def _decode_head(head: dict[str, Any], spec: RunSpec) -> dict[str, Any]:
    inputs = [spec.backbone.channels[i] for i in spec.decoder.in_index]
    single = isinstance(head.get("in_index", -1), int)
    if single and len(inputs) > 1:
        raise UsageError(
            f"decoder.in_index: {spec.decoder.name} reads one feature map, "
            f"found {list(spec.decoder.in_index)}."
        )
    head.update(
        in_channels=inputs[0] if single else inputs,
        in_index=spec.decoder.in_index[0] if single else list(spec.decoder.in_index),
        channels=spec.decoder.channels,
        dropout_ratio=spec.decoder.dropout,
        num_classes=len(spec.dataset.classes),
        ignore_index=ignored_label(spec.dataset),
    )
    if "c1_in_channels" in head:  # DeepLabV3+ reads the first map too
        head["c1_in_channels"] = spec.backbone.channels[0]
    return _mean_over_valid(merge(head, plain(spec.decoder.settings)))


def _auxiliary_head(recipe_model: Any, decoder: DecoderSpec, spec: RunSpec) -> dict[str, Any]:
    if "auxiliary_head" not in recipe_model:
        raise UsageError(f"decoder.auxiliary: the recipe {decoder.recipe} has no auxiliary head.")
    head = dict(recipe_model.auxiliary_head)
    head.update(
        in_channels=spec.backbone.channels[head["in_index"]],
        num_classes=len(spec.dataset.classes),
        ignore_index=ignored_label(spec.dataset),
    )
    return _mean_over_valid(head)


def _mean_over_valid(head: dict[str, Any]) -> dict[str, Any]:
    losses = head["loss_decode"]
    for loss in losses if isinstance(losses, list | tuple) else [losses]:
        if loss["type"] == "CrossEntropyLoss":
            loss["avg_non_ignore"] = True
    return head


def _replace_sync_bn(value: Any) -> Any:
    if isinstance(value, dict):
        changed = {k: _replace_sync_bn(v) for k, v in value.items()}
        return {**changed, "type": "BN"} if value.get("type") == "SyncBN" else changed
    if isinstance(value, list | tuple):
        return type(value)(_replace_sync_bn(v) for v in value)
    return value


def _test_cfg(spec: RunSpec) -> dict[str, Any]:
    evaluation = spec.evaluation
    if evaluation.mode == "whole":
        return {"mode": "whole"}
    if len(evaluation.crop_size) != 2 or len(evaluation.stride) != 2:
        raise UsageError(
            "evaluation: mode 'slide' needs crop_size and stride, each [height, width]."
        )
    return {"mode": "slide", "crop_size": evaluation.crop_size, "stride": evaluation.stride}


def _optimizer(spec: RunSpec) -> dict[str, Any]:
    schedule = spec.schedule
    wrapper = recipe(schedule.recipe).optim_wrapper.to_dict()
    optimizer = wrapper["optimizer"]
    if optimizer["type"] != schedule.optimizer:
        raise UsageError(
            f"schedule.optimizer: {schedule.recipe} trains with {optimizer['type']}, "
            f"not {schedule.optimizer}; name a recipe that uses {schedule.optimizer}."
        )
    optimizer.update(lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    keys = (wrapper.get("paramwise_cfg") or {}).get("custom_keys", {})
    keys.pop("head", None)
    if schedule.head_lr_mult != 1:
        keys["head"] = {"lr_mult": schedule.head_lr_mult}
    if keys:
        wrapper.setdefault("paramwise_cfg", {})["custom_keys"] = keys
    if spec.precision != "fp32":
        wrapper["type"] = "AmpOptimWrapper"
        wrapper["dtype"] = {"fp16": "float16", "bf16": "bfloat16"}[spec.precision]
        if spec.precision == "fp16":
            wrapper["loss_scale"] = "dynamic"
    return dict(wrapper)


def _learning_rate(spec: RunSpec) -> list[dict[str, Any]]:
    schedule = spec.schedule
    warmup = schedule.warmup_iterations
    if warmup >= schedule.iterations:
        raise UsageError(
            f"schedule.warmup_iterations: {warmup} is not less than the "
            f"{schedule.iterations} iterations of the run."
        )
    polynomial = {
        "type": "PolyLR",
        "eta_min": schedule.min_lr,
        "power": schedule.power,
        "begin": warmup,
        "end": schedule.iterations,
        "by_epoch": False,
    }
    linear = {
        "type": "LinearLR",
        "start_factor": 1e-6,
        "begin": 0,
        "end": warmup,
        "by_epoch": False,
    }
    return [linear, polynomial] if warmup else [polynomial]
