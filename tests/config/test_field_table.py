"""One table of all fields of a run: each has another value that must give the run another id.

A new field without a row fails. What the resolved model, optimiser, pipelines and evaluation have
beyond the fields comes from recipes, whose values are part of the id too, and from the code.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protoseg.config.compose import Composer
from protoseg.config.fields import field_types, to_plain
from protoseg.config.hierarchy.methods import HierarchicalMethod
from protoseg.config.holdout.settings import HoldoutSpec
from protoseg.config.hydra.hydra_schemas import config_groups
from protoseg.config.identity import canonical_json, read_spec, run_id, spec_digest
from protoseg.config.methods import ContrastSpec, MethodSpec
from protoseg.config.overrides import parse_overrides
from protoseg.config.recipes import locked
from protoseg.config.recipes.sections import SECTIONS, list_leaves
from protoseg.config.schema import RunSpec

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
BASE = {
    "class_weights": "dataset",
    "init_from": "x.pth",
    "dataset": {"class_weights": [1.0, 1.0, 1.0, 1.0, 1.0, 2.0]},
    "backbone": {"weights": "w.pth", "weights_sha256": "a7"},
    "contrast": to_plain(ContrastSpec(weight=0.5)),
    "evaluation": {"holdout": to_plain(HoldoutSpec(list="held.txt", list_sha256="d0"))},
}
"""Values with which every field is used: class weights, a file of weights, pixel contrast, and the
digest of the list of a holdout."""
RUN = {
    "precision": "bf16",
    "seed": 1,
    "determinism": "bitwise",
    "class_weights": "none",
    "plugin_version": 2,
    "recipes": {"schedule": {"optim_wrapper": {"clip_grad": {"max_norm": 1.0}}}},
    "method_version": 99,
    "backbone.name": "other",
    "backbone.recipe": "resnet/other.py",
    "backbone.channels": [8, 16, 24, 33],
    "backbone.weights": "x.pth",
    "backbone.weights_sha256": "b8",
    "backbone.settings": {"extra": 1},
    "decoder.name": "other",
    "decoder.recipe": "fcn/other.py",
    "decoder.channels": 65,
    "decoder.in_index": [1, 2, 3],
    "decoder.dropout": 0.2,
    "decoder.auxiliary": True,
    "decoder.settings": {"extra": 1},
    "decoder.align_corners": True,
    "dataset.name": "other",
    "dataset.digest": "0" * 64,
    "dataset.classes": ["a", "b", "c", "d", "e", "f"],
    "dataset.images": "x/{split}",
    "dataset.annotations": "y/{split}",
    "dataset.image_suffix": ".tif",
    "dataset.annotation_suffix": ".bmp",
    "dataset.ignore_index": 254,
    "dataset.reduce_zero_label": True,
    "dataset.train_split": "training",
    "dataset.counts": {"train": 1},
    "dataset.hierarchy": [["a", name] for name in "uvwxyz"],
    "dataset.generator": {"name": "shapes", "seed": 1},
    "dataset.folder": "elsewhere",
    "dataset.labels": [0, 1, 2, 3, 4, 7],
    "dataset.label_count": 9,
    "dataset.image_labels": "{class}.txt",
    "dataset.image_label_share": 0.1,
    "dataset.ignore": [254],
    "dataset.palette": {"circle": [255, 0, 0]},
    "dataset.split_files": {"train": "train.txt"},
    "dataset.image_suffixes": [".jpg", ".png"],
    "dataset.annotation_suffixes": [".png", ".tif"],
    "dataset.flip_pairs": [["disk", "box"]],
    "dataset.class_weights": [1.0, 1.0, 1.0, 1.0, 1.0, 3.0],
    "augmentation.scale": [60, 61],
    "augmentation.crop_size": [60, 61],
    "augmentation.ratio_range": [0.5, 1.5],
    "augmentation.cat_max_ratio": 0.8,
    "augmentation.flip": 0.4,
    "augmentation.photometric": True,
    "schedule.recipe": "fcn/other.py",
    "schedule.iterations": 7,
    "schedule.batch_size": 3,
    "schedule.optimizer": "SGD",
    "schedule.learning_rate": 1e-5,
    "schedule.weight_decay": 0.02,
    "schedule.power": 0.9,
    "schedule.min_lr": 1e-6,
    "schedule.warmup_iterations": 2,
    "schedule.head_lr_mult": 10.0,
    "schedule.norm_decay": "never",
    "schedule.stop_after": 3,
    "schedule.clip_grad": {"max_norm": 1.0},
    "schedule.accumulative_counts": 2,
    "schedule.param_scheduler": "CosineAnnealingLR",
    "schedule.milestones": [2],
    "schedule.gamma": 0.5,
    "schedule.optimizer_settings": {"betas": [0.9, 0.99]},
    "schedule.frozen": ["backbone"],
    "augmentation.pipeline": [{"type": "RandomFlip", "prob": 0.3}],
    "init_from": "y.pth",
    "init_from_sha256": "b7",
    "init_from_skip": ["decode_head.bank"],
    "schedule.ema": {"momentum": 0.1},
    "schedule.ema.momentum": 0.1,
    "schedule.ema.interval": 2,
    "schedule.ema.begin_iter": 2,
    "evaluation.split": "test",
    "evaluation.mode": "slide",
    "evaluation.scale": [60, 61],
    "evaluation.crop_size": [60, 61],
    "evaluation.stride": [30, 31],
    "evaluation.holdout": {"share": 0.2, "blocks": 3},
    "evaluation.holdout.share": 0.3,
    "evaluation.holdout.blocks": 4,
    "evaluation.holdout.gap": 1,
    "evaluation.holdout.pattern": "(a)",
    "evaluation.holdout.list": "other.txt",
    "evaluation.holdout.list_sha256": "c9",
    "evaluation.holdout.seed": 1,
    "evaluation.every": 3,
    "contrast.weight": 0.4,
    "contrast.channels": 128,
    "contrast.temperature": 0.2,
    "contrast.anchors": 10,
    "contrast.positives": 10,
    "contrast.negatives": 10,
    "contrast.selection": "random",
    "contrast.pixel_queue": 10,
    "contrast.region_queue": 10,
    "contrast.pixels_per_image": 5,
    "contrast.memory_contrast": "all",
    "contrast.memory_start": "random",
    "contrast.warmup_iterations": 5,
    "contrast.anchor_sampling": "per_pair",
    "contrast.max_views": 5,
    "contrast.sample_gradient": True,
    "contrast.base_temperature": 0.07,
    "contrast.projection_input": "backbone",
    "contrast.slips": ["pointer_by_one"],
}
METHODS: dict[str, dict[str, Any]] = {
    "parametric": {"num_prototypes": 2},
    "pixel_query": {"num_prototypes": 2, "temperature": 0.1, "learnable_temperature": True},
    "query_decoder": {"num_prototypes": 2},
    "prototype": {
        "num_prototypes": 3,
        "momentum": 0.9,
        "distance": "huber",
        "huber_delta": 0.2,
        "kappa": 0.1,
        "sinkhorn_iterations": 4,
        "assignment": "gumbel",
        "update_pixels": "correct",
        "ce_weight": 0.5,
        "ppc_weight": 0.02,
        "ppd_weight": 0.02,
        "temperature": 0.2,
        "score_temperature": 0.1,
        "score_norm": "layer",
        "projection": "released",
        "embedding_norm": "layer",
        "init": "pixels",
        "init_std": 0.03,
        "init_bounds": "two",
        "distributed": "averaged",
        "loss_reduction": "per_process_mean",
    },
    "hierarchical": {
        "tree_loss": "tree_min",
        "tree_weight": 5.0,
        "focal_gamma": 1.0,
        "ce_weight": 1.0,
        "rmi_weight": 0.25,
        "triplet_weight": 0.0,
        "triplet_margin": 0.2,
        "triplet_tree_margin": 0.5,
        "triplet_samples": 100,
        "triplet_sampling": "raster",
        "triplet_channels": 64,
        "inference": "leaf",
        "void": "class_zero",
    },
    "weak_contrast": {
        "second_view": False,
        "view_scale": 0.6,
        "cross_prototype": False,
        "cross_cam": False,
        "intra": False,
        "prototype_mining": False,
        "pixel_sampling": False,
        "cross_weight": 0.1,
        "intra_weight": 0.1,
        "top_pixels": 16,
        "hardest": 0.5,
        "drawn": 0.6,
        "temperature": 0.2,
        "channels": 64,
        "unit_prototypes": False,
        "threshold": 0.3,
        "scales": [1.0],
        "flip": False,
        "prototype_features": "raw",
        "prototype_images": "all",
        "mining_rule": "by_rank",
        "sampling_rule": "after_hardest",
        "intra_mean": "classes",
        "projection_bias": False,
    },
}
METHODS["prototype_hierarchical"] = {**METHODS["prototype"], "level_weight": 0.5}


def list_fields() -> Iterator[str]:
    """Yield the dotted name of every field of a run, except those of the method."""
    groups = config_groups()
    for name in field_types(RunSpec):
        if name not in groups:
            yield name
        elif groups[name] is not MethodSpec:
            yield from list_keys(name, groups[name])


def list_keys(prefix: str, cls: Any) -> Iterator[str]:
    """Yield the dotted names of the fields of a part of a run, and those of its parts."""
    for name, field_type in field_types(cls).items():
        yield f"{prefix}.{name}"
        if dataclasses.is_dataclass(field_type):
            yield from list_keys(f"{prefix}.{name}", field_type)


@pytest.fixture(scope="module")
def base() -> dict[str, Any]:
    """A spec as plain data, in which every field is used."""
    settings = [s for _, several in parse_overrides(("method=parametric",)) for s in several]
    data: dict[str, Any] = to_plain(Composer(EXPERIMENTS).spec(settings, "test"))
    for key, value in BASE.items():
        data[key] = {**data[key], **value} if isinstance(value, dict) else value
    return data


def replace_value(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(data)
    *groups, name = path.split(".")
    node = changed
    for group in groups:
        node = node[group]
    assert node[name] != value, f"{path}: the row must have another value than {value!r}"
    node[name] = value
    return changed


def test_every_field_has_a_row() -> None:
    assert set(RUN) == set(list_fields())
    for name, variant in MethodSpec.variants.items():
        if "." not in name:  # methods of other packages
            assert {"kind", *METHODS[name]} == {field.name for field in dataclasses.fields(variant)}


@pytest.mark.parametrize("path", RUN)
def test_another_value_gives_another_id(base: dict[str, Any], path: str) -> None:
    if path == "dataset.hierarchy":  # used by some methods only
        base = {**base, "method": to_plain(HierarchicalMethod())}
    before = read_spec(base, "test")
    after = read_spec(replace_value(base, path, RUN[path]), "test")
    assert spec_digest(after) != spec_digest(before)
    assert run_id(after) != run_id(before)


@pytest.mark.parametrize(
    "path", [f"{method}.{name}" for method in METHODS for name in METHODS[method]]
)
def test_another_value_of_a_method_gives_another_id(base: dict[str, Any], path: str) -> None:
    method, _, name = path.partition(".")
    data = {**base, "method": to_plain(MethodSpec.variants[method]())}
    before = read_spec(data, "test")
    after = read_spec(replace_value(data, f"method.{name}", METHODS[method][name]), "test")
    assert spec_digest(after) != spec_digest(before)
    assert before.method.kind == after.method.kind == method


@pytest.mark.parametrize("role", SECTIONS)
def test_another_value_of_a_recipe_gives_another_id(base: dict[str, Any], role: str) -> None:
    """Every leaf that a run takes from its recipe: model, optimiser wrapper, normalisation."""
    values = locked.read_sections(role, base[role]["recipe"])
    digests = set()
    leaves = list(list_leaves(values, ""))
    for path, _ in leaves:
        changed = copy.deepcopy(values)
        node: Any = changed
        *parents, name = path.split(".")
        for parent in parents:
            node = node[parent]
        node[name] = "another value"
        digests.add(spec_digest(read_spec({**base, "recipes": {role: changed}}, "test")))
    assert len(digests) == len(leaves) > 3


def test_the_order_of_keys_and_the_form_of_numbers_give_the_same_id(base: dict[str, Any]) -> None:
    def reverse(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: reverse(item) for key, item in reversed(value.items())}
        return value

    same = json.loads(json.dumps(reverse(base)))
    same["schedule"]["head_lr_mult"] = 1  # not 1.0
    assert canonical_json(read_spec(same, "test")) == canonical_json(read_spec(base, "test"))
