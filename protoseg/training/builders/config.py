"""Convert a RunSpec to an mmengine Config, based on the recipe files that mmseg ships.

The values of the spec replace those of the recipe. Three more changes apply to every run:

- SyncBN becomes BN in a single process; `protoseg.training.distributed.sync` handles several.
- L_CE is a mean over the pixels that are not ignored (Eq. 13; mmseg's default divides by all).
- The recipe's address of pre-trained weights is removed: the spec names the file and its digest,
  and `protoseg.training.weights.load` loads it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import mmseg
from mmengine.config import Config

from protoseg.config import plugins
from protoseg.config.fields import to_plain
from protoseg.config.schema import DecoderSpec, RunSpec
from protoseg.datasets.labels import check_labels, ignored_label
from protoseg.errors import UsageError, describe_unknown_name
from protoseg.training.builders.dataloaders import (
    build_test_loader,
    build_train_loader,
    check_weak_task,
)

RECIPES = Path(mmseg.__file__).parent / ".mim" / "configs"


@cache
def _read_recipe(name: str) -> Config:
    path = RECIPES / name
    if not path.is_file():
        # There are hundreds of recipes: list those of the folder, or else the folders.
        names = [str(p.relative_to(RECIPES)) for p in path.parent.glob("*.py")]
        names = names or [f"{p.parent.name}/..." for p in RECIPES.glob("*/metafile.yaml")]
        raise UsageError(describe_unknown_name("mmseg recipe", name, "recipe", names))
    return Config.fromfile(str(path))


def load_recipe(name: str) -> Config:
    """Load an mmseg recipe by its path below mmseg's configs folder; the copy may be changed."""
    return Config(_read_recipe(name).to_dict())


def first_line(error: Exception) -> str:
    """The first line of an error message, without the full stop."""
    # The argument of the error, because str(KeyError) adds quotes.
    text = str(error.args[0]) if error.args else ""
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
        UsageError: a recipe that mmseg does not ship, a batch that is not divisible by
            ``world_size``, or inconsistent label settings.
    """
    if spec.schedule.batch_size % world_size:
        raise UsageError(
            f"schedule.batch_size: {spec.schedule.batch_size} is not divisible by {world_size} "
            f"processes. Set a multiple of {world_size}."
        )
    check_labels(spec.dataset)
    check_weak_task(spec)
    config = {
        "default_scope": "mmseg",
        "custom_imports": {"imports": ["protoseg.models", "protoseg.datasets.folder_dataset"]},
        "model": build_model(spec, world_size),
        "train_dataloader": build_train_loader(spec, data_root, num_workers, world_size, start),
        "test_dataloader": build_test_loader(spec, data_root, num_workers),
        "optim_wrapper": _build_optimizer(spec),
        "param_scheduler": _build_schedulers(spec),
        "randomness": {"seed": spec.seed},
    }
    return Config(config)


def build_model(spec: RunSpec, world_size: int = 1) -> dict[str, Any]:
    """Build the ``model`` part of the config: an mmseg ``EncoderDecoder``.

    Raises:
        UsageError: a class named by its full path that cannot be imported.
    """
    for key, name in plugins.find_full_names(spec):
        plugins.load_class(name, key)  # mmengine would hide the reason why an import fails
    backbone_recipe = load_recipe(spec.backbone.recipe)
    preprocessor = dict(backbone_recipe.model.data_preprocessor)
    preprocessor.update(size=spec.augmentation.crop_size, seg_pad_val=ignored_label(spec.dataset))
    preprocessor.pop("test_cfg", None)
    backbone = merge_settings(
        dict(backbone_recipe.model.backbone), to_plain(spec.backbone.settings)
    )
    backbone.pop("pretrained", None)
    backbone.pop("init_cfg", None)
    decoder_recipe = load_recipe(spec.decoder.recipe).model
    decode_head = _build_decode_head(dict(decoder_recipe.decode_head), spec)
    method = to_plain(spec.method)
    del method["kind"]
    if spec.contrast.weight:
        method["contrast"] = to_plain(spec.contrast)
    model: dict[str, Any] = {
        "type": spec.method.segmentor,
        "data_preprocessor": preprocessor,
        "backbone": backbone,
        "decode_head": {"type": spec.method.head, "decode_head": decode_head, **method},
        "train_cfg": {},
        "test_cfg": _build_test_cfg(spec),
    }
    if spec.decoder.auxiliary:
        model["auxiliary_head"] = _build_auxiliary_head(decoder_recipe, spec.decoder, spec)
    if world_size == 1:
        model = _replace_sync_bn(model)
    return model


def _build_decode_head(head: dict[str, Any], spec: RunSpec) -> dict[str, Any]:
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
    return _average_over_valid_pixels(merge_settings(head, to_plain(spec.decoder.settings)))


def _build_auxiliary_head(recipe_model: Any, decoder: DecoderSpec, spec: RunSpec) -> dict[str, Any]:
    if "auxiliary_head" not in recipe_model:
        raise UsageError(
            f"decoder.auxiliary: the recipe {decoder.recipe} has no auxiliary head. Set "
            "decoder.auxiliary=false."
        )
    head = dict(recipe_model.auxiliary_head)
    head.update(
        in_channels=spec.backbone.channels[head["in_index"]],
        num_classes=len(spec.dataset.classes),
        ignore_index=ignored_label(spec.dataset),
    )
    return _average_over_valid_pixels(head)


def _average_over_valid_pixels(head: dict[str, Any]) -> dict[str, Any]:
    """Make the cross entropy of a head a mean over the pixels that are not ignored."""
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


def _build_test_cfg(spec: RunSpec) -> dict[str, Any]:
    evaluation = spec.evaluation
    if evaluation.mode == "whole":
        return {"mode": "whole"}
    if len(evaluation.crop_size) != 2 or len(evaluation.stride) != 2:
        raise UsageError(
            "evaluation: mode 'slide' needs crop_size and stride. Set each to [height, width]."
        )
    return {"mode": "slide", "crop_size": evaluation.crop_size, "stride": evaluation.stride}


def _build_optimizer(spec: RunSpec) -> dict[str, Any]:
    schedule = spec.schedule
    wrapper = load_recipe(schedule.recipe).optim_wrapper.to_dict()
    optimizer = wrapper["optimizer"]
    if optimizer["type"] != schedule.optimizer:
        raise UsageError(
            f"schedule.optimizer: {schedule.recipe} trains with {optimizer['type']}, "
            f"not {schedule.optimizer}. Name a recipe that uses {schedule.optimizer}."
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


def _build_schedulers(spec: RunSpec) -> list[dict[str, Any]]:
    """The schedulers of the learning rate: linear warm-up, then polynomial decay."""
    schedule = spec.schedule
    warmup = schedule.warmup_iterations
    if warmup >= schedule.iterations:
        raise UsageError(
            f"schedule.warmup_iterations: {warmup} is not less than the {schedule.iterations} "
            "iterations of the run. Lower it, or raise schedule.iterations."
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
