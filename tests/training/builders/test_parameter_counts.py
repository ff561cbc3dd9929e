"""Parameter counts of mmseg's models, of the published tables, and of ProtoSeg."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from protoseg.cli.published_counts import PublishedCounts, published_counts, with_classes
from protoseg.config.methods import PrototypeMethod
from protoseg.training.builders.components import build_components
from protoseg.training.builders.config import build_config, build_model
from protoseg.training.builders.parameter_counts import (
    build_without_memory,
    count_parameters,
    count_spec_parameters,
)
from protoseg.training.builders.recipe_files import load_recipe
from training.small import HIERARCHICAL, REPOSITORY, compose, composer, small_spec

PAIRS = {
    ("resnet101", "fcn_512"): "fcn/fcn_r101-d8_4xb4-160k_ade20k-512x512.py",
    ("hrnet_w48", "fcn_hr48"): "hrnet/fcn_hr48_4xb4-160k_ade20k-512x512.py",
    ("swin_base", "upernet_512"): (
        "swin/swin-base-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py"
    ),
    ("swin_base", "segformer_768"): "",
    ("mit_b0", "segformer_256"): "segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",
    ("mit_b2", "segformer_256"): "segformer/segformer_mit-b2_8xb2-160k_ade20k-512x512.py",
    ("mit_b2", "segformer_768"): "",
    ("mit_b4", "segformer_256"): "segformer/segformer_mit-b4_8xb2-160k_ade20k-512x512.py",
    ("mit_b4", "segformer_768"): "",
    ("mit_b5", "segformer_256"): "segformer/segformer_mit-b5_8xb2-160k_ade20k-512x512.py",
    ("mit_b5", "segformer_768"): "",
    ("mobilenet_v2_d8", "fcn_512"): "mobilenet_v2/mobilenet-v2-d8_fcn_4xb4-160k_ade20k-512x512.py",
    ("mobilenet_v2_d8", "pspnet"): (
        "mobilenet_v2/mobilenet-v2-d8_pspnet_4xb4-160k_ade20k-512x512.py"
    ),
    ("mobilenet_v2_d8", "deeplabv3plus"): (
        "mobilenet_v2/mobilenet-v2-d8_deeplabv3plus_4xb4-160k_ade20k-512x512.py"
    ),
    ("resnet101", "pspnet"): "pspnet/pspnet_r101-d8_4xb4-160k_ade20k-512x512.py",
    ("resnet101", "deeplabv3plus"): (
        "deeplabv3plus/deeplabv3plus_r101-d8_4xb4-160k_ade20k-512x512.py"
    ),
}
"""Backbone and decoder of each model of the paper -> mmseg's recipe for them, if any."""

WIDTHS = {"segformer_256": 256, "segformer_768": 768, "fcn_hr48": 720}
"""Channels before the classifier of a decoder; 512 for all others."""


def spec_of(backbone: str, decoder: str, *overrides: str, classes: int = 150) -> Any:
    spec = compose(f"backbone={backbone}", f"decoder={decoder}", *overrides)
    return with_classes(spec, classes)


def count_all(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def published() -> PublishedCounts:
    return published_counts(
        [REPOSITORY / "results" / "published"], composer(), count_spec_parameters, set()
    )


# Counts of models


@pytest.mark.parametrize("method", ["paper", "released", "parametric", "pixel_query", "contrast"])
def test_counts_on_the_meta_device_equal_those_of_a_real_model(
    method: str, shapes_root: Path
) -> None:
    contrast = ["contrast=pixel", "contrast.pixel_queue=2"] if method == "contrast" else []
    method = "parametric" if contrast else method
    options = ["backbone=mobilenet_v2_d8", "decoder=deeplabv3plus", f"method={method}", *contrast]
    options += ["~method.momentum"] if method in ("parametric", "pixel_query") else []
    spec = small_spec(*options)
    parts = build_components(build_config(spec, data_root=shapes_root), None)
    counts = count_spec_parameters(spec)
    assert counts.trained == count_all(parts.module)
    projection = parts.module.decode_head.contrast
    contrast_size = count_all(projection) if projection else 0
    assert (contrast_size > 0) == bool(contrast)
    assert counts.auxiliary == count_all(parts.module.auxiliary_head) + contrast_size > 0
    if not isinstance(spec.method, PrototypeMethod):
        assert counts.classifier == spec.method.classifier_parameters(6, spec.decoder.channels)
    assert counts.backbone == count_all(parts.module.backbone)
    recorded = count_parameters(parts)
    assert counts.learnable == recorded["learnable"]
    assert counts.prototype == recorded["prototype"]


def test_frozen_parameters_are_not_learnable() -> None:
    settings = "+decoder.settings.norm_cfg.requires_grad=false"
    assert (
        count_spec_parameters(compose(settings)).learnable
        < count_spec_parameters(compose()).learnable
    )


def test_counting_allocates_no_memory() -> None:
    model = build_model(spec_of("mit_b0", "segformer_256", "method=paper"))
    for part in ("backbone", "decode_head"):
        built = build_without_memory(model[part])
        assert {parameter.device.type for parameter in built.parameters()} == {"meta"}
    assert torch.zeros(1).device.type == "cpu", "outside the context tensors are on the CPU"


# Comparison with mmseg's recipes


@pytest.mark.parametrize(("pair", "name"), [(p, n) for p, n in PAIRS.items() if n])
def test_a_parametric_model_has_the_count_of_mmsegs_recipe(
    pair: tuple[str, str], name: str
) -> None:
    shipped = load_recipe(name).model
    shipped.pop("pretrained", None)
    shipped.backbone.pop("init_cfg", None)
    for head in ("decode_head", "auxiliary_head"):
        if head in shipped:  # as in our config; mmseg warns about its default
            shipped[head].loss_decode.avg_non_ignore = True
    parts = [shipped.backbone, shipped.decode_head, shipped.get("auxiliary_head")]
    expected = sum(count_all(build_without_memory(part.to_dict())) for part in parts if part)
    assert count_spec_parameters(spec_of(*pair, "method=parametric")).trained == expected


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_protoseg_only_lacks_the_classifier(pair: tuple[str, str]) -> None:
    width, classes = WIDTHS.get(pair[1], 512), 150
    parametric = count_spec_parameters(spec_of(*pair, "method=parametric", classes=classes))
    ten = count_spec_parameters(
        spec_of(*pair, "method=parametric", "method.num_prototypes=10", classes=classes)
    )
    paper = count_spec_parameters(spec_of(*pair, "method=paper", classes=classes))
    assert parametric.trained - paper.trained == classes * (width + 1)
    assert ten.trained - paper.trained == 10 * classes * (width + 1)
    assert (paper.classifier, paper.prototype) == (0, 10 * classes * width)
    assert paper.auxiliary == parametric.auxiliary, "the auxiliary head stays parametric"
    one = count_spec_parameters(
        spec_of(*pair, "method=paper", "method.num_prototypes=1", classes=classes)
    )
    assert one.trained == paper.trained, "prototypes are not learnable"


# Comparison with the counts printed in the paper


def test_every_printed_count_agrees_or_has_a_note(published: PublishedCounts) -> None:
    for row in published.rows:
        differs = False in (row.agrees, row.protoseg_agrees, row.brackets_agree)
        assert differs == bool(row.notes), (row.tables, row.method, row.num_classes)
    assert {note for row in published.rows for note in row.notes} == set(published.notes)


def test_the_printed_counts_that_agree(published: PublishedCounts) -> None:
    """Each model with 150 classes; notes explain Table 4 and the other data sets."""
    agreement = {
        (row.method, row.backbone): (row.agrees, row.protoseg_agrees)
        for row in published.rows
        if row.num_classes == 150 and "4" not in row.tables
    }
    assert agreement == {
        ("FCN", "ResNet-101"): (True, True),
        ("HRNet", "HRNetV2-W48"): (False, True),
        ("Swin", "Swin-Base"): (False, False),
        ("SegFormer", "MiT-B4"): (True, True),
        ("SegFormer", "MiT-B0"): (True, True),
        ("FCN", "MobileNet-V2"): (True, None),
        ("PSPNet", "MobileNet-V2"): (True, None),
        ("DeepLabV3+", "MobileNet-V2"): (False, None),
        ("DeepLabV3+", "ResNet-101"): (True, None),
        ("UperNet", "Swin-Base"): (False, None),
    }


def printed(size: float, decimals: int) -> str:
    return f"{size / 1e6:.{decimals}f}"


def test_note_one_count_a_model_for_all_data_sets(published: PublishedCounts) -> None:
    """FCN, SegFormer and DeepLabV3+ have the printed counts with 150 classes, HRNet with 19."""
    for backbone, decoder, classes, texts in [
        ("resnet101", "fcn_512", 150, ("68.6", "68.5")),
        ("mit_b4", "segformer_768", 150, ("64.1", "64.0")),
        ("mit_b5", "segformer_768", 150, ("84.7", "84.6")),
        ("resnet101", "deeplabv3plus", 150, ("62.7", None)),
        ("hrnet_w48", "fcn_hr48", 19, ("65.9", "65.8")),
    ]:
        parametric = count_spec_parameters(
            spec_of(backbone, decoder, "method=parametric", classes=classes)
        )
        paper = count_spec_parameters(spec_of(backbone, decoder, "method=paper", classes=classes))
        assert printed(parametric.trained, 1) == texts[0]
        assert texts[1] in (None, printed(paper.trained, 1))


def test_note_swin_without_its_position_biases() -> None:
    parametric = count_spec_parameters(spec_of("swin_base", "segformer_768", "method=parametric"))
    paper = count_spec_parameters(spec_of("swin_base", "segformer_768", "method=paper"))
    # 13 × 13 offsets in windows of 7, for each head of the 2 + 2 + 18 + 2 blocks.
    assert parametric.position_biases == 169 * (2 * 4 + 2 * 8 + 18 * 16 + 2 * 32) == 63_544
    assert printed(parametric.trained, 2) == "90.70"
    assert printed(parametric.trained - 63_544, 2) == "90.64"
    assert printed(paper.trained - 63_544, 2) == "90.52"
    upernet = count_spec_parameters(spec_of("swin_base", "upernet_512", "method=parametric"))
    assert printed(upernet.trained, 2) == "121.28"


def test_note_large_vocabulary(published: PublishedCounts) -> None:
    rows = [row for row in published.rows if row.tables == ("4",)]
    single = [row for row in rows if row.num_prototypes == 1]

    def agrees(extra: int) -> bool:
        totals = [
            (row.parametric.trained + extra * row.num_classes, row.published) for row in single
        ]
        totals += [(row.protoseg.trained + extra * 150, row.published_protoseg) for row in rows]
        return all(printed(total, 2) == f"{shown:.2f}" for total, shown in totals)

    assert [extra for extra in range(1000) if agrees(extra)] == list(range(125, 134))
    ten = {row.num_classes: row.published for row in rows if row.num_prototypes == 10}
    brackets = {150: 1.2, 300: 2.3, 500: 3.9, 700: 5.5, 847: 6.6}
    assert ten == {c: pytest.approx(27.36 + bracket) for c, bracket in brackets.items()}


def test_note_deeplab(published: PublishedCounts) -> None:
    row = next(r for r in published.rows if "deeplab" in r.notes)
    assert printed(row.parametric.trained, 3) == "15.345"
    model = build_model(spec_of("mobilenet_v2_d8", "deeplabv3plus", "method=parametric"))
    head = model["decode_head"]["decode_head"]
    wide = build_without_memory({**head, "c1_in_channels": 256})
    difference = count_all(wide) - count_all(build_without_memory(head))
    assert printed(row.parametric.trained + difference, 3) == "15.356"


def test_note_pspnet() -> None:
    counts = count_spec_parameters(spec_of("resnet101", "pspnet", "method=parametric", classes=19))
    assert (printed(counts.trained, 1), printed(counts.learnable, 1)) == ("68.0", "65.6")


def test_the_published_tables_hold_the_same_counts(published: PublishedCounts) -> None:
    for row in published.rows:
        for table in row.tables:
            path = REPOSITORY / "results" / "published" / f"paper_table{table}.yaml"
            rows = [
                other
                for other in yaml.safe_load(path.read_text())["rows"]
                if other.get("backbone", row.backbone) == row.backbone
                and other.get("num_classes", row.num_classes) == row.num_classes
            ]
            sizes = {float(other["params_m"]) for other in rows if other["params_m"]}
            assert {row.published, row.published_protoseg or row.published} <= sizes, table
            if row.published_brackets is not None:
                assert row.published_brackets in {other["classifier_m"] for other in rows}


def test_counting_does_not_change_the_spec() -> None:
    spec = small_spec()
    assert with_classes(spec, 847).dataset.ignore_index == 2**16 - 1
    assert dataclasses.replace(with_classes(spec, 6), dataset=spec.dataset) == spec


def test_the_embedding_of_triplets_is_training_only(shapes_root: Path) -> None:
    spec = small_spec(*HIERARCHICAL, "method.triplet_channels=7")
    parts = build_components(build_config(spec, data_root=shapes_root), None)
    head, counts = parts.module.decode_head, count_spec_parameters(spec)
    channels, last = spec.decoder.channels, spec.backbone.channels[3]
    assert counts.classifier == (6 + 3) * (channels + 1), "a score for each class and group"
    assert counts.auxiliary == count_all(head.embedding) == last**2 + 3 * last + 7 * (last + 1)
    assert counts.trained == count_all(parts.module)
    assert count_parameters(parts) == {"learnable": counts.learnable, "prototype": 0}
    parametric = small_spec("method=parametric", "~method.momentum", "method.num_prototypes=1")
    flat = count_spec_parameters(parametric)
    assert counts.learnable - flat.learnable == 3 * (channels + 1)
