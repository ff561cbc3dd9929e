"""From a spec to mmengine's Config: mmseg's own recipes, changed only where the spec says so."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import json
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
from protoseg.errors import UsageError
from protoseg.training.build.components import build_components
from protoseg.training.build.config import RECIPES, build_config, merge, recipe
from protoseg.training.build.parameter_counts import build_without_memory
from training.small import compose, composer, small_spec

SEGFORMER = "segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py"
ROOT = Path("data") / "somewhere"
BACKBONES = composer().options["backbone"]
DECODERS = composer().options["decoder"]
METHODS = composer().options["method"]


def config_of(*overrides: str, **arguments: Any) -> Config:
    return build_config(compose(*overrides), data_root=ROOT, **arguments)


@functools.cache
def option(group: str, name: str) -> Any:
    """One option of experiments/; composing it takes longer than all that is done with it."""
    return getattr(compose(f"{group}={name}"), group)


def spec_of(**options: str) -> RunSpec:
    """The default run with other options."""
    chosen = {group: option(group, name) for group, name in options.items()}
    return dataclasses.replace(default(), **chosen)


@functools.cache
def default() -> RunSpec:
    return compose("method.num_prototypes=2")


def values(node: Any, key: str) -> list[Any]:
    """Everything that stands under a key, anywhere in nested data."""
    found = []
    if isinstance(node, dict):
        found = [node[key]] if key in node else []
        found += [v for child in node.values() for v in values(child, key)]
    elif isinstance(node, list | tuple):
        found = [v for child in node for v in values(child, key)]
    return found


# Every option of experiments/


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_with_every_decoder_is_a_model(backbone: str) -> None:
    for decoder in DECODERS:
        print(decoder)
        check_model(backbone, decoder)


def check_model(backbone: str, decoder: str) -> None:
    """Build the heads of a backbone and a decoder, and apply them to maps without values."""
    method = "query_decoder" if decoder == "segmenter" else "paper"
    spec = spec_of(backbone=backbone, decoder=decoder, method=method)
    if decoder == "cam":  # as wide as its backbone's last map
        spec = compose(f"backbone={backbone}", f"decoder={decoder}", "method=paper")
    model = build_config(spec, data_root=ROOT).model.to_dict()
    head: Any = build_without_memory(model["decode_head"])
    maps = [torch.zeros(1, c, 8, 8, device="meta") for c in spec.backbone.channels]
    if decoder == "segmenter":
        assert head.eval()(maps).shape == (1, 6, 8, 8)
        return
    assert head.bank.prototypes.shape == (6, 10, spec.decoder.channels)
    assert (head.head.dropout.p if head.head.dropout else 0) == spec.decoder.dropout
    assert head.ignore_index == 255
    head.eval()  # one pixel has no variance to norm by
    assert head.features(maps).shape == (1, spec.decoder.channels, 8, 8)
    assert ("auxiliary_head" in model) == spec.decoder.auxiliary
    if spec.decoder.auxiliary:
        auxiliary: Any = build_without_memory(model["auxiliary_head"]).eval()
        assert auxiliary(maps).shape == (1, 6, 8, 8)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_backbones_channels_are_the_ones_the_spec_says(backbone: str) -> None:
    spec = spec_of(backbone=backbone)
    model = build_without_memory(build_config(spec, data_root=ROOT).model.backbone.to_dict())
    model.eval()
    with torch.no_grad():
        maps = model(torch.zeros(1, 3, 64, 64, device="meta"))
    assert tuple(m.shape[1] for m in maps) == spec.backbone.channels


@pytest.mark.parametrize("method", METHODS)
def test_every_field_of_a_method_reaches_its_head(method: str) -> None:
    decoder = "segmenter" if method == "query_decoder" else "segformer_64"
    more = [] if method in ("cam", "weak_contrast") else ["method.num_prototypes=3"]
    more = more or ["augmentation.cat_max_ratio=1"]
    spec = compose(f"method={method}", f"decoder={decoder}", *more)
    head = MODELS.build(build_config(spec, data_root=ROOT).model).decode_head
    assert type(head).__name__ == spec.method.head
    for field in dataclasses.fields(spec.method):
        wanted = getattr(spec.method, field.name)
        if field.name in ("kind", "projection", "embedding_norm", "score_norm"):
            continue
        if field.name == "threshold":  # mmseg asks heads for one of its own
            assert head.background_threshold == wanted
            continue
        place = head if hasattr(head, field.name) else head.bank
        assert getattr(place, field.name) == wanted, field.name
    if method == "released":
        assert isinstance(head.embedding_norm, nn.LayerNorm)
        assert isinstance(head.score_norm, nn.LayerNorm)
        assert isinstance(head.projection, nn.Sequential)


@pytest.mark.parametrize("method", ["paper", "parametric", "pixel_query"])
def test_every_field_of_the_contrast_reaches_any_head(method: str) -> None:
    changes = {"channels": 12, "anchors": 7, "positives": 5, "negatives": 6, "pixel_queue": 8}
    changes |= {"region_queue": 9, "pixels_per_image": 3, "temperature": 0.2, "weight": 0.3}
    settings = [f"contrast.{name}={value}" for name, value in changes.items()]
    spec = compose(f"method={method}", "contrast.selection=random", *settings)
    part = MODELS.build(build_config(spec, data_root=ROOT).model).decode_head.contrast
    for field in dataclasses.fields(spec.contrast):
        wanted = getattr(spec.contrast, field.name)
        if field.name.endswith("_queue"):
            queue = getattr(part.memory, field.name.removesuffix("_queue") + "s")
            assert queue.shape == (6, wanted, 12)
        elif field.name == "channels":
            assert part.projection[-1].out_channels == wanted
        else:
            place = part if hasattr(part, field.name) else part.memory
            assert getattr(place, field.name) == wanted, field.name
    off = MODELS.build(build_config(compose(f"method={method}"), data_root=ROOT).model)
    assert off.decode_head.contrast is None


@pytest.mark.install
@pytest.mark.parametrize("dataset", composer().options["dataset"])
def test_every_dataset_and_evaluation_is_a_config(dataset: str) -> None:
    for evaluation in composer().options["evaluation"]:
        spec = spec_of(dataset=dataset, evaluation=evaluation)
        config = build_config(spec, data_root=ROOT)
        classes = {len(spec.dataset.classes)}
        assert set(values(config.model.to_dict(), "num_classes")) == classes, evaluation
        assert config.test_dataloader.dataset.split == "val"
        assert config.test_dataloader.batch_size == 1


@pytest.mark.install
@pytest.mark.parametrize("augmentation", composer().options["augmentation"])
def test_every_schedule_and_augmentation_is_a_config(augmentation: str) -> None:
    for schedule in composer().options["schedule"]:
        spec = spec_of(schedule=schedule, augmentation=augmentation)
        config = build_config(spec, data_root=ROOT)
        assert config.optim_wrapper.optimizer.lr == spec.schedule.learning_rate, schedule
        pipeline = config.train_dataloader.dataset.pipeline
        crop = next(t for t in pipeline if t["type"] == "RandomCrop")
        crop_size = spec.augmentation.crop_size
        assert tuple(crop["crop_size"]) == crop_size, schedule
        assert tuple(config.model.data_preprocessor["size"]) == crop_size, schedule


# What holds for every recipe


def test_sync_bn_becomes_bn_in_one_process_alone() -> None:
    one = config_of("decoder=upernet", "backbone=mobilenet_v2").model.to_dict()
    many = config_of("decoder=upernet", "backbone=mobilenet_v2", world_size=2).model.to_dict()
    assert {norm["type"] for norm in values(one, "norm_cfg")} == {"BN"}
    assert {norm["type"] for norm in values(many, "norm_cfg")} == {"SyncBN"}
    assert {norm["requires_grad"] for norm in values(one, "norm_cfg")} == {True}


def test_the_mean_is_over_valid_pixels_in_every_head() -> None:
    config = config_of("decoder=upernet", "decoder.auxiliary=true", "backbone=mobilenet_v2")
    model = config.model.to_dict()
    assert len(values(model, "avg_non_ignore")) == len(values(model, "loss_decode")) == 2
    assert all(values(model, "avg_non_ignore"))


def test_no_address_of_weights_is_left() -> None:
    for backbone in BACKBONES:
        model = config_of(f"backbone={backbone}").model.to_dict()
        assert not any(values(model, "pretrained"))
        assert "init_cfg" not in model["backbone"]
        assert "http" not in json.dumps(model)


def test_a_recipe_handed_out_may_be_changed() -> None:
    before = copy.deepcopy(recipe(SEGFORMER).to_dict())
    taken = recipe(SEGFORMER)
    taken.model.decode_head.channels = 7
    taken.optim_wrapper.paramwise_cfg.custom_keys.pop("head")
    config_of("schedule.head_lr_mult=3")
    assert recipe(SEGFORMER).to_dict() == before


def test_the_auxiliary_head_is_the_recipes_own() -> None:
    config = config_of("decoder=upernet", "decoder.auxiliary=true", "backbone=mobilenet_v2")
    auxiliary = config.model.auxiliary_head
    shipped = recipe(compose("decoder=upernet").decoder.recipe).model.auxiliary_head
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


def test_delete_drops_what_the_recipe_had() -> None:
    assert config_of("backbone=tiny").model.backbone == {
        "type": "TinyNet",
        "channels": [16, 32, 64, 96],
    }
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merge(base, {"a": {"_delete_": True, "e": 4}}) == {"a": {"e": 4}, "d": 3}
    assert merge(base, {"_delete_": True, "f": 5}) == {"f": 5}
    assert merge(base, {"a": {"b": 9}}) == {"a": {"b": 9, "c": 2}, "d": 3}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}


def test_the_decoders_width_and_dropout_are_the_specs() -> None:
    head = config_of("decoder.dropout=0.3", "decoder.channels=48").model.decode_head.decode_head
    assert (head.dropout_ratio, head.channels) == (0.3, 48)


def test_loader_workers_and_paths_change_nothing_else() -> None:
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


def groups_of(model: nn.Module, wrapper: Any) -> dict[str, tuple[float, float]]:
    """Parameter name -> (learning rate, weight decay)."""
    optimizer = build_optim_wrapper(model, copy.deepcopy(wrapper)).optimizer
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_learning_rates_are_those_of_mmsegs_own_recipe() -> None:
    """SegFormer's values in the spec: each parameter learns as it does in the shipped recipe."""
    shipped = recipe(SEGFORMER)
    shipped.model.backbone.pop("init_cfg")
    shipped.model.decode_head.norm_cfg = {"type": "BN", "requires_grad": True}
    shipped.model.decode_head.loss_decode.avg_non_ignore = True
    shipped.model.data_preprocessor.size = (512, 512)
    theirs = groups_of(MODELS.build(shipped.model), shipped.optim_wrapper)
    ours = config_of(
        "backbone=mit_b0", "decoder=segformer_256", "schedule=segformer_160k", "method=parametric"
    )
    mine = groups_of(MODELS.build(ours.model), ours.optim_wrapper)
    renamed = {
        name.replace("decode_head.classifier", "decode_head.conv_seg").replace(
            "decode_head.head.", "decode_head."
        ): value
        for name, value in mine.items()
    }
    assert renamed.keys() == theirs.keys()
    assert renamed == theirs
    assert len(set(theirs.values())) >= 3, "the recipe has groups of its own"


def test_the_learning_rate_over_time_is_mmsegs_too() -> None:
    shipped = recipe(SEGFORMER)
    ours = config_of("schedule=segformer_160k")

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

    assert curve(ours.param_scheduler) == pytest.approx(curve(shipped.param_scheduler), rel=1e-9)


def test_the_head_learns_faster_only_where_the_spec_says_so() -> None:
    for factor in (1.0, 10.0):
        config = config_of(f"schedule.head_lr_mult={factor}", "schedule.learning_rate=0.01")
        rates = groups_of(MODELS.build(config.model), config.optim_wrapper)
        for name, (rate, _) in rates.items():
            expected = 0.01 * (factor if name.startswith("decode_head") else 1)
            assert rate == pytest.approx(expected), name


def test_sgd_recipes_keep_their_momentum() -> None:
    fcn = "fcn/fcn_r101-d8_4xb4-160k_ade20k-512x512.py"
    config = config_of(f"schedule.recipe={fcn}", "schedule.optimizer=SGD")
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.momentum, optimizer.lr) == ("SGD", 0.9, 0.01)


def test_precision_chooses_the_wrapper(data: Path, shapes_root: Path) -> None:
    assert config_of().optim_wrapper.type == "OptimWrapper"
    assert config_of("precision=bf16").optim_wrapper.dtype == "bfloat16"
    fp16 = config_of("precision=fp16").optim_wrapper
    assert (fp16.type, fp16.dtype, fp16.loss_scale) == ("AmpOptimWrapper", "float16", "dynamic")
    parts = build_components(
        build_config(small_spec("precision=bf16"), data_root=shapes_root), None
    )
    with parts.optimizer.optim_context(parts.model):
        found = parts.model.backbone(torch.zeros(1, 3, 32, 32))[0]
    if not torch.cuda.is_available():
        assert found.dtype == torch.bfloat16
        last = torch.channels_last
        weights = [w for w in parts.model.parameters() if w.ndim == 4 and min(w.shape[1:]) > 1]
        assert weights
        assert all(w.is_contiguous(memory_format=last) for w in weights)
        assert found.is_contiguous(memory_format=last), "and what they make"


# The recipes as they were resolved when this was written

GOLDEN = {
    ("tiny", "segformer_64", "paper"): "06079224bf7def95",
    ("mobilenet_v2", "segformer_128", "parametric"): "32d8b58005f94666",
    ("mit_b0", "segformer_256", "released"): "8d53d174eca77278",
    ("mobilenet_v2", "upernet", "paper"): "8a0607534454fe67",
    ("mobilenet_v2", "fcn", "paper"): "23a8623ab53eb9bb",
}
MOVED = (
    "The config of {} is no longer the one that existing records were trained with. If mmseg was "
    "updated: compare its recipe with the old one (git diff of the two releases' configs); where "
    "the change matters, raise METHOD_VERSION in protoseg/config/schema.py, so that old records "
    "are not taken for new ones. If protoseg changed it, ask the same question. Then pin {}."
)


@pytest.mark.install
@pytest.mark.parametrize(("options", "pinned"), GOLDEN.items(), ids="-".join)
def test_resolved_recipes_are_the_ones_records_were_trained_with(
    options: tuple[str, str, str], pinned: str
) -> None:
    backbone, decoder, method = options
    config = config_of(f"backbone={backbone}", f"decoder={decoder}", f"method={method}").to_dict()
    for loader in ("train_dataloader", "test_dataloader"):
        # Of the data: how it is read, not which it is.
        del config[loader]["dataset"]["root"], config[loader]["dataset"]["dataset"]
    text = json.dumps(config, sort_keys=True)
    found = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert found == pinned, MOVED.format(" × ".join(options), found)


# Mistakes


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
def test_a_mistake_is_one_clear_sentence(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as error:
        config_of(*overrides)
    assert "\n" not in str(error.value)


def test_a_batch_that_can_not_be_shared_out() -> None:
    with pytest.raises(UsageError, match=r"batch_size: 4 images can not be shared evenly by 3 p"):
        build_config(small_spec(), data_root=ROOT, world_size=3)
    shared = build_config(small_spec(), data_root=ROOT, world_size=2)
    assert shared.train_dataloader.batch_size == 2
    assert shared.train_dataloader.sampler.batch_size == 4


@pytest.mark.parametrize(("reduce_zero_label", "most"), [(False, 255), (True, 254)])
def test_more_classes_than_labels_of_8_bits(reduce_zero_label: bool, most: int) -> None:
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
    assert set(values(wide.to_dict(), "ignore_index")) == {65535}
    assert wide.model.data_preprocessor.seg_pad_val == 65535
    assert set(values(config(most).to_dict(), "ignore_index")) == {255}


@pytest.mark.parametrize(
    "override",
    [
        "+decoder.settings.chanels=3",
        "+decoder.settings.type=SegmenterMaskTransformerHead",
        "+backbone.settings.depth=3",
        "+decoder.settings.type=NoSuchHead",
    ],
)
def test_settings_that_mmseg_refuses(override: str, shapes_root: Path) -> None:
    config = build_config(small_spec(override), data_root=shapes_root)
    with pytest.raises(UsageError, match="model: mmseg can not build it: ") as error:
        build_components(config, None)
    assert "\n" not in str(error.value)


def test_recipes_are_the_ones_that_mmseg_ships() -> None:
    assert (RECIPES / SEGFORMER).is_file()
    assert len(list(RECIPES.glob("*/*.py"))) > 500
