"""ONNX files of runs: their label maps in onnxruntime are those of torch."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmseg.apis import inference_model, init_model
from threads import one_thread  # noqa: F401  a fixture

from inference.finished import make_finished_run
from protoseg.cli import main
from protoseg.datasets.readers.photographs import read_photograph
from protoseg.errors import UsageError
from protoseg.inference import onnx_file
from protoseg.inference.export import export_run

PARAMETRIC = ("method=parametric", "~method.momentum")
METHODS = {
    "parametric": (*PARAMETRIC, "method.num_prototypes=1"),
    "parametric_k3": (*PARAMETRIC, "decoder.align_corners=true"),
    "prototype": ("method=paper", "method.projection=conv"),
    "released": ("method=released", "method.num_prototypes=2"),
}


def require_onnx() -> Any:
    """onnxruntime; without it and onnx, the test is skipped."""
    pytest.importorskip("onnx", reason="needs the extra [onnx]")
    return pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.mark.parametrize("method", METHODS)
def test_label_maps_in_onnxruntime_are_those_of_torch(
    method: str, data: Path, tmp_path: Path
) -> None:
    onnxruntime = require_onnx()
    target = tmp_path / "exported"
    origin = export_run(make_finished_run(tmp_path, data, *METHODS[method]), target, onnx=True)
    assert origin["onnx"] == {"size": "any", "pixels": 28130, "differing": 0, "resize": []}
    session = onnxruntime.InferenceSession(
        str(target / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    images = [read_photograph(path) for path in sorted(data.glob("*/images/val/*"))]
    classes: set[int] = set()
    # Two sizes; the second one is no multiple of the strides of the network.
    for image in (*images, np.concatenate(images, 1)[:43, :167]):
        red_first = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)[None], np.float32)
        labels, scores = session.run(["labels", "scores"], {"image": red_first})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mmseg: of sizes where corners are aligned
            network = init_model(target / "config.py", str(target / "model.pth"), device="cpu")
            expected = inference_model(network, image)
        assert labels.shape == (1, *image.shape[:2])
        classes.update(np.unique(labels).tolist())
        np.testing.assert_array_equal(labels[0], expected.pred_sem_seg.data[0].numpy())
        largest = float(expected.seg_logits.data.abs().max())
        np.testing.assert_allclose(
            scores[0] / largest, expected.seg_logits.data.numpy() / largest, atol=1e-5
        )
    assert len(classes) > 1


def test_a_decoder_that_pools_to_a_grid_is_refused(data: Path, tmp_path: Path) -> None:
    require_onnx()
    folder = make_finished_run(tmp_path, data, *METHODS["parametric"], "decoder=pspnet")
    with pytest.raises(UsageError, match=r"--onnx: ParametricHead cannot be exported") as error:
        export_run(folder, tmp_path / "exported", onnx=True)
    assert "Give the size of your images, e.g. --onnx 512x512." in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "exported").exists()


def test_a_graph_with_other_labels_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_onnx()
    trace = onnx_file._trace

    def trace_changed(
        labeling: onnx_file.LabelingNetwork, *args: object, **options: object
    ) -> bytes:
        labeling.is_red_first = not labeling.is_red_first
        try:
            return trace(labeling, *args, **options)  # type: ignore[arg-type]
        finally:
            labeling.is_red_first = not labeling.is_red_first

    monkeypatch.setattr(onnx_file, "_trace", trace_changed)
    folder = make_finished_run(tmp_path, data, *METHODS["prototype"], "seed=2")
    with pytest.raises(UsageError, match="of a random image another class than torch"):
        export_run(folder, tmp_path / "exported", onnx=True)
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize("fault", ["method", "slide", "onnxruntime", "size"])
def test_what_has_no_onnx_is_refused_by_name(
    fault: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    overrides, option = ["method=paper"], []
    if fault == "method":
        overrides = ["method=pixel_query", "~method.momentum"]
        expected = "method pixel_query: has no ONNX export. Methods with one: parametric, prototype"
    elif fault == "slide":
        overrides += ["evaluation.mode=slide", "evaluation.crop_size=[32,32]"]
        overrides += ["evaluation.stride=[16,16]"]
        expected = "evaluation.mode=slide: its scores are sums over windows"
    elif fault == "onnxruntime":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        expected = "--onnx: the packages onnx and onnxruntime are not installed."
    else:
        option = ["5by5"]
        expected = "expected HEIGHTxWIDTH in pixels, found '5by5'"
    folder = make_finished_run(tmp_path / "runs", data, *overrides)
    target = str(tmp_path / "exported")
    folders = ("--runs", str(tmp_path / "runs"))
    assert main(["export", folder.run_id, "--into", target, *folders, "--onnx", *option]) == 2
    assert expected in capsys.readouterr().err
    assert not Path(target).exists()


def test_the_verb_writes_a_file_for_one_size(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = require_onnx()
    folder = make_finished_run(tmp_path / "runs", data, *METHODS["prototype"])
    target = tmp_path / "exported"
    folders = ("--runs", str(tmp_path / "runs"))
    assert main(["export", folder.run_id, "--into", str(target), *folders, "--onnx", "40x64"]) == 0
    assert "0 of 2560 pixels with another class than torch's" in capsys.readouterr().out
    assert json.loads((target / "export.json").read_text())["onnx"]["size"] == [40, 64]
    session = onnxruntime.InferenceSession(
        str(target / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    assert session.get_inputs()[0].shape == [1, 3, 40, 64]
