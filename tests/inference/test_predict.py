"""``protoseg predict``: label maps equal the evaluation, and a folder is continued, never mixed."""

from __future__ import annotations

import errno
import json
import re
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from PIL import Image
from training.small import record_of, small_spec

from inference.conftest import FinishedRuns
from inference.predicted_files import mean_iou, read_pairs, read_pixels
from protoseg import files
from protoseg.datasets.layout import find_root
from protoseg.inference import score_network, score_rows
from protoseg.inference.output import image_files, predict_images
from protoseg.runs.folder import RunFolder

Predict = Callable[..., Any]


@pytest.mark.parametrize("name", ["prototype", "slide"])
@pytest.mark.parametrize("batch", [1, 3])
def test_predicted_files_have_the_metrics_of_the_record(
    predict: Predict, finished: FinishedRuns, data: Path, tmp_path: Path, name: str, batch: int
) -> None:
    dataset = small_spec().dataset
    images = find_root(dataset, data) / "images" / "val"
    out = tmp_path / "out"
    result = predict(name, images, "--into", out, "--ids", "original", "--batch", batch)
    assert (result.status, result.err) == (0, "")
    pairs = read_pairs(out, data)
    record = record_of(finished[name])
    assert len(pairs) == record["metrics"]["images"]
    assert mean_iou(pairs, len(dataset.classes)) == record["metrics"]["miou"]


def test_each_image_has_its_files(predict: Predict, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--overlay", "--alpha", "0.5", "--probabilities")
    result = predict("prototype", images, "--into", out, *options)
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("4 images predicted. To look: ")
    names = sorted(path.stem for path in images.iterdir())
    manifest = json.loads((out / "predictions.json").read_text())
    colors = np.array(manifest["colors"], np.uint8)
    for name in names:
        labels = read_pixels(out / "labels" / f"{name}.png")
        with Image.open(out / "colors" / f"{name}.png") as picture:
            assert picture.mode == "P"
            assert np.array_equal(np.asarray(picture), labels)
            assert np.array_equal(np.asarray(picture.convert("RGB")), colors[labels])
        with np.load(out / "probabilities" / f"{name}.npz") as file:
            values = file["probabilities"]
        assert values.dtype == np.float16
        assert values.shape == (len(manifest["classes"]), 48, 48)
        assert (values.argmax(0) == labels).mean() > 0.99  # ties after rounding
        overlay = read_pixels(out / "overlays" / f"{name}.jpg").astype(int)
        photo = read_pixels(next(images.glob(f"{name}.*"))).astype(int)
        difference = overlay - (photo + colors[labels]) / 2
        assert np.abs(difference).mean() < 12  # JPEG halves the resolution of colours
        assert np.abs(difference.mean((0, 1))).max() < 2
    journal = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert sorted(entry["name"] for entry in journal) == names
    assert all(sum(entry["pixels"].values()) == 48 * 48 for entry in journal)


class _Links(HTMLParser):
    """Collects the tags of a page and its links."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_links_the_files_of_the_folder_only(
    predict: Predict, images: Path, tmp_path: Path
) -> None:
    photo = tmp_path / "photos" / "a <b> & 'c' #1 %20.jpg"
    photo.parent.mkdir()
    photo.write_bytes(min(images.iterdir()).read_bytes())
    out = tmp_path / "out"
    assert predict("prototype", photo.parent, "--into", out, "--overlay").status == 0
    page = _Links()
    page.feed((out / "index.html").read_text())
    assert "script" not in page.tags
    assert page.tags.count("img") == 2
    for link in page.links:
        assert (out / unquote(link)).is_file(), link


def test_a_folder_is_continued(
    predict: Predict, finished: FinishedRuns, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first, *others = sorted(images.iterdir())
    assert predict("prototype", first, "--into", out).status == 0
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    result = predict("prototype", images, "--into", out)
    assert result.status == 0
    assert result.out.startswith(f"{len(others)} images predicted; 1 were finished.")
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert (out / "index.html").read_text().count("<figure>") == 4
    # A file that is gone, and a line that was cut off, are made again.
    (out / "colors" / f"{first.stem}.png").unlink()
    journal = out / "predictions.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    result = predict("prototype", images, "--into", out)
    assert result.out.startswith("2 images predicted; 2 were finished.")
    result = predict("prototype", images, "--into", out)
    assert result.out.startswith("0 images predicted; 4 were finished.")


def test_other_predictions_are_not_mixed(predict: Predict, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = min(images.iterdir())
    assert predict("prototype", first, "--into", out).status == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    refused = [
        (("slide", first), "predictions with another run_id"),
        (("prototype", first, "--tta"), "predictions with another prediction"),
        (("prototype", first, "--window", "32"), "predictions with another prediction"),
        (("prototype", first, "--overlay"), "predictions with another output"),
    ]
    other = tmp_path / "photos" / first.name
    other.parent.mkdir()
    other.write_bytes(max(images.iterdir()).read_bytes())
    refused.append((("prototype", other), "of another image"))
    for arguments, message in refused:
        result = predict(*arguments, "--into", out)
        assert result.status == 1
        assert message in result.err
        assert "Nothing is overwritten" in result.err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_folder_with_other_files_is_refused(
    predict: Predict, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    result = predict("prototype", images, "--into", tmp_path / "out")
    assert result.status == 1
    assert "is not empty ('thesis.tex')" in result.err


@pytest.mark.parametrize("batch", [1, 4])
def test_an_unreadable_image_is_named_and_the_others_are_predicted(
    predict: Predict, images: Path, tmp_path: Path, batch: int
) -> None:
    photos = tmp_path / "photos"
    (photos / "deep").mkdir(parents=True)
    good = sorted(images.iterdir())
    (photos / "a.jpg").write_bytes(good[0].read_bytes())
    (photos / "b.jpg").write_bytes(b"no image")
    (photos / "deep" / "c.JPG").write_bytes(good[1].read_bytes())
    (photos / "d.png").write_bytes(b"")
    (photos / "notes.txt").write_text("no image")
    result = predict("prototype", photos, "--into", tmp_path / "out", "--batch", batch)
    assert result.status == 1
    assert result.out.startswith("2 images predicted.")
    for name in ("b.jpg", "d.png"):
        assert f"{photos / name}: cannot be decoded" in result.err
    made = {path.relative_to(tmp_path / "out" / "labels") for path in
            (tmp_path / "out" / "labels").rglob("*.png")}  # fmt: skip
    assert made == {Path("a.png"), Path("deep/c.png")}


def test_images_of_several_sizes_are_predicted_as_alone(
    predict: Predict, images: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    sizes = [(48, 48), (64, 40), (64, 40), (40, 64)]
    for number, (path, size) in enumerate(zip(sorted(images.iterdir()), sizes, strict=True)):
        with Image.open(path) as file:
            file.convert("RGB").resize(size).save(photos / f"{number}.png")
    assert predict("prototype", photos, "--into", tmp_path / "a", "--batch", 4).status == 0
    for number in range(4):
        out = tmp_path / f"b{number}"
        assert predict("prototype", photos / f"{number}.png", "--into", out).status == 0
        one, many = (read_pixels(f / "labels" / f"{number}.png") for f in (out, tmp_path / "a"))
        assert one.shape == sizes[number][::-1]
        assert (one == many).mean() > 0.999  # a batch may change the last bits of scores


def test_large_images_are_predicted_in_bands(
    predict: Predict, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--window", "32x40", "--stride", "20x24", "--probabilities")
    assert predict("prototype", images, "--into", tmp_path / "a", *options).status == 0
    monkeypatch.setitem(score_network.SCORE_BYTES, "cpu", 0)
    monkeypatch.setattr(score_network, "BAND_BYTES", 1)
    monkeypatch.setattr(predict_images, "LOADED_AHEAD", 0)
    result = predict("prototype", images, "--into", tmp_path / "b", *options, "--batch", 4)
    assert (result.status, result.err) == (0, "")
    for path in sorted((tmp_path / "a").rglob("*.*")):
        if path.suffix in (".png", ".npz"):
            other = tmp_path / "b" / path.relative_to(tmp_path / "a")
            assert path.read_bytes() == other.read_bytes(), path


def test_a_full_disk_is_one_sentence_and_the_call_is_continued(
    predict: Predict, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = files.write_bytes, []

    def fail_later(path: Path, data: bytes) -> None:
        calls.append(path)
        if len(calls) > 3:
            raise files.storage_error(OSError(errno.ENOSPC, "No space left on device"), path)
        write(path, data)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(image_files.files, "write_bytes", fail_later)
        result = predict("prototype", images, "--into", out, "--jobs", 1)
    assert result.status == 1
    assert "no space left on the disk" in result.err
    assert "Traceback" not in result.err
    assert len(result.err.strip().splitlines()) == 1
    result = predict("prototype", images, "--into", out)
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("3 images predicted; 1 were finished.")


NO_MEMORY = "OpenCV(4.13.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed"


@pytest.mark.parametrize("error", [MemoryError(), cv2.error(NO_MEMORY)])
@pytest.mark.parametrize("part", ["write_pictures", "write_probabilities"])
def test_a_writer_without_memory_names_the_image_and_the_others_are_predicted(
    predict: Predict,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    error: Exception,
) -> None:
    write, first = getattr(image_files.ImageWriter, part), min(images.iterdir())

    def fail_once(self: Any, name: str, *arguments: Any) -> None:
        if name == first.stem:
            raise error
        write(self, name, *arguments)

    monkeypatch.setattr(image_files.ImageWriter, part, fail_once)
    out = tmp_path / "out"
    result = predict("prototype", images, "--into", out, "--probabilities")
    assert result.status == 1
    assert result.out.startswith("3 images predicted.")
    sentence = "an image of 48×48 pixels: more memory is needed than there is."
    assert f"{first}: {sentence}" in result.err
    assert "Traceback" not in result.err
    monkeypatch.undo()
    result = predict("prototype", images, "--into", out, "--probabilities")
    assert result.out.startswith("1 images predicted; 3 were finished.")


def test_probabilities_without_memory_name_the_image(
    predict: Predict, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network runs again in the writer's thread for a large image."""
    monkeypatch.setitem(score_network.SCORE_BYTES, "cpu", 0)
    read, calls = score_rows.WholeRows.read_rows, []

    def fail_later(self: Any, first: int, last: int) -> Any:
        calls.append(first)
        if len(calls) > 1:  # the first predicts the labels
            raise RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
            )
        return read(self, first, last)

    monkeypatch.setattr(score_rows.WholeRows, "read_rows", fail_later)
    first = min(images.iterdir())
    result = predict("prototype", first, "--into", tmp_path / "out", "--probabilities")
    assert result.status == 1
    assert "more memory is needed than there is" in result.err
    assert "Traceback" not in result.err


def test_a_disk_that_fills_in_an_encoder_is_one_sentence(
    predict: Predict, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    result = predict("prototype", images, "--into", tmp_path / "out")
    assert result.status == 1
    assert "no space left on the disk" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_wrong_usage_is_refused(predict: Predict, images: Path, tmp_path: Path) -> None:
    out = ("--into", tmp_path / "out")
    assert "Add --into DIR" in predict("prototype", images).err
    assert "name a model and images" in predict("prototype", *out).err
    assert "Add --tta" in predict("prototype", images, *out, "--scales", "1,2").err
    assert "expected a size such as" in predict("prototype", images, *out, "--window", "0x3").err
    assert "from 0 to 1" in predict("prototype", images, *out, "--alpha", "2").err
    assert "does not exist" in predict("prototype", tmp_path / "gone", *out).err
    assert "slide needs a window" in predict("prototype", images, *out, "--mode", "slide").err
    assert not (tmp_path / "out").exists()


def test_a_result_is_printed_as_json(
    predict: Predict, finished: FinishedRuns, images: Path, tmp_path: Path
) -> None:
    result = predict("prototype", images, "--into", tmp_path / "out", "--json")
    run: RunFolder = finished["prototype"]
    assert result.json["run_id"] == run.run_id
    assert result.json["predicted"] == 4
    assert result.json["failures"] == []


def test_the_folder_is_locked(predict: Predict, images: Path, tmp_path: Path) -> None:
    from protoseg.inference.output.folder import PredictionFolder

    with PredictionFolder(tmp_path / "out").open({}):
        result = predict("prototype", images, "--into", tmp_path / "out")
    assert result.status == 1
    assert "another process predicts into this folder" in result.err


def test_the_upload_of_other_classes_is_refused(
    predict: Predict, images: Path, tmp_path: Path
) -> None:
    target = tmp_path / "upload.zip"
    result = predict("prototype", images, "--into", tmp_path / "out", "--cityscapes-zip", target)
    assert result.status == 2
    assert re.search("has other classes than Cityscapes", result.err)
    assert not zipfile.is_zipfile(target)
