"""``protoseg predict`` on a folder of images, beside the bare loop over batches in memory."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from mmseg.structures import SegDataSample
from networks import build_camvid_spec, build_network

from protoseg import files
from protoseg.config.fields import to_plain
from protoseg.config.identity import run_id
from protoseg.inference.images import load_image, make_input
from protoseg.inference.output.folder import PredictionFolder
from protoseg.inference.output.image_files import ImageWriter, OutputSettings, find_label_values
from protoseg.inference.output.image_list import list_images
from protoseg.inference.output.predict_images import predict_images
from protoseg.inference.trained_model import TrainedModel, load_run
from protoseg.runs.folder import RunFolder

BATCH = 8
BATCHES = 2
SIZE = (360, 480)
"""(height, width) of CamVid."""


def make_model(folder: Path, device: torch.device) -> TrainedModel:
    """Load MobileNetV2 as in the matrix ``camvid_methods``, with random weights."""
    spec = build_camvid_spec("paper")
    run = RunFolder(folder / run_id(spec))
    run.create(to_plain(spec, identity=True), {})
    run.checkpoints.mkdir()
    path = run.checkpoints / "iter_00000001.pth"
    network, _ = build_network(spec, torch.device("cpu"))
    torch.save({"model": network.state_dict()}, path)
    entry = {"iteration": 1, "sha256": files.file_digest(path)}
    path.with_suffix(".json").write_text(json.dumps(entry))
    return load_run(path, str(device))


def write_images(folder: Path) -> None:
    """Write smooth random images as JPEG, which decode about as fast as photographs."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(BATCH * BATCHES):
        coarse = random.integers(0, 256, (24, 32, 3), np.uint8)
        image = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number:03}.jpg"), image)


def test_folder(case: Callable[..., None], device: torch.device, tmp_path: Path) -> None:
    """16 images in batches of 8: read, predicted, label maps and colours written."""
    model = make_model(tmp_path / "runs", device)
    write_images(tmp_path / "images")
    images = list_images([str(tmp_path / "images")], tmp_path / "out")
    numbers = itertools.count()

    def predict_folder() -> Path:
        out = tmp_path / "out" / str(next(numbers))
        values = find_label_values(model.spec.dataset, "index")
        folder = PredictionFolder(out)
        writer = ImageWriter(out, values, model.colors, OutputSettings())
        with folder.open({}):
            outcome = predict_images(model, images, folder, writer, model.settings, batch=BATCH)
        assert (outcome.predicted, outcome.failures) == (len(images), [])
        return out

    loaded = [make_input(load_image(image.path)) for image in images]

    def loop() -> list[np.ndarray]:
        labels = []
        with torch.no_grad():
            for first in range(0, len(loaded), BATCH):
                inputs = loaded[first : first + BATCH]
                meta = {"ori_shape": SIZE, "img_shape": SIZE, "pad_shape": SIZE}
                samples = [SegDataSample(metainfo=meta) for _ in inputs]
                results = model.module.test_step({"inputs": inputs, "data_samples": samples})
                labels += [each.pred_sem_seg.data[0].cpu().numpy() for each in results]
        return labels

    out = predict_folder()
    for image, expected in zip(images, loop(), strict=True):
        written = cv2.imread(str(out / "labels" / f"{image.name}.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(written, expected)
    shutil.rmtree(tmp_path / "out")
    case(
        "inference, folder",
        "MobileNetV2, 16 images of 480x360 in batches of 8, 11 classes, K = 10",
        predict_folder,
        {"bare loop": loop},
        slow=4.0,
    )
