"""From a spec to mmengine's Config: mmseg's recipes with the values of the spec."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmseg.registry import MODELS
from torch import nn

from protoseg.config.schema import DatasetSpec, RunSpec
from protoseg.config.validation import check_values
from protoseg.errors import UsageError
from protoseg.training.builders.components import build_components
from protoseg.training.builders.config import build_config, merge_settings
from protoseg.training.builders.parameter_counts import build_without_memory
from protoseg.training.builders.recipe_files import load_recipe
from protoseg.training.builders.timm_models import fill_backbone
from training.small import compose, composer, small_spec

SEGFORMER = "segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py"
ROOT = Path("data") / "somewhere"
NEEDS_TIMM = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("timm", "torchvision"))), reason="needs the extra [timm]"
)
BACKBONES = [
    pytest.param(name, marks=NEEDS_TIMM) if name == "timm" else name
    for name in composer().options["backbone"]
]
DECODERS = composer().options["decoder"]
METHODS = composer().options["method"]


def config_of(*overrides: str, **arguments: Any) -> Config:
    return build_config(compose(*overrides), data_root=ROOT, **arguments)


@functools.cache
def option(group: str, name: str) -> Any:
    """One option of experiments/; cached, because composing takes most of the time."""
    return getattr(compose(f"{group}={name}"), group)


def spec_of(**options: str) -> RunSpec:
    """The default run with other options."""
    chosen = {group: option(group, name) for group, name in options.items()}
    return dataclasses.replace(compose_default(), **chosen)


@functools.cache
def compose_default() -> RunSpec:
    return compose("method.num_prototypes=2")


def find_values(node: Any, key: str) -> list[Any]:
    """All values of a key at any depth of nested data."""
    matches = []
    if isinstance(node, dict):
        matches = [node[key]] if key in node else []
        matches += [v for child in node.values() for v in find_values(child, key)]
    elif isinstance(node, list | tuple):
        matches = [v for child in node for v in find_values(child, key)]
    return matches


# All options of experiments/


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_builds_with_every_decoder(backbone: str) -> None:
    for decoder in DECODERS:
        if (backbone, decoder) == ("timm", "cam"):
            continue  # its width is that of the backbone's last map, which only timm has
        print(decoder)
        check_model(backbone, decoder)


def check_model(backbone: str, decoder: str) -> None:
    """Build the heads for a backbone and a decoder, and apply them to maps on the meta device."""
    method = "query_decoder" if decoder == "segmenter" else "paper"
    spec = spec_of(backbone=backbone, decoder=decoder, method=method)
    if decoder == "cam":  # its width is that of the backbone's last map
        spec = compose(f"backbone={backbone}", f"decoder={decoder}", "method=paper")
    model = build_config(spec, data_root=ROOT).model.to_dict()
    head: Any = build_without_memory(model["decode_head"])
    channels = fill_backbone(spec)[0].backbone.channels
    maps = [torch.zeros(1, c, 8, 8, device="meta") for c in channels]
    if decoder == "segmenter":
        assert head.eval()(maps).shape == (1, 6, 8, 8)
        return
    assert head.bank.prototypes.shape == (6, 10, spec.decoder.channels)
    assert (head.head.dropout.p if head.head.dropout else 0) == spec.decoder.dropout
    assert head.ignore_index == 255
    head.eval()  # batch norm cannot train on one pixel
    assert head.features(maps).shape == (1, spec.decoder.channels, 8, 8)
    assert ("auxiliary_head" in model) == spec.decoder.auxiliary
    if spec.decoder.auxiliary:
        auxiliary: Any = build_without_memory(model["auxiliary_head"]).eval()
        assert auxiliary(maps).shape == (1, 6, 8, 8)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_backbone_has_the_channels_of_the_spec(backbone: str) -> None:
    spec = spec_of(backbone=backbone)
    model: Any = build_without_memory(build_config(spec, data_root=ROOT).model.backbone.to_dict())
    model.eval()
    with torch.no_grad():
        maps = model(torch.zeros(1, 3, 64, 64, device="meta"))
    channels = model.channels if backbone == "timm" else spec.backbone.channels
    assert tuple(m.shape[1] for m in maps) == channels


@pytest.mark.parametrize("method", METHODS)
def test_every_field_of_a_method_reaches_its_head(method: str) -> None:
    decoder = "segmenter" if method == "query_decoder" else "segformer_64"
    is_weak = method == "cam" or method.startswith("weak_")
    override = "augmentation.cat_max_ratio=1" if is_weak else "method.num_prototypes=3"
    if method.startswith("hierarchical"):
        override = "method.triplet_samples=3"
    tree = "dataset.hierarchy={a: [ground, disk, box], b: [triangle, ring, bar]}"
    spec = compose(f"method={method}", f"decoder={decoder}", override, tree)
    head = MODELS.build(build_config(spec, data_root=ROOT).model).decode_head
    assert type(head).__name__ == spec.method.head
    for field in dataclasses.fields(spec.method):
        expected = getattr(spec.method, field.name)
        unnamed = ("projection", "embedding_norm", "score_norm", "triplet_channels")
        if field.name in ("kind", *unnamed):
            continue
        if field.name == "threshold":  # an attribute that mmseg uses for something else
            assert head.background_threshold == expected
            continue
        owner = head if hasattr(head, field.name) else head.bank
        assert getattr(owner, field.name) == expected, field.name
    if method.startswith("released"):
        assert isinstance(head.embedding_norm, nn.LayerNorm)
        assert isinstance(head.score_norm, nn.LayerNorm)
        assert isinstance(head.projection, nn.Sequential)


@pytest.mark.parametrize("method", ["paper", "parametric", "pixel_query"])
def test_every_field_of_the_contrast_reaches_each_head(method: str) -> None:
    changes = {"channels": 12, "anchors": 7, "positives": 5, "negatives": 6, "pixel_queue": 8}
    changes |= {"region_queue": 9, "pixels_per_image": 3, "temperature": 0.2, "weight": 0.3}
    settings = [f"contrast.{name}={value}" for name, value in changes.items()]
    spec = compose(f"method={method}", "contrast.selection=random", *settings)
    contrast = MODELS.build(build_config(spec, data_root=ROOT).model).decode_head.contrast
    for field in dataclasses.fields(spec.contrast):
        expected = getattr(spec.contrast, field.name)
        if field.name.endswith("_queue"):
            queue = getattr(contrast.memory, field.name.removesuffix("_queue") + "s")
            assert queue.shape == (6, expected, 12)
        elif field.name == "memory_start":
            assert contrast.memory.start == expected
        elif field.name == "slips":
            assert contrast.memory.slips == set(expected)
        elif field.name == "channels":
            assert contrast.projection[-1].out_channels == expected
        else:
            owner = contrast if hasattr(contrast, field.name) else contrast.memory
            assert getattr(owner, field.name) == expected, field.name
    without = MODELS.build(build_config(compose(f"method={method}"), data_root=ROOT).model)
    assert without.decode_head.contrast is None


@pytest.mark.install
@pytest.mark.parametrize("dataset", composer().options["dataset"])
def test_every_data_set_and_evaluation_has_a_config(dataset: str) -> None:
    for evaluation in composer().options["evaluation"]:
        spec = spec_of(dataset=dataset, evaluation=evaluation)
        config = build_config(spec, data_root=ROOT)
        classes = {len(spec.dataset.classes)}
        assert set(find_values(config.model.to_dict(), "num_classes")) == classes, evaluation
        assert config.test_dataloader.dataset.split == "val"
        assert config.test_dataloader.batch_size == 1


@pytest.mark.install
@pytest.mark.parametrize("augmentation", composer().options["augmentation"])
def test_every_schedule_and_augmentation_has_a_config(augmentation: str) -> None:
    for schedule in composer().options["schedule"]:
        spec = spec_of(schedule=schedule, augmentation=augmentation)
        config = build_config(spec, data_root=ROOT)
        assert config.optim_wrapper.optimizer.lr == spec.schedule.learning_rate, schedule
        pipeline = config.train_dataloader.dataset.pipeline
        crop = next(t for t in pipeline if t["type"] == "RandomCrop")
        crop_size = spec.augmentation.crop_size
        assert tuple(crop["crop_size"]) == crop_size, schedule
        assert tuple(config.model.data_preprocessor["size"]) == crop_size, schedule


# Changes of all recipes


def test_sync_bn_becomes_bn_only_in_one_process() -> None:
    one = config_of("decoder=upernet", "backbone=mobilenet_v2").model.to_dict()
    many = config_of("decoder=upernet", "backbone=mobilenet_v2", world_size=2).model.to_dict()
    assert {norm["type"] for norm in find_values(one, "norm_cfg")} == {"BN"}
    assert {norm["type"] for norm in find_values(many, "norm_cfg")} == {"SyncBN"}
    assert {norm["requires_grad"] for norm in find_values(one, "norm_cfg")} == {True}


def test_every_head_averages_over_valid_pixels() -> None:
    config = config_of("decoder=upernet", "decoder.auxiliary=true", "backbone=mobilenet_v2")
    model = config.model.to_dict()
    assert len(find_values(model, "avg_non_ignore")) == len(find_values(model, "loss_decode")) == 2
    assert all(find_values(model, "avg_non_ignore"))


def test_a_config_has_no_address_of_weights() -> None:
    for backbone in (name for name in BACKBONES if isinstance(name, str)):
        model = config_of(f"backbone={backbone}").model.to_dict()
        assert not any(find_values(model, "pretrained"))
        assert "init_cfg" not in model["backbone"]
        assert "http" not in json.dumps(model)


def test_changing_a_loaded_recipe_does_not_change_later_ones() -> None:
    before = copy.deepcopy(load_recipe(SEGFORMER).to_dict())
    loaded = load_recipe(SEGFORMER)
    loaded.model.decode_head.channels = 7
    loaded.optim_wrapper.paramwise_cfg.custom_keys.pop("head")
    config_of("schedule.head_lr_mult=3")
    assert load_recipe(SEGFORMER).to_dict() == before


def test_the_auxiliary_head_is_that_of_the_recipe() -> None:
    config = config_of("decoder=upernet", "decoder.auxiliary=true", "backbone=mobilenet_v2")
    auxiliary = config.model.auxiliary_head
    shipped = load_recipe(compose("decoder=upernet").decoder.recipe).model.auxiliary_head
    assert auxiliary.type == shipped.type == "FCNHead"
    assert auxiliary.loss_decode.loss_weight == shipped.loss_decode.loss_weight == 0.4
    assert auxiliary.in_channels == 96  # MobileNetV2's third map
    assert auxiliary.num_classes == 6
    assert "auxiliary_head" not in config_of("decoder=upernet").model


def test_settings_are_merged_into_the_recipe() -> None:
    plain = config_of("backbone=mit_b0").model.backbone
    changed = config_of("backbone=mit_b0", "+backbone.settings.drop_path_rate=0.3").model.backbone
    assert plain.drop_path_rate == 0.1
    assert {**changed, "drop_path_rate": 0.1} == plain
    head = config_of("+decoder.settings.norm_cfg.momentum=0.5").model.decode_head.decode_head
    assert head.norm_cfg == {"type": "BN", "requires_grad": True, "momentum": 0.5}


def test_delete_removes_the_recipes_settings() -> None:
    assert config_of("backbone=tiny").model.backbone == {
        "type": "TinyNet",
        "channels": [16, 32, 64, 96],
    }
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merge_settings(base, {"a": {"_delete_": True, "e": 4}}) == {"a": {"e": 4}, "d": 3}
    assert merge_settings(base, {"_delete_": True, "f": 5}) == {"f": 5}
    assert merge_settings(base, {"a": {"b": 9}}) == {"a": {"b": 9, "c": 2}, "d": 3}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}


def test_the_decoder_has_the_width_and_dropout_of_the_spec() -> None:
    head = config_of("decoder.dropout=0.3", "decoder.channels=48").model.decode_head.decode_head
    assert (head.dropout_ratio, head.channels) == (0.3, 48)


def test_loader_workers_paths_and_start_change_no_other_value() -> None:
    spec = small_spec()
    one = build_config(spec, data_root=ROOT, num_workers=0).to_dict()
    other = build_config(spec, data_root=Path("elsewhere"), num_workers=3, start=5).to_dict()
    for loader in ("train_dataloader", "test_dataloader"):
        for config, workers in ((one, 0), (other, 3)):
            assert config[loader].pop("num_workers") == workers
            del config[loader]["dataset"]["root"]
        for config in (one, other):
            config[loader].pop("persistent_workers")
    assert one["train_dataloader"]["sampler"].pop("start") == 0
    assert other["train_dataloader"]["sampler"].pop("start") == 5
    assert one == other


# Learning rates


def read_parameter_groups(model: nn.Module, wrapper: Any) -> dict[str, tuple[float, float]]:
    """Parameter name -> (learning rate, weight decay)."""
    optimizer = build_optim_wrapper(model, copy.deepcopy(wrapper)).optimizer
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_learning_rates_are_those_of_mmsegs_recipe() -> None:
    """With SegFormer's values in the spec, each parameter has the recipe's rate and decay."""
    shipped = load_recipe(SEGFORMER)
    shipped.model.backbone.pop("init_cfg")
    shipped.model.decode_head.norm_cfg = {"type": "BN", "requires_grad": True}
    shipped.model.decode_head.loss_decode.avg_non_ignore = True
    shipped.model.data_preprocessor.size = (512, 512)
    expected = read_parameter_groups(MODELS.build(shipped.model), shipped.optim_wrapper)
    config = config_of(
        "backbone=mit_b0", "decoder=segformer_256", "schedule=segformer_160k", "method=parametric"
    )
    actual = read_parameter_groups(MODELS.build(config.model), config.optim_wrapper)
    renamed = {
        name.replace("decode_head.classifier", "decode_head.conv_seg").replace(
            "decode_head.head.", "decode_head."
        ): value
        for name, value in actual.items()
    }
    assert renamed.keys() == expected.keys()
    assert renamed == expected
    assert len(set(expected.values())) >= 3, "the recipe has several parameter groups"


def test_the_learning_rate_schedule_is_that_of_mmsegs_recipe() -> None:
    shipped = load_recipe(SEGFORMER)
    config = config_of("schedule=segformer_160k")

    def curve(schedules: Any) -> list[float]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=6e-5)
        built = [
            PARAM_SCHEDULERS.build(dict(s), default_args={"optimizer": optimizer})
            for s in schedules
        ]
        rates = []
        for _ in range(3000):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            for schedule in built:
                schedule.step()
        return rates

    assert curve(config.param_scheduler) == pytest.approx(curve(shipped.param_scheduler), rel=1e-9)


def test_only_head_lr_mult_changes_the_heads_learning_rate() -> None:
    for factor in (1.0, 10.0):
        config = config_of(f"schedule.head_lr_mult={factor}", "schedule.learning_rate=0.01")
        rates = read_parameter_groups(MODELS.build(config.model), config.optim_wrapper)
        for name, (rate, _) in rates.items():
            expected = 0.01 * (factor if name.startswith("decode_head") else 1)
            assert rate == pytest.approx(expected), name


def test_sgd_recipes_keep_their_momentum() -> None:
    fcn = "fcn/fcn_r101-d8_4xb4-160k_ade20k-512x512.py"
    config = config_of(f"schedule.recipe={fcn}", "schedule.optimizer=SGD")
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.momentum, optimizer.lr) == ("SGD", 0.9, 0.01)


def test_the_precision_selects_the_optimiser_wrapper(data: Path, shapes_root: Path) -> None:
    assert config_of().optim_wrapper.type == "OptimWrapper"
    assert config_of("precision=bf16").optim_wrapper.dtype == "bfloat16"
    fp16 = config_of("precision=fp16").optim_wrapper
    assert (fp16.type, fp16.dtype, fp16.loss_scale) == ("AmpOptimWrapper", "float16", "dynamic")
    parts = build_components(
        build_config(small_spec("precision=bf16"), data_root=shapes_root), None
    )
    with parts.optimizer.optim_context(parts.model):
        output = parts.model.backbone(torch.zeros(1, 3, 32, 32))[0]
    if not torch.cuda.is_available():
        assert output.dtype == torch.bfloat16
        last = torch.channels_last
        weights = [w for w in parts.model.parameters() if w.ndim == 4 and min(w.shape[1:]) > 1]
        assert weights
        assert all(w.is_contiguous(memory_format=last) for w in weights)
        assert output.is_contiguous(memory_format=last)


# Digests of resolved recipes

CONFIG_DIGESTS = {
    ("tiny", "segformer_64", "paper"): "06079224bf7def95",
    ("mobilenet_v2", "segformer_128", "parametric"): "32d8b58005f94666",
    ("mit_b0", "segformer_256", "released_2026_11"): "8d53d174eca77278",
    ("mobilenet_v2", "upernet", "paper"): "8a0607534454fe67",
    ("mobilenet_v2", "fcn", "paper"): "23a8623ab53eb9bb",
}
CONFIG_CHANGED = (
    "The config of {} differs from the one of existing records. If mmseg was updated, compare its "
    "recipe with the old one (git diff of the two releases' configs). If the change affects "
    "results, raise METHOD_VERSION in protoseg/config/schema.py, so that old and new records are "
    "not compared. Do the same if protoseg changed the config. Then pin {}."
)


@pytest.mark.install
@pytest.mark.parametrize(
    ("options", "pinned"), CONFIG_DIGESTS.items(), ids=map("-".join, CONFIG_DIGESTS)
)
def test_resolved_recipes_are_those_of_existing_records(
    options: tuple[str, str, str], pinned: str
) -> None:
    backbone, decoder, method = options
    config = config_of(f"backbone={backbone}", f"decoder={decoder}", f"method={method}").to_dict()
    for loader in ("train_dataloader", "test_dataloader"):
        # The digest covers how data is loaded, not which data.
        del config[loader]["dataset"]["root"], config[loader]["dataset"]["dataset"]
    # The module that registers the data set class, as it was named when the digests were pinned.
    assert config["custom_imports"]["imports"][1] == "protoseg.datasets.folder_dataset"
    config["custom_imports"]["imports"][1] = "protoseg.datasets.stream"
    text = json.dumps(config, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert digest == pinned, CONFIG_CHANGED.format(" × ".join(options), digest)


# Invalid settings


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["backbone.recipe=segformer/segformer_mit-b9_8xb2-160k_ade20k-512x512.py"],
            r"unknown mmseg recipe .*mit-b9.* Did you mean 'segformer/segformer_mit-b\d",
        ),
        (
            ["decoder.recipe=nothing/like_it.py"],
            r"recipe.*nothing/like_it.py.* Known: .*segformer/\.\.\.",
        ),
        (["schedule.optimizer=SGD"], r"schedule.optimizer: .* trains with AdamW, not SGD"),
        (["evaluation.mode=slide"], r"mode 'slide' needs crop_size and stride"),
        (
            ["evaluation.mode=slide", "evaluation.crop_size=[9,9]"],
            r"mode 'slide' needs crop_size and stride",
        ),
        (
            ["schedule.iterations=10", "schedule.warmup_iterations=10"],
            r"schedule.warmup_iterations: 10 is not less than the 10 iterations",
        ),
        (["decoder=fcn", "decoder.in_index=[2,3]"], r"decoder.in_index: fcn reads one feature map"),
        (["decoder.auxiliary=true"], r"decoder.auxiliary: .* has no auxiliary head"),
    ],
)
def test_an_invalid_setting_is_one_error_message(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as error:
        config_of(*overrides)
    assert "\n" not in str(error.value)


def test_a_batch_size_must_be_divisible_by_the_processes() -> None:
    with pytest.raises(UsageError, match=r"batch_size: 4 is not divisible by 3 processes"):
        build_config(small_spec(), data_root=ROOT, world_size=3)
    shared = build_config(small_spec(), data_root=ROOT, world_size=2)
    assert shared.train_dataloader.batch_size == 2
    assert shared.train_dataloader.sampler.batch_size == 4


@pytest.mark.parametrize(("reduce_zero_label", "most"), [(False, 255), (True, 254)])
def test_many_classes_need_labels_of_16_bits(reduce_zero_label: bool, most: int) -> None:
    def config(count: int, **settings: Any) -> Config:
        dataset = DatasetSpec(
            name="many",
            digest="unpinned",
            classes=tuple(f"c{i}" for i in range(count)),
            reduce_zero_label=reduce_zero_label,
            **settings,
        )
        return build_config(dataclasses.replace(small_spec(), dataset=dataset), data_root=ROOT)

    assert config(most).model.decode_head.decode_head.num_classes == most
    with pytest.raises(UsageError, match=r"ignore_index: 255 is the label value of 'c25\d' too"):
        config(most + 1)
    wide = config(300, ignore_index=65535)
    assert set(find_values(wide.to_dict(), "ignore_index")) == {65535}
    assert wide.model.data_preprocessor.seg_pad_val == 65535
    assert set(find_values(config(most).to_dict(), "ignore_index")) == {255}


@pytest.mark.parametrize(
    "override",
    [
        "+decoder.settings.chanels=3",
        "+decoder.settings.type=SegmenterMaskTransformerHead",
        "+backbone.settings.depth=3",
        "+decoder.settings.type=NoSuchHead",
    ],
)
def test_settings_that_mmseg_refuses_are_one_error_message(
    override: str, shapes_root: Path
) -> None:
    config = build_config(small_spec(override), data_root=shapes_root)
    with pytest.raises(UsageError, match="model: mmseg cannot build it: ") as error:
        build_components(config, None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("type_name", ["TIMMBackbone", "TimmBackbone"])
def test_a_backbone_of_a_missing_package_says_what_to_install(
    shapes_root: Path, monkeypatch: pytest.MonkeyPatch, type_name: str
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    settings = f"{{_delete_: true, type: {type_name}, model_name: resnet18, pretrained: false}}"
    with pytest.raises(UsageError, match=r"timm is not installed\. Install it") as error:
        build_config(small_spec(f"backbone.settings={settings}"), data_root=shapes_root)
    assert "requirements-optional.lock" in str(error.value)


# Values that are given are used or refused

WEIGHTS = "but a run loads only the weights that backbone"
LAYER_DECAY = "convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py"
IGNORED_SETTINGS = {
    "+backbone.settings.pretrained=true": f"backbone.settings.pretrained is True, {WEIGHTS}",
    "+backbone.settings.pretrained=a.pth": f"backbone.settings.pretrained is 'a.pth', {WEIGHTS}",
    "+backbone.settings.init_cfg={type: Pretrained, checkpoint: a.pth}": (
        f"backbone.settings.init_cfg.type is 'Pretrained', {WEIGHTS}"
    ),
    "+backbone.settings.init_cfg=[{type: Pretrained}]": f"'Pretrained'}}], {WEIGHTS}",
    "+decoder.settings.init_cfg={type: Pretrained, checkpoint: a.pth}": (
        f"decoder.settings.init_cfg.type is 'Pretrained', {WEIGHTS}"
    ),
    "+decoder.settings.init_cfg={type: Normal, override: {name: conv_seg}}": (
        "decoder.settings.init_cfg.override.name is 'conv_seg', but init_cfg.override is for"
    ),
    "+decoder.settings.channels=7": "decoder.settings.channels is 7, but decoder.channels is used",
    "+decoder.settings.num_classes=7": "num_classes is 7, but dataset.classes is used, which gives",
    "+decoder.settings.in_channels=[7]": "in_channels is [7], but backbone.channels is used",
    "+decoder.settings.in_index=[0]": "in_index is [0], but decoder.in_index is used",
    "+decoder.settings.dropout_ratio=0.7": "dropout_ratio is 0.7, but decoder.dropout is used",
    "+decoder.settings.ignore_index=7": "ignore_index is 7, but dataset.ignore_index is used",
    # CamVid's files ignore 11, which the reader replaces by 255.
    "dataset=camvid +decoder.settings.ignore_index=11": "ignore_index is 11, but dataset.ignore_in",
    "+decoder.settings.threshold=0.3": "threshold is 0.3, but each class has one score here",
    "+decoder.settings.out_channels=1": "out_channels is 1, but each class has one score here",
    "+decoder.settings.loss_decode.avg_non_ignore=false": "avg_non_ignore is false, but L_CE is a",
    "+decoder.settings.loss_decode=[{type: CrossEntropyLoss, avg_non_ignore: false}]": (
        "decoder.settings.loss_decode: avg_non_ignore is false, but L_CE is a mean over the pixels"
    ),
    "schedule.recipe=upernet/upernet_r50_4xb4-160k_ade20k-512x512.py": "trains with SGD, not AdamW",
    f"schedule.recipe={LAYER_DECAY}": (
        "trains with AmpOptimWrapper, but precision is fp32. Set precision=bf16"
    ),
    "backbone=mobilenet_v2 +backbone.settings.init_cfg={type: Kaiming, layer: Conv2d}": (
        "init_cfg.type is 'Kaiming', but backbone.weights=mobilenet_v2_imagenet.pth is used"
    ),
}
"""Overrides -> a part of the message."""


@pytest.mark.parametrize(("override", "sentence"), IGNORED_SETTINGS.items())
def test_a_setting_that_no_run_uses_is_refused_when_planned_and_when_built(
    override: str, sentence: str
) -> None:
    spec = compose(*re.split(r" (?=\+?[\w.]+=)", override))
    for check in (lambda: check_values(spec, "plan"), lambda: build_config(spec, data_root=ROOT)):
        with pytest.raises(UsageError, match=re.escape(sentence)) as error:
            check()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["decoder=segmenter", "method=query_decoder", "decoder.dropout=0.2"],
            "decoder.dropout: 0.2 has no effect, because SegmenterMaskTransformerHead has no",
        ),
        (
            [f"schedule.recipe={LAYER_DECAY}", "precision=bf16", "schedule.head_lr_mult=2"],
            "schedule.head_lr_mult: 2.0 has no effect, because convnext",
        ),
    ],
)
def test_a_value_without_effect_in_mmseg_is_refused_when_planned(
    overrides: list[str], sentence: str
) -> None:
    spec = compose(*overrides)
    with pytest.raises(UsageError, match=re.escape(sentence)):
        check_values(spec, "plan")
    build_config(spec, data_root=ROOT)


def test_options_that_several_processes_or_a_loss_cannot_have_are_refused() -> None:
    contrast = ("contrast=pixel", "contrast.pixel_queue=0", "contrast.region_queue=0")
    spec = compose(*contrast, "contrast.sample_gradient=true")
    build_config(spec, data_root=ROOT)
    with pytest.raises(UsageError, match="samples of other processes would get no gradient"):
        build_config(spec, data_root=ROOT, world_size=2)
    sigmoid = "+decoder.settings.loss_decode.use_sigmoid=true"
    spec = compose("dataset=cityscapes", "class_weights=dataset", sigmoid)
    with pytest.raises(UsageError, match="class_weights=dataset: a loss of decoder"):
        build_config(spec, data_root=ROOT)


def test_settings_that_agree_with_the_spec_are_used() -> None:
    spec = compose(
        "+decoder.settings.channels=64",
        "+decoder.settings.in_index=[0,1,2,3]",
        "+decoder.settings.out_channels=6",
        "+decoder.settings.loss_decode.avg_non_ignore=true",
    )
    check_values(spec, "plan")
    assert build_config(spec, data_root=ROOT).model.decode_head.decode_head.out_channels == 6


BACKBONE = """
from protoseg.models import TinyNet

class Net(TinyNet):
    def __init__(self, channels, pretrained=True, init_cfg=None):
        super().__init__(channels)
        self.pretrained, self.init_cfg = pretrained, init_cfg
"""


@pytest.fixture
def own_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Overrides that choose a backbone of one's own, which downloads weights by default."""
    (tmp_path / "own_backbone_of_test.py").write_text(BACKBONE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return ["backbone.settings.type=own_backbone_of_test.Net"]


def test_a_backbone_is_told_not_to_load_weights(own_backbone: list[str]) -> None:
    for value in ("false", "null"):
        config = config_of(*own_backbone, f"+backbone.settings.pretrained={value}")
        built = MODELS.build(config.model).backbone
        assert built.pretrained in (False, None)
        assert built.init_cfg is None
    with pytest.raises(UsageError, match=r"Net downloads weights, unless 'pretrained' is false"):
        config_of(*own_backbone)


def test_the_initialisation_of_a_backbone_is_used(own_backbone: list[str]) -> None:
    init = "+backbone.settings.init_cfg={type: Constant, val: 0.5, layer: Conv2d}"
    config = config_of(*own_backbone, "+backbone.settings.pretrained=false", init)
    model = MODELS.build(config.model)
    model.init_weights()
    convolutions = [m for m in model.backbone.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions
    assert all(bool((m.weight == 0.5).all()) for m in convolutions)
