"""Probabilities of a mirrored image are those of its mirrored classes, in every way to predict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inference.finished import make_finished_run
from protoseg.inference import score_network
from protoseg.inference.images import load_image
from protoseg.inference.run_evaluation import evaluate_saved_run
from protoseg.inference.saved_run import find_saved_run
from protoseg.inference.score_network import run_quietly
from protoseg.inference.settings import change_settings
from protoseg.inference.trained_model import TrainedModel, load_run
from protoseg.runs.folder import RunFolder

ORDER = [0, 2, 1, 3, 5, 4]
"""Of ground, disk, box, triangle, ring, bar: the classes of the pairs are exchanged."""
PAIRS = "dataset.flip_pairs=[[disk,box],[bar,ring]]"
WINDOW = ("evaluation.mode=slide", "evaluation.crop_size=[32,40]", "evaluation.stride=[20,24]")
MODES = {"whole": (), "slide": WINDOW}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, RunFolder]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        mode: make_finished_run(folder, data, PAIRS, *settings) for mode, settings in MODES.items()
    }


def read_image(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"))


def average_by_hand(model: TrainedModel, image: np.ndarray) -> np.ndarray:
    """Mean probabilities of an image and of its mirror image, whose classes are exchanged."""
    mirrored = model.predict(np.ascontiguousarray(image[:, ::-1])).probabilities
    back = np.stack([mirrored[number][:, ::-1] for number in ORDER])
    return (model.predict(image).probabilities + back) / 2


@pytest.mark.parametrize("in_bands", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_the_classes_of_a_mirrored_image_are_exchanged(
    runs: dict[str, RunFolder],
    images: Path,
    mode: str,
    in_bands: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = load_run(runs[mode].path, "cpu")
    image = read_image(min(images.iterdir()))
    expected = average_by_hand(model, image)
    unmirrored, mirrored = (model.predict(view).probabilities for view in (image, image[:, ::-1]))
    if in_bands:
        monkeypatch.setitem(score_network.SCORE_BYTES, "cpu", 0)
        monkeypatch.setattr(score_network, "BAND_BYTES", 4 * len(ORDER) * 48 * 5)
    result = model.predict(image, change_settings(model.settings, flip=True))
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-6)
    assert np.array_equal(result.labels, result.probabilities.argmax(0))
    unswapped = (unmirrored + mirrored[..., ::-1]) / 2
    assert not np.allclose(result.probabilities, unswapped, atol=1e-3)


def test_the_label_map_of_a_mirrored_pass_fits_its_scores(
    runs: dict[str, RunFolder], images: Path
) -> None:
    model = load_run(runs["whole"].path, "cpu")
    image = load_image(min(images.iterdir()))
    with run_quietly():
        (sample,) = model.network.run_view([image], model.settings, 1.0, True)
    labels, scores = sample.pred_sem_seg.data, sample.seg_logits.data
    assert torch.equal(labels[0], scores.argmax(0))


def test_evaluate_counts_the_exchanged_classes(
    runs: dict[str, RunFolder], data: Path, images: Path
) -> None:
    saved = find_saved_run(str(runs["whole"].path), None)
    content, _ = evaluate_saved_run(saved, "val", data, scales=(1.0,))
    model = load_run(runs["whole"].path, "cpu")
    matrix = np.zeros((len(ORDER), len(ORDER)), int)
    for path in sorted(images.iterdir()):
        labels = average_by_hand(model, read_image(path)).argmax(0)
        truth = np.asarray(Image.open(path.parents[2] / "annotations/val" / f"{path.stem}.png"))
        valid = truth != 255
        np.add.at(matrix, (truth[valid], labels[valid]), 1)
    hits = matrix.diagonal()
    union = matrix.sum(0) + matrix.sum(1) - hits
    expected = 100 * np.mean(hits[union > 0] / union[union > 0])
    assert content["metrics"]["miou"] == pytest.approx(expected, abs=1e-6)
