"""Pre-trained weights: find the file of the spec, and load it completely or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from mmseg.models.backbones import SwinTransformer
from mmseg.registry import MODELS

from protoseg.config.schema import BackboneSpec
from protoseg.errors import DataError
from protoseg.models import TinyNet
from protoseg.training.builders.components import build_components
from protoseg.training.builders.config import build_config
from protoseg.training.weights.load import find_weights, load_weights
from training.small import compose, small_spec

CHANNELS = (4, 5, 6, 7)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def source() -> TinyNet:
    net = TinyNet(channels=CHANNELS)
    for value in net.state_dict().values():
        if value.is_floating_point():
            torch.nn.init.normal_(value)
    return net


@pytest.fixture
def file(source: TinyNet, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.pth"
    torch.save(source.state_dict(), path)
    return path


def spec(file: Path, digest: str = "") -> BackboneSpec:
    return BackboneSpec(
        name="tiny", recipe="", channels=CHANNELS, weights=file.name, weights_sha256=digest
    )


def test_a_backbone_without_weights_needs_no_file() -> None:
    assert find_weights(BackboneSpec("tiny", "", CHANNELS), Path("nowhere")) is None


def test_a_file_with_the_expected_digest_is_found(file: Path) -> None:
    assert find_weights(spec(file, sha256(file)), file.parent) == file
    assert find_weights(spec(file, sha256(file)[:8]), file.parent) == file
    assert find_weights(spec(file), file.parent) == file, "without a digest any content is accepted"


def test_a_missing_file_is_one_error_message(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"gone\.pth: the weights of backbone tiny are missing"
    ) as error:
        find_weights(spec(tmp_path / "gone.pth"), tmp_path)
    assert "--weights" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_with_another_digest_is_refused(file: Path) -> None:
    with pytest.raises(DataError, match=r"tiny\.pth: not the weights that backbone tiny") as error:
        find_weights(spec(file, "0" * 64), file.parent)
    assert sha256(file) in str(error.value)
    assert "0" * 64 in str(error.value)


@pytest.mark.parametrize("form", ["plain", "state_dict", "model", "backbone.", "with classifier"])
def test_matching_weights_are_loaded_completely(form: str, source: TinyNet, file: Path) -> None:
    state = source.state_dict()
    if form in ("state_dict", "model"):
        state = {"meta": {"epoch": 3}, form: state}
    elif form == "backbone.":
        state = {f"backbone.{key}": value for key, value in state.items()}
        state["decode_head.conv.weight"] = torch.zeros(3)
    elif form == "with classifier":
        state = {**state, "fc.weight": torch.zeros(10, 7)}
    torch.save(state, file)
    target = TinyNet(channels=CHANNELS)
    load_weights(target, file)
    for key, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[key]), key


def test_batch_counters_may_be_missing(source: TinyNet, file: Path) -> None:
    state = {k: v for k, v in source.state_dict().items() if "num_batches" not in k}
    torch.save(state, file)
    target = TinyNet(channels=CHANNELS)
    load_weights(target, file)
    assert torch.equal(target.stages[0][0].weight, source.stages[0][0].weight)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("missing", r"stages\.1\.0\.weight is missing"),
        ("shape", r"stages\.1\.0\.weight is \(1, 2, 3\), expected \(5, 4, 3, 3\)"),
        ("statistic", r"stages\.0\.1\.running_mean is missing"),
        ("no tensor", r"stages\.1\.0\.weight is not a tensor"),
        ("foreign", r"stages\.0\.0\.weight is missing, and \d+ more"),
        ("empty", r"stages\.0\.0\.weight is missing, and \d+ more"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    change: str, problem: str, source: TinyNet, file: Path
) -> None:
    state = dict(source.state_dict())
    match change:
        case "missing":
            del state["stages.1.0.weight"]
        case "shape":
            state["stages.1.0.weight"] = torch.zeros(1, 2, 3)
        case "statistic":
            del state["stages.0.1.running_mean"]
        case "no tensor":
            state["stages.1.0.weight"] = 3
        case "foreign":
            state = {"conv1.weight": torch.zeros(3)}
        case "empty":
            state = {}
    torch.save(state, file)
    target = TinyNet(channels=CHANNELS)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(DataError, match=rf"tiny\.pth: .*TinyNet: {problem}") as error:
        load_weights(target, file)
    assert "\n" not in str(error.value)
    for key, value in target.state_dict().items():
        assert torch.equal(value, before[key]), "no tensor is loaded unless all fit"


@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint at all", b"PK\x03\x04 torn zip", "a list", "code"],
    ids=["empty", "text", "torn", "list", "pickle"],
)
def test_a_file_without_weights_is_refused(content: bytes | str, file: Path) -> None:
    if content == "a list":
        torch.save([1, 2, 3], file)
    elif content == "code":
        torch.save({"run": Path("x")}, file)
    else:
        file.write_bytes(content)
    with pytest.raises(DataError, match=r"tiny\.pth: ") as error:
        load_weights(TinyNet(channels=CHANNELS), file)
    assert "\n" not in str(error.value)


def test_a_truncated_file_is_refused(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"tiny\.pth: not a file of torch weights"):
        load_weights(TinyNet(channels=CHANNELS), file)


def test_a_runs_model_gets_the_weights(shapes_root: Path, tmp_path: Path) -> None:
    source = TinyNet()
    torch.nn.init.constant_(source.stages[0][0].weight, 0.123)
    path = tmp_path / "w.pth"
    torch.save(source.state_dict(), path)
    parts = build_components(build_config(small_spec(), data_root=shapes_root), path)
    for key, value in parts.module.backbone.state_dict().items():
        assert torch.equal(value.cpu(), source.state_dict()[key]), key


def test_mobilenets_imagenet_weights_are_loaded(test_weights: Path) -> None:
    """The real file: digest pinned in experiments/, all keys, trained filters."""
    backbone = compose("backbone=mobilenet_v2").backbone
    path = find_weights(backbone, test_weights)
    assert path is not None
    config = build_config(compose("backbone=mobilenet_v2"), data_root=Path("x"))
    model = MODELS.build(config.model).backbone
    load_weights(model, path)
    filters = model.conv1.conv.weight
    assert filters.abs().max() > 0.5, "trained filters, not initial values"
    with pytest.raises(DataError, match="not the weights that backbone mobilenet_v2 names"):
        find_weights(dataclasses.replace(backbone, weights_sha256="f" * 64), test_weights)
    with pytest.raises(DataError, match="do not fit the backbone TinyNet"):
        load_weights(TinyNet(), path)


# Swin


def small_swin() -> SwinTransformer:
    """Two stages with windows of 4 and random parameters."""
    net = SwinTransformer(
        pretrain_img_size=32, embed_dims=8, depths=(2, 2), num_heads=(1, 2), window_size=4,
        strides=(4, 2), out_indices=(0, 1),
    )  # fmt: skip
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    return net


def authors_merge(x: torch.Tensor) -> torch.Tensor:
    """Merge 2×2 patches as the authors do, column by column: (H, W, C) to (H/2, W/2, 4C)."""
    corners = [x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]]
    return torch.cat(corners, -1)


def authors_file(net: SwinTransformer) -> dict[str, torch.Tensor]:
    """The weights of ``net`` with the names and the channel order of the authors."""
    # Merge a patch that holds its indices, to get the position of each channel.
    channels = 8
    merged = authors_merge(torch.arange(4 * channels).reshape(2, 2, channels)).flatten()
    planes = torch.arange(4.0 * channels).reshape(2, 2, channels).permute(2, 0, 1)
    unfolded = torch.nn.functional.unfold(planes[None], 2, stride=2).flatten().long()
    position = {int(number): i for i, number in enumerate(unfolded)}
    to_authors_order = torch.tensor([position[int(number)] for number in merged])
    weights = {}
    for name, value in net.state_dict().items():
        if name.split(".")[0] in ("norm0", "norm1"):
            continue
        if ".downsample." in name:
            value = value[..., to_authors_order]
        for mmseg_name, authors_name in (
            ("stages.", "layers."),
            ("patch_embed.projection", "patch_embed.proj"),
            ("attn.w_msa", "attn"),
            ("ffn.layers.0.0", "mlp.fc1"),
            ("ffn.layers.1", "mlp.fc2"),
        ):
            name = name.replace(mmseg_name, authors_name)
        weights[name] = value
    return {**weights, "norm.weight": torch.ones(16), "head.weight": torch.zeros(1000, 16)}


@pytest.mark.parametrize("form", ["authors", "authors, nested", "mmseg", "mmseg without indices"])
def test_swins_weights_load_in_either_form(form: str, tmp_path: Path) -> None:
    source = small_swin()
    state: dict[str, Any] = source.state_dict()
    if form.startswith("authors"):
        state = authors_file(source)
        assert "layers.0.blocks.1.mlp.fc1.weight" in state
    else:
        state = {k: v for k, v in state.items() if not k.startswith(("norm0", "norm1"))}
    if form == "mmseg without indices":
        state = {k: v for k, v in state.items() if "relative_position_index" not in k}
    path = tmp_path / "swin.pth"
    torch.save({"model": state} if form == "authors, nested" else state, path)
    target = small_swin()
    load_weights(target, path)
    for key, value in target.state_dict().items():
        if not key.startswith(("norm0", "norm1")):
            assert torch.equal(value, source.state_dict()[key]), key


def test_swins_patch_merging_equals_that_of_the_authors(tmp_path: Path) -> None:
    """The authors' weights give equal results with their formula and with mmseg's layer."""
    torch.save(authors_file(small_swin()), tmp_path / "swin.pth")
    state = torch.load(tmp_path / "swin.pth", weights_only=True)
    target = small_swin()
    load_weights(target, tmp_path / "swin.pth")
    patches = torch.randn(4, 6, 8)
    merged = torch.nn.functional.layer_norm(
        authors_merge(patches),
        (32,),
        state["layers.0.downsample.norm.weight"],
        state["layers.0.downsample.norm.bias"],
    )
    expected = merged @ state["layers.0.downsample.reduction.weight"].T
    actual, size = target.stages[0].downsample(patches.reshape(1, 24, 8), (4, 6))
    assert tuple(size) == (2, 3)
    assert torch.allclose(actual[0], expected.reshape(6, 16), atol=1e-5)


@pytest.mark.parametrize(
    ("missing", "problem"),
    [
        ("layers.1.blocks.0.attn.qkv.weight", r"stages\.1\.blocks\.0\.attn\.w_msa\.qkv\.weight is"),
        ("layers.0.downsample.norm.bias", r"stages\.0\.downsample\.norm\.bias is missing"),
    ],
)
def test_other_missing_swin_weights_are_refused(missing: str, problem: str, tmp_path: Path) -> None:
    state = authors_file(small_swin())
    del state[missing]
    torch.save(state, tmp_path / "swin.pth")
    with pytest.raises(DataError, match=problem):
        load_weights(small_swin(), tmp_path / "swin.pth")


def test_swin_weights_of_another_window_size_are_refused(tmp_path: Path) -> None:
    torch.save(authors_file(small_swin()), tmp_path / "swin.pth")
    other = SwinTransformer(
        embed_dims=8, depths=(2, 2), num_heads=(1, 2), window_size=7, strides=(4, 2),
        out_indices=(0, 1),
    )  # fmt: skip
    with pytest.raises(DataError, match=r"relative_position_bias_table is \(49, 1\), expected"):
        load_weights(other, tmp_path / "swin.pth")


def test_a_missing_norm_of_another_backbone_is_refused(source: TinyNet, tmp_path: Path) -> None:
    source.norm0 = torch.nn.LayerNorm(3)
    torch.save({k: v for k, v in source.state_dict().items() if "norm0" not in k}, tmp_path / "w")
    with pytest.raises(DataError, match=r"norm0\.weight is missing"):
        load_weights(source, tmp_path / "w")
