"""Exported networks: mmseg's own inference gives the label maps of the evaluation."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmseg.apis import inference_model, init_model
from threads import one_thread  # noqa: F401  a fixture
from training.small import HIERARCHICAL, TREE, small_spec

from inference.finished import (
    change_record,
    make_finished_run,
    predict_evaluated_images,
)
from protoseg import files
from protoseg.cli import main
from protoseg.errors import ProtosegError, UsageError
from protoseg.inference import export as export_module
from protoseg.inference.class_colors import choose_colors
from protoseg.inference.export import export_run
from protoseg.runs.folder import RunFolder

PARAMETRIC = ("method=parametric", "~method.momentum")
SLIDE = (
    "evaluation.mode=slide",
    "evaluation.crop_size=[32,32]",
    "evaluation.stride=[20,20]",
)
WEAK = ("~method.num_prototypes", "~method.momentum")
METHODS = {
    "parametric": (*PARAMETRIC, "method.num_prototypes=1", "decoder.auxiliary=false"),
    "parametric_scaled": (
        *PARAMETRIC,
        "method.num_prototypes=1",
        "evaluation.scale=[72,72]",
        "contrast=pixel",
    ),
    "parametric_k3": (*PARAMETRIC, *SLIDE),
    "prototype": ("method=paper",),
    "prototype_scaled_slide": (
        "method=paper",
        "evaluation.scale=[40,40]",
        *SLIDE,
        "method.projection=conv",
    ),
    "released": ("method=released", "method.num_prototypes=2"),
    "pixel_query": ("method=pixel_query", "~method.momentum", "method.num_prototypes=2"),
    "hierarchical": HIERARCHICAL,
    "prototype_hierarchical": ("method=prototype_hierarchical", TREE),
    "fcn": (*PARAMETRIC, "method.num_prototypes=1", "decoder=fcn"),
}
PLAIN = ("parametric", "parametric_scaled", "fcn")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_finished_run(tmp_path_factory.mktemp("runs"), data, *METHODS["prototype"])


@pytest.mark.parametrize("method", METHODS)
def test_mmsegs_inference_gives_the_label_maps_of_the_evaluation(
    method: str, data: Path, tmp_path: Path
) -> None:
    folder = make_finished_run(tmp_path, data, *METHODS[method])
    origin = export_run(folder, tmp_path / "exported")
    assert "TinyNet" in (tmp_path / "exported" / "config.py").read_text()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = init_model(
            tmp_path / "exported" / "config.py", str(tmp_path / "exported/model.pth"), device="cpu"
        )
    spec = small_spec(*METHODS[method])
    assert network.dataset_meta["classes"] == list(spec.dataset.classes)
    assert network.dataset_meta["palette"] == choose_colors(spec.dataset).tolist()
    head = type(network.decode_head).__name__
    assert (head in ("SegformerHead", "FCNHead")) == (method in PLAIN)
    expected = predict_evaluated_images(folder, data)
    assert len(expected) == 4
    classes = torch.unique(torch.stack([labels for _, labels in expected]))
    assert len(classes) > (1 if method == "hierarchical" else 2), "12 iterations suffice for this"
    for path, labels in expected:
        result = inference_model(network, path)
        assert torch.equal(result.pred_sem_seg.data[0], labels), path
    assert origin["files"] == {
        name: files.file_digest(tmp_path / "exported" / name) for name in ("model.pth", "config.py")
    }


def test_the_weights_have_no_parts_of_training(data: Path, tmp_path: Path) -> None:
    overrides = (*METHODS["parametric_scaled"], "seed=1")
    export_run(make_finished_run(tmp_path, data, *overrides), tmp_path / "exported")
    content = torch.load(tmp_path / "exported" / "model.pth", weights_only=True)
    keys = {".".join(key.split(".")[:2]) for key in content["state_dict"]}
    assert {key for key in keys if key.startswith("decode_head")} == {
        "decode_head.conv_seg",
        "decode_head.convs",
        "decode_head.fusion_conv",
    }
    config = Config.fromfile(tmp_path / "exported" / "config.py")
    assert "contrast" not in config.model.decode_head


def test_the_weights_have_no_embedding_of_triplets(data: Path, tmp_path: Path) -> None:
    folder = make_finished_run(tmp_path, data, *METHODS["hierarchical"], "seed=1")
    export_run(folder, tmp_path / "exported")
    content = torch.load(tmp_path / "exported" / "model.pth", weights_only=True)
    keys = {key.split(".")[1] for key in content["state_dict"] if key.startswith("decode_head")}
    assert keys == {"head", "classifier"}


def test_the_folder_states_its_origin_and_is_not_overwritten(
    finished: RunFolder, tmp_path: Path
) -> None:
    target = tmp_path / "exported"
    origin = export_run(finished, target)
    record = json.loads(finished.record.read_text())
    assert json.loads((target / "export.json").read_text()) == origin
    assert origin["run_id"] == finished.run_id
    assert origin["record"] == record["digest"]
    assert origin["state_sha256"] == record["provenance"]["state_sha256"]
    assert origin["imports"] == ["protoseg.models"]
    assert sorted(path.name for path in target.iterdir()) == [
        "config.py",
        "export.json",
        "model.pth",
    ]
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with pytest.raises(UsageError, match="exists already"):
        export_run(finished, target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before


def test_an_export_that_fails_leaves_no_folder(
    finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = export_module.ExportedNetwork.rename_weights

    def swap_prototypes(self: object, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights = rename(self, state)  # type: ignore[arg-type]
        weights["decode_head.bank.prototypes"] = weights["decode_head.bank.prototypes"].flip(0)
        return weights

    monkeypatch.setattr(export_module.ExportedNetwork, "rename_weights", swap_prototypes)
    with pytest.raises(ProtosegError, match="gives other scores than the run's"):
        export_run(finished, tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["record", "checkpoint", "cut", "weights", "weak"])
def test_a_run_without_its_model_is_refused(
    fault: str, finished: RunFolder, data: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / finished.run_id)
    shutil.copytree(finished.path, folder.path)
    if fault == "record":
        folder.record.unlink()
        expected = "This needs a finished run"
    elif fault == "checkpoint":
        shutil.rmtree(folder.checkpoints)
        expected = "no valid checkpoint of"
    elif fault == "cut":
        (path,) = folder.checkpoints.glob("*.pth")
        path.write_bytes(path.read_bytes()[:-100])
        expected = "damaged, it does not match its digest"
    elif fault == "weights":
        change_record(folder, state_sha256="0" * 64)
        expected = "differs from the model that"
    else:
        folder = make_finished_run(
            tmp_path, data, "method=weak_contrast", "decoder=cam", "evaluation.split=train", *WEAK
        )
        expected = "needs the image-level labels of each image"
    with pytest.raises(ProtosegError, match=expected):
        export_run(folder, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_the_verb_exports_and_refuses(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = ("--runs", str(finished.path.parent))
    assert main(["export", finished.run_id[-10:], *runs, "--into", str(tmp_path / "new")]) == 0
    out = capsys.readouterr().out
    assert "model.pth, config.py" in out
    assert "init_model(" in out
    for arguments, expected in {
        (finished.run_id,): "export: no folder is named. Add --into DIR",
        (finished.run_id, "--into", str(tmp_path / "new")): "exists already",
        ("nothing", "--into", "x"): "unknown run 'nothing'",
        ("parametric-k1-s0-6190cffc44", "--into", "x"): "has a record, but no run folder",
    }.items():
        assert main(["export", *arguments, *runs]) != 0
        assert expected in capsys.readouterr().err
