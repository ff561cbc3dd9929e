"""Backbones of timm: feature maps, parameters, images and weights are those of timm."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from protoseg import files
from protoseg.errors import DataError, UsageError
from protoseg.runs.folder import RunFolder
from protoseg.training.builders.config import build_model
from protoseg.training.builders.parameter_counts import count_spec_parameters
from protoseg.training.weights.load import find_weights, load_weights
from training.resumed import check_resume
from training.small import compose, record_of, small_spec

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("timm", "torchvision"))), reason="needs the extra [timm]"
)
NAME = "test_resnet.r160_in1k"
"""A network of timm with 0.5 M parameters."""
SMALL = ("backbone=timm", f"backbone.name={NAME}", "backbone.weights=")
MODELS = (
    *("resnet18", "efficientnet_b0", "test_convnext"),
    pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow),  # (B, H, W, C) in timm
)


@pytest.fixture(scope="module")
def timm() -> Any:
    from protoseg.models.timm_backbone import import_timm

    return import_timm()


def build_backbone(*overrides: str) -> Any:
    from protoseg.models.timm_backbone import TimmBackbone

    arguments = dict(build_model(compose(*SMALL, *overrides))["backbone"])
    assert arguments.pop("type") == "TimmBackbone"
    return TimmBackbone(**arguments).eval()


@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_maps_are_those_of_timm(timm: Any, name: str) -> None:
    spec = compose("backbone=timm", f"backbone.name={name}", "method.num_prototypes=2")
    reference = timm.create_model(name, features_only=True).eval()
    expected = sum(p.numel() for p in reference.parameters())
    assert count_spec_parameters(spec).backbone == expected
    backbone = build_backbone(f"backbone.name={name}")
    backbone.model.load_state_dict(reference.state_dict())
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        maps, expected_maps = backbone(images), reference(images)[-4:]
    for number, (actual, value) in enumerate(zip(maps, expected_maps, strict=True)):
        value = value.permute(0, 3, 1, 2) if name.startswith("swin") else value
        assert torch.equal(actual, value)
        assert actual.shape[1] == backbone.channels[number]
        assert 224 // actual.shape[2] == backbone.strides[number] == 4 * 2**number


def test_a_whole_model_has_only_the_classifier_more(timm: Any) -> None:
    whole = timm.create_model("resnet50")
    spec = compose("backbone=timm", "backbone.name=resnet50.a1_in1k", "method.num_prototypes=2")
    classifier = sum(p.numel() for p in whole.get_classifier().parameters())
    total = sum(p.numel() for p in whole.parameters())
    assert count_spec_parameters(spec).backbone == total - classifier == 23508032


def test_images_are_normalised_as_for_the_weights() -> None:
    half = compose("backbone=timm", "backbone.name=vit_tiny_patch16_224", "decoder.in_index=[0,2]")
    model = build_model(half)
    images = model["data_preprocessor"]
    assert images["mean"] == images["std"] == [127.5] * 3
    assert model["decode_head"]["decode_head"]["in_channels"] == [192, 192]
    imagenet = build_model(compose("backbone=timm"))["data_preprocessor"]
    assert imagenet["mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert imagenet["bgr_to_rgb"]


def test_out_indices_choose_the_maps(timm: Any) -> None:
    chosen = ("+backbone.settings.out_indices=[1,3]", "decoder.in_index=[0,1]")
    backbone = build_backbone(*chosen)
    reference = timm.create_model(NAME, features_only=True, out_indices=(1, 3))
    assert backbone.channels == tuple(reference.feature_info.channels())
    assert len(backbone(torch.zeros(1, 3, 64, 64))) == 2


BAD = {
    "mistyped": (("backbone.name=resnt50",), r"no model 'resnt50'\. Did you mean 'resnet50'\?"),
    "tag": (("backbone.name=resnet50.a1_in2k",), r"no weights 'a1_in2k' of .*'resnet50\.a1_in1k'"),
    "no maps": (("backbone.name=without_maps",), "without_maps with feature maps .features_only"),
    "setting": (("+backbone.settings.wrong=1",), "unexpected keyword argument 'wrong'"),
    "file": (("+backbone.settings.checkpoint_path=x",), r"names\. Remove it, and set backbone\.we"),
    "index": (("decoder.in_index=[0,4]",), "expected feature maps 0 to 3 of test_resnet"),
    "channels": (("backbone.channels=[1,2]",), r"maps of test_.* Set backbone\.channels=\[\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_model_is_one_sentence(timm: Any, case: str) -> None:
    def without_maps(pretrained: bool = False, **settings: Any) -> torch.nn.Module:
        raise RuntimeError("features_only not implemented for this network.")

    without_maps.__module__ = __name__
    if not timm.is_model("without_maps"):
        timm.models.register_model(without_maps)
    overrides, pattern = BAD[case]
    with pytest.raises(UsageError, match=pattern) as error:
        build_model(compose(*SMALL, *overrides))
    assert "\n" not in str(error.value)


@pytest.fixture
def weights(timm: Any, tmp_path: Path) -> Path:
    """Weights of the whole network, as in the hub."""
    from safetensors.torch import save_file

    model = timm.create_model(NAME)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.normal_().abs_()  # also the statistics of norms
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_a_file_are_loaded_completely(timm: Any, weights: Path, suffix: str) -> None:
    from safetensors.torch import load_file

    state = load_file(weights)
    path = weights.with_suffix(suffix)
    if suffix == ".pth":
        torch.save({"state_dict": state}, path)
    backbone = build_backbone()
    load_weights(backbone, path)
    whole = timm.create_model(NAME).eval()
    whole.load_state_dict(state)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = whole.forward_intermediates(images, intermediates_only=True)
        actual = backbone(images)
    for one, other in zip(actual, expected[-4:], strict=True):
        torch.testing.assert_close(one, other)


def test_weights_that_do_not_fit_are_counted(timm: Any, weights: Path) -> None:
    from safetensors.torch import load_file

    state = load_file(weights)
    lacking = {k: v for k, v in state.items() if not k.startswith("layer4")}
    torch.save(lacking, weights.with_suffix(".pth"))
    number = len([k for k in state.keys() - lacking if not k.endswith("num_batches_tracked")])
    missing = f"{number} of its entries are missing, the first is layer4"
    with pytest.raises(DataError, match=missing):
        load_weights(build_backbone(), weights.with_suffix(".pth"))
    wide = {k: v.repeat(2, *[1] * (v.dim() - 1)) if v.dim() else v for k, v in state.items()}
    torch.save(wide, weights.with_suffix(".pth"))
    with pytest.raises(DataError, match=r"size mismatch for conv1.*, and \d+ more\. Use") as error:
        load_weights(build_backbone(), weights.with_suffix(".pth"))
    assert "\n" not in str(error.value)
    weights.with_suffix(".pth").write_bytes(b"no weights")
    with pytest.raises(DataError, match="do not fit test_resnet"):
        load_weights(build_backbone(), weights.with_suffix(".pth"))


def test_weights_of_the_hub_come_from_its_cache(
    timm: Any, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    spec = compose("backbone=timm", f"backbone.name={NAME}")
    with pytest.raises(DataError, match=rf"not in the hub's cache .*hf download timm/{NAME} model"):
        find_weights(spec.backbone, tmp_path)
    repository = tmp_path / "hub" / f"models--timm--{NAME}"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    shutil.copy(weights, snapshot / "model.safetensors")
    assert find_weights(spec.backbone, tmp_path) == snapshot / "model.safetensors"
    pinned = compose("backbone=timm", f"backbone.name={NAME}", "backbone.weights_sha256=ab")
    with pytest.raises(DataError, match="not the weights that backbone"):
        find_weights(pinned.backbone, tmp_path)


@pytest.mark.slow
def test_a_run_with_a_backbone_of_timm_resumes_with_the_same_bits(
    data: Path, weights: Path, tmp_path: Path
) -> None:
    (data / "weights").mkdir(exist_ok=True)
    shutil.copy(weights, data / "weights" / "timm.safetensors")
    changes = ("backbone.weights=timm.safetensors", "schedule.iterations=4")
    check_resume(small_spec(*SMALL[:2], *changes), data, tmp_path, 2)
    provenance = record_of(RunFolder(next(tmp_path.glob("whole/*"))))["provenance"]
    assert provenance["weights_sha256"] == files.file_digest(weights)
    assert provenance["packages"]["timm"]
