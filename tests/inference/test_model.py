"""A loaded model predicts as the evaluation of its run does, and a bad checkpoint is refused."""

from __future__ import annotations

import functools
import json
import pickle
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from training.small import make_folder, record_of, small_spec

import protoseg
from inference.conftest import FinishedRuns
from inference.finished import change_record
from protoseg import files
from protoseg.errors import ProtosegError, UsageError
from protoseg.inference import score_network
from protoseg.inference.images import load_image
from protoseg.inference.score_network import run_quietly
from protoseg.inference.settings import PredictionSettings, change_settings
from protoseg.inference.trained_model import TrainedModel, load_run
from protoseg.runs.folder import RunFolder


@pytest.fixture
def photo(images: Path) -> Path:
    return min(images.iterdir())


@pytest.fixture
def copy(finished: FinishedRuns, tmp_path: Path) -> RunFolder:
    """A copy of the finished run, to be damaged."""
    run = finished["prototype"]
    shutil.copytree(run.path, tmp_path / run.run_id)
    return RunFolder(tmp_path / run.run_id)


def last_checkpoint(run: RunFolder) -> Path:
    return max(run.checkpoints.glob("iter_*.pth"))


def write_checkpoint(path: Path, content: object) -> None:
    """Replace a checkpoint, with a digest that fits."""
    torch.save(content, path)
    entry = {"iteration": int(path.stem[5:]), "sha256": files.file_digest(path)}
    path.with_suffix(".json").write_text(json.dumps(entry))


def test_importing_protoseg_prints_nothing_and_imports_no_torch() -> None:
    code = "import sys, protoseg; protoseg.load_run; assert 'torch' not in sys.modules"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert (result.stdout, result.stderr) == ("", "")


@pytest.mark.slow
def test_loading_and_predicting_print_nothing(finished: FinishedRuns, photo: Path) -> None:
    code = (
        "import sys, protoseg; protoseg.load_run(sys.argv[1], 'cpu').predict(sys.argv[2]).plot()\n"
        "assert not {'hydra', 'submitit'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", code, str(finished["prototype"].path), str(photo)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "")


def test_a_run_is_named_by_id_part_folder_or_checkpoint(finished: FinishedRuns) -> None:
    run = finished["prototype"]
    names = [run.run_id, run.run_id[-6:], run.path, last_checkpoint(run)]
    models = [protoseg.load_run(name, "cpu", finished.runs) for name in names]
    expected = record_of(run)["provenance"]["state_sha256"]
    assert {model.state_sha256 for model in models} == {expected}
    assert {model.run_id for model in models} == {run.run_id}
    assert {model.iteration for model in models} == {6}


def test_a_folder_without_a_checkpoint_names_the_reproduction(
    finished: FinishedRuns, tmp_path: Path
) -> None:
    source = finished["prototype"]
    run = RunFolder(tmp_path / source.run_id)
    again = RunFolder(tmp_path / ".reproductions" / "1" / source.run_id)
    for folder in (run, again):
        shutil.copytree(source.path, folder.path)
    assert load_run(source.run_id, "cpu", tmp_path).checkpoint.parent == run.checkpoints
    # Without its checkpoints, the same model is loaded from the other folder.
    shutil.rmtree(run.checkpoints)
    assert load_run(source.run_id, "cpu", tmp_path).checkpoint.parent == again.checkpoints
    # Another model is named, not loaded; and never for an unfinished run.
    sentence = f"Or name {again.path}, where this run was trained again; its model"
    change_record(again, state_sha256="0" * 64)
    with pytest.raises(ProtosegError, match="no valid checkpoint") as error:
        load_run(source.run_id, "cpu", tmp_path)
    assert f"{sentence} differs." in str(error.value)
    run.record.unlink()
    with pytest.raises(ProtosegError, match="it has not finished") as error:
        load_run(source.run_id, "cpu", tmp_path)
    assert f"{sentence} may differ." in str(error.value)
    # If no other folder has a checkpoint, the message is about the first.
    shutil.rmtree(again.checkpoints)
    with pytest.raises(ProtosegError, match="it has not finished") as error:
        load_run(source.run_id, "cpu", tmp_path)
    assert "Or name" not in str(error.value)


def test_loading_keeps_the_random_generators(finished: FinishedRuns) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_run(finished["prototype"].path, "cpu")
    assert torch.equal(torch.rand(3), expected)


def test_paths_pil_images_and_arrays_are_predicted_alike(
    model: TrainedModel, photo: Path, tmp_path: Path
) -> None:
    with Image.open(photo) as file:
        rgb = np.asarray(file.convert("RGB"))
    lossless = tmp_path / "copy.png"
    Image.fromarray(rgb).save(lossless)
    expected = model.predict(rgb)
    assert np.array_equal(expected.image, rgb)
    for image in (lossless, str(lossless), Image.fromarray(rgb)):
        assert np.array_equal(model.predict(image).probabilities, expected.probabilities)
    mirrored = model.predict(rgb[..., ::-1])
    assert not np.array_equal(mirrored.probabilities, expected.probabilities)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), 7]
)
def test_other_images_are_refused(model: TrainedModel, image: object) -> None:
    with pytest.raises(UsageError, match="red, green, blue"):
        model.predict(image)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"the PIL mode I;16 has no 8 bits"):
        model.predict(Image.fromarray(np.zeros((4, 4), np.uint16)))


def test_a_prediction_has_the_size_of_the_image(model: TrainedModel, photo: Path) -> None:
    result = model.predict(photo)
    classes, number = len(model.classes), model.num_prototypes
    assert (result.labels.shape, result.labels.dtype) == ((48, 48), np.uint8)
    assert (result.probabilities.shape, result.probabilities.dtype) == (
        (classes, 48, 48),
        np.float32,
    )
    assert np.array_equal(result.probabilities.argmax(0), result.labels)
    np.testing.assert_allclose(result.probabilities.sum(0), 1, rtol=1e-5)
    channels, height, width = result.embedding.shape
    assert result.assignments.shape == (height, width)
    np.testing.assert_allclose((result.embedding**2).sum(0), 1, rtol=1e-5)
    # Each pixel, by hand: its class has the nearest prototype of all, and so has its assignment.
    prototypes = model.module.decode_head.bank.prototypes.double().numpy().reshape(-1, channels)
    similarity = np.einsum("nd,dhw->nhw", prototypes, result.embedding.astype(np.float64))
    chosen = np.take_along_axis(similarity, result.assignments[None], 0)[0]
    np.testing.assert_allclose(chosen, similarity.max(0), atol=1e-6)
    assert result.assignments.max() < classes * number


def test_a_plot_names_the_predicted_classes(model: TrainedModel, photo: Path) -> None:
    result = model.predict(photo)
    figure = result.plot()
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [model.classes[index] for index in np.unique(result.labels)]


def test_other_heads_have_no_assignments(finished: FinishedRuns, photo: Path) -> None:
    result = load_run(finished["slide"].path, "cpu").predict(photo)
    assert result.embedding.ndim == 3
    with pytest.raises(UsageError, match="parametric has no prototypes"):
        _ = result.assignments


@pytest.mark.parametrize("name", ["prototype", "slide"])
@pytest.mark.parametrize("flip", [False, True])
def test_bands_of_rows_equal_the_whole_map(
    finished: FinishedRuns, photo: Path, name: str, flip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_run(finished[name].path, "cpu")
    settings = change_settings(model.settings, scales=(1.0, 1.5) if flip else None, flip=flip)
    expected = model.predict(photo, settings)
    expected.probabilities  # noqa: B018  before the limits change
    monkeypatch.setitem(score_network.SCORE_BYTES, "cpu", 0)
    monkeypatch.setattr(score_network, "BAND_BYTES", 4 * len(model.classes) * 48 * 5)
    result = model.predict(photo, settings)
    assert np.array_equal(result.labels, expected.labels)
    np.testing.assert_allclose(result.probabilities, expected.probabilities, atol=1e-6)


@pytest.mark.parametrize("name", ["prototype", "slide"])
def test_passes_are_summed_in_their_order(
    finished: FinishedRuns, photo: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_run(finished[name].path, "cpu")
    settings = change_settings(model.settings, scales=(0.75, 1.0, 1.5), flip=True)
    monkeypatch.setitem(score_network.SCORE_BYTES, "cpu", 0)
    monkeypatch.setattr(score_network, "BAND_BYTES", 4 * len(model.classes) * 48 * 5)
    image = load_image(photo)
    network, passes = model.network, []
    with run_quietly():
        for view in settings.views:
            rows = network._open_rows(image, settings, *view)
            bands = [rows.read_rows(first, min(first + 5, 48)) for first in range(0, 48, 5)]
            passes.append(torch.cat([band.softmax(0) for band in bands], 1))
    expected = functools.reduce(torch.add, passes) / len(passes)
    for is_larger in (False, True):  # than the windows of all passes
        monkeypatch.setattr(network, "_is_sum_larger", lambda *_, larger=is_larger: larger)
        result = model.predict(image[..., ::-1], settings)
        assert np.array_equal(result.probabilities, expected.numpy())
        assert np.array_equal(result.labels, expected.argmax(0).numpy())


def test_one_pass_is_in_memory(
    model: TrainedModel, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(score_network.SCORE_BYTES, "cpu", 0)
    network, open_rows = model.network, model.network._open_rows
    opened: list[weakref.ref[Any]] = []

    def open_alone(*arguments: Any) -> Any:
        assert all(rows() is None for rows in opened)
        rows = open_rows(*arguments)
        opened.append(weakref.ref(rows))
        return rows

    monkeypatch.setattr(network, "_open_rows", open_alone)
    model.predict(photo, PredictionSettings(scales=(0.5, 1.0, 1.5), flip=True))
    assert len(opened) == 6


def test_augmentation_averages_the_probabilities_of_its_views(
    model: TrainedModel, photo: Path
) -> None:
    with Image.open(photo) as file:
        rgb = np.asarray(file.convert("RGB"))
    result = model.predict(rgb, PredictionSettings(flip=True))
    views = [model.predict(rgb).probabilities, model.predict(rgb[:, ::-1]).probabilities[..., ::-1]]
    # The scores are mirrored before they are resized, so the last bits may differ.
    np.testing.assert_allclose(result.probabilities, np.mean(views, 0), atol=1e-6)
    assert not np.allclose(views[0], views[1], atol=1e-4)


def test_a_small_scale_is_resized_to_the_image(model: TrainedModel, photo: Path) -> None:
    with Image.open(photo) as file:
        rgb = np.asarray(file.convert("RGB"))
    half = model.predict(rgb, PredictionSettings(scales=(0.5,)))
    pixels = torch.from_numpy(np.ascontiguousarray(rgb[..., ::-1].transpose(2, 0, 1)))
    # Half the size of a bilinear resize is the mean of 2 × 2 pixels, rounded.
    small = (F.avg_pool2d(pixels[None].float(), 2) + 0.5).floor().byte()[0]
    scores = model.network._encode(small).detach()[None]
    expected = F.interpolate(
        scores, (48, 48), mode="bilinear", align_corners=model.module.align_corners
    )
    np.testing.assert_allclose(half.probabilities, expected.softmax(1)[0].numpy(), atol=0.02)


def test_a_cut_file_is_refused(copy: RunFolder) -> None:
    path = last_checkpoint(copy)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ProtosegError, match="damaged, it does not match its digest"):
        load_run(path)


def test_a_pickle_with_code_is_refused_and_not_run(copy: RunFolder, tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> object:
            return (Path.touch, (tmp_path / "ran",))

    write_checkpoint(last_checkpoint(copy), {"model": Code()})
    with pytest.raises(ProtosegError, match=r"holds Python code \(.*\), which is not run"):
        load_run(copy.path)
    last_checkpoint(copy).write_bytes(pickle.dumps(Code()))
    write_digest = {"iteration": 6, "sha256": files.file_digest(last_checkpoint(copy))}
    last_checkpoint(copy).with_suffix(".json").write_text(json.dumps(write_digest))
    with pytest.raises(ProtosegError, match="holds Python code"):
        load_run(copy.path)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_another_network_is_refused(
    copy: RunFolder, finished: FinishedRuns
) -> None:
    shutil.copy(last_checkpoint(finished["slide"]), last_checkpoint(copy))
    other = last_checkpoint(finished["slide"]).with_suffix(".json")
    shutil.copy(other, last_checkpoint(copy).with_suffix(".json"))
    with pytest.raises(
        ProtosegError, match=f"of another network than {copy.run_id}: .*decode_head"
    ):
        load_run(copy.path)


def test_other_weights_than_the_recorded_ones_are_refused(copy: RunFolder) -> None:
    path = last_checkpoint(copy)
    content = torch.load(path, weights_only=True)
    content["model"]["decode_head.bank.prototypes"] += 1
    write_checkpoint(path, content)
    with pytest.raises(ProtosegError, match="differs from the model that"):
        load_run(copy.path)


def test_a_run_without_checkpoint_names_reproduce(copy: RunFolder) -> None:
    for path in copy.checkpoints.iterdir():
        path.unlink()
    with pytest.raises(ProtosegError, match=rf"protoseg reproduce {copy.run_id}\."):
        load_run(copy.path)


def test_a_record_without_run_folder_names_reproduce(
    copy: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROTOSEG_RESULTS", str(tmp_path / "results"))
    (tmp_path / "results" / "records").mkdir(parents=True)
    copy.record.rename(tmp_path / "results" / "records" / f"{copy.run_id}.json")
    with pytest.raises(ProtosegError, match=rf"has a record, but .*reproduce {copy.run_id}\."):
        load_run(copy.run_id, runs=tmp_path / "runs")


def test_an_unfinished_run_is_loaded_from_its_checkpoint_only(copy: RunFolder) -> None:
    copy.record.unlink()
    path = last_checkpoint(copy)
    with pytest.raises(ProtosegError, match=rf"has not finished.*name {path}"):
        load_run(copy.path)
    assert load_run(path).iteration == 6


def test_a_run_of_weak_supervision_is_refused(tmp_path: Path) -> None:
    folder = make_folder(
        tmp_path, small_spec("method=cam", "~method.num_prototypes", "~method.momentum",
                             "decoder=cam", "augmentation=weak_256"), tmp_path)  # fmt: skip
    folder.checkpoints.mkdir()
    write_checkpoint(folder.checkpoints / "iter_00000001.pth", {"model": {}})
    with pytest.raises(UsageError, match="pseudo-masks from image-level labels"):
        load_run(folder.checkpoints / "iter_00000001.pth")


@pytest.mark.parametrize("name", ["nothing-like-it", "missing/iter_1.pth"])
def test_an_unknown_name_is_refused(name: str, finished: FinishedRuns) -> None:
    with pytest.raises(UsageError, match=r"unknown run|does not exist"):
        load_run(name, runs=finished.runs)


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "gpu"])
def test_an_unknown_device_is_refused(name: str, finished: FinishedRuns) -> None:
    with pytest.raises(UsageError, match=f"device: unknown '{name}'. Use one of cpu"):
        load_run(finished["prototype"].path, name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "slide"}, "slide needs a window"),
        ({"mode": "whole", "window": (8, 8)}, "not used in mode whole"),
        ({"window": (8, 8), "stride": (9, 8)}, "larger than the window"),
        ({"scales": (0.0,)}, "out of range"),
        ({"mode": "tiles"}, "unknown 'tiles'. Use whole or slide"),
    ],
)
def test_settings_without_a_meaning_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        change_settings(PredictionSettings(), **changes)  # type: ignore[arg-type]
