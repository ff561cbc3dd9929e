"""`check` reads every file; its errors name the file, the problem and the remedy."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.helpers import read_spec, write_labels
from protoseg.config.fields import to_plain
from protoseg.config.schema import DatasetSpec
from protoseg.datasets import layout
from protoseg.datasets.check import check_data_set, require_labelled_pixels
from protoseg.datasets.folder_dataset import SegmentationFolder
from protoseg.datasets.readers.label_maps import read_label_map
from protoseg.datasets.readers.photographs import read_photograph
from protoseg.errors import DataError


def error_message(root: Path, dataset: DatasetSpec) -> str:
    with pytest.raises(DataError) as error:
        check_data_set(root, dataset)
    return str(error.value)


def test_the_report_counts_images_and_pixels(toy: DatasetSpec, toy_root: Path) -> None:
    write_labels(toy_root / "annotations/val/0.png", np.full((30, 40), 1, np.uint8))
    write_labels(toy_root / "annotations/val/1.png", np.full((20, 50), 255, np.uint8))
    Image.new("RGB", (50, 20)).save(toy_root / "images/val/1.jpg")
    calls: list[tuple[int, int]] = []
    report = check_data_set(toy_root, toy, progress=lambda done, total: calls.append((done, total)))
    assert (report.name, report.root, set(report.splits)) == (
        "toy",
        str(toy_root),
        {"train", "val"},
    )
    assert calls == [(done, 5) for done in range(1, 6)]
    val = report.splits["val"]
    assert (val.images, val.smallest, val.largest) == (2, (40, 20), (50, 30))
    assert val.pixels == {"sky": 0, "road": 1200, "tree": 0}
    assert (val.ignored, val.absent) == (1000, ("sky", "tree"))
    train = report.splits["train"]
    assert (train.ignored, sum(train.pixels.values()), train.absent) == (3, 3 * 1200 - 3, ())
    labels = [np.asarray(Image.open(p)) for p in (toy_root / "annotations/train").iterdir()]
    assert train.pixels["tree"] == sum(int((label == 2).sum()) for label in labels)
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["splits"]["val"]["pixels"]["road"] == 1200
    assert len(plain["digest"]) == 64


def test_the_root_may_be_the_current_folder(
    toy: DatasetSpec, toy_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = check_data_set(toy_root, toy)
    monkeypatch.chdir(toy_root)
    assert check_data_set(Path(), toy).digest == report.digest


@pytest.mark.parametrize("keep", [0, 100, 0.5])
@pytest.mark.parametrize("name", ["images/val/1.jpg", "annotations/val/1.png"])
def test_a_truncated_file_is_an_error(
    toy: DatasetSpec, toy_root: Path, name: str, keep: float
) -> None:
    path = toy_root / name
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    message = error_message(toy_root, toy)
    assert message.startswith(f"{path}: cannot be decoded (")
    assert "\n" not in message


def test_a_jpeg_that_is_no_image_is_an_error(toy: DatasetSpec, toy_root: Path) -> None:
    (toy_root / "images/train/0.jpg").write_text("<html>not found</html>")
    assert error_message(toy_root, toy).startswith(f"{toy_root / 'images/train/0.jpg'}: cannot be")


def test_a_label_out_of_range_is_an_error(toy: DatasetSpec, toy_root: Path) -> None:
    labels = np.zeros((30, 40), np.uint8)
    labels[3, :7] = 3
    labels[4, 4] = 200
    write_labels(toy_root / "annotations/train/2.png", labels)
    message = error_message(toy_root, toy)
    assert message.startswith(
        f"{toy_root / 'annotations/train/2.png'}: label out of range: "
        "3 (7 pixels), 200 (1 pixels); allowed: 0 to 2 for the 3 classes, 255 (ignored)."
    )


def test_sixteen_bit_labels_are_not_truncated_to_eight_bits(
    toy: DatasetSpec, toy_root: Path
) -> None:
    labels = np.zeros((30, 40), np.uint16)
    write_labels(toy_root / "annotations/train/2.png", labels)
    check_data_set(toy_root, toy)
    labels[0, 0] = 256  # 0 if truncated
    write_labels(toy_root / "annotations/train/2.png", labels)
    assert "label out of range: 256 (1 pixels)" in error_message(toy_root, toy)


def test_reduce_zero_label_ignores_0_and_shifts_the_classes(changed, toy_root: Path) -> None:
    reduced = changed(reduce_zero_label=True)
    report = check_data_set(toy_root, reduced)
    plain = check_data_set(toy_root, changed())
    train, before = report.splits["train"], plain.splits["train"]
    # Classes start at 1: pixels of 'sky' (0) are ignored, and 'tree' (3) has no pixel.
    assert train.ignored == before.ignored + before.pixels["sky"]
    assert train.pixels == {"sky": before.pixels["road"], "road": before.pixels["tree"], "tree": 0}
    write_labels(toy_root / "annotations/train/0.png", np.full((30, 40), 3, np.uint8))
    assert check_data_set(toy_root, reduced).splits["train"].pixels["tree"] == 1200
    assert "3 (1200 pixels)" in error_message(toy_root, changed())
    write_labels(toy_root / "annotations/train/0.png", np.full((30, 40), 4, np.uint8))
    assert "allowed: 1 to 3 for the 3 classes, 0, 255 (ignored)" in error_message(toy_root, reduced)


def test_the_ignored_label_may_follow_the_classes(changed, toy_root: Path) -> None:
    dataset = changed(classes=("sky", "road"), ignore_index=2)
    assert "255 (1 pixels); allowed: 0 to 1 for the 2 classes, 2 (ignored)" in error_message(
        toy_root, dataset
    )


def test_a_palette_image_is_a_label_map_and_a_colour_image_is_not(
    toy: DatasetSpec, toy_root: Path
) -> None:
    path = toy_root / "annotations/train/0.png"
    with Image.open(path) as file:
        labels = np.asarray(file)
    before = check_data_set(toy_root, toy).splits["train"].pixels
    palette = Image.fromarray(labels)
    palette.putpalette([7, 7, 7] * 256)  # the indices are the labels, not the colours
    palette.save(path)
    with Image.open(path) as file:
        assert file.mode == "P"
    assert check_data_set(toy_root, toy).splits["train"].pixels == before
    Image.fromarray(labels).convert("RGB").save(path)
    message = error_message(toy_root, toy)
    assert message.startswith(f"{path}: expected label values in one channel")
    assert "'RGB'" in message


def test_a_one_bit_image_is_a_label_map(changed, toy_root: Path) -> None:
    for path in (toy_root / "annotations").rglob("*.png"):
        labels = np.zeros((30, 40), np.uint8)
        labels[:10] = 1
        Image.fromarray(255 * labels).convert("1").save(path)
    report = check_data_set(toy_root, changed(classes=("ground", "leaf")))
    assert report.splits["val"].pixels == {"ground": 2 * 800, "leaf": 2 * 400}


def test_a_wrong_checksum_is_an_error(toy: DatasetSpec, toy_root: Path) -> None:
    path = toy_root / "annotations/val/1.png"
    data = bytearray(path.read_bytes())
    data[data.index(b"IEND") - 5] ^= 1  # the last byte of the checksum of the pixels
    path.write_bytes(data)
    assert np.asarray(Image.open(path)).shape == (30, 40), "decoding does not verify the checksum"
    assert error_message(toy_root, toy).startswith(f"{path}: cannot be decoded (")
    with pytest.raises(DataError, match="cannot be decoded"):
        read_label_map(path)


def test_an_unreadable_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # With relative paths, because only the owner may enter the parent folders.
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    folder = Path("images")
    closed = folder / "closed"
    closed.mkdir(parents=True)
    (folder / "a.jpg").touch()
    (closed / "b.jpg").touch()
    assert layout.find_files(folder, ".jpg").keys() == {"a", "closed/b"}
    closed.chmod(0)
    try:
        with unprivileged(), pytest.raises(DataError) as error:
            layout.find_files(folder, ".jpg")
    finally:
        closed.chmod(0o755)
    assert str(error.value) == (
        f"{closed}: cannot be read (Permission denied). Change its permissions."
    )


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Run as an unprivileged user if the user is root, who may read everything."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_an_image_and_annotation_of_different_sizes_are_an_error(
    toy: DatasetSpec, toy_root: Path
) -> None:
    write_labels(toy_root / "annotations/train/0.png", np.zeros((40, 30), np.uint8))
    message = error_message(toy_root, toy)
    assert message.startswith(f"{toy_root / 'annotations/train/0.png'}: is 30×40 pixels")
    assert f"{toy_root / 'images/train/0.jpg'} is 40×30" in message


def test_the_size_of_a_photograph_follows_its_exif_orientation(
    toy: DatasetSpec, toy_root: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(toy_root / "images/train/0.jpg", exif=exif)
    assert "is 30×40" in error_message(toy_root, toy)


def test_a_missing_file_and_a_missing_folder_are_errors(toy: DatasetSpec, toy_root: Path) -> None:
    (toy_root / "annotations/train/1.png").unlink()
    assert error_message(toy_root, toy).startswith(f"{toy_root / 'images/train/1.jpg'}: has no ann")
    shutil.rmtree(toy_root / "annotations/val")
    assert "the folder with the annotations of split 'val' is" in error_message(toy_root, toy)


def test_the_train_split_must_exist(changed, toy_root: Path) -> None:
    message = error_message(toy_root, changed(train_split="training"))
    assert f"{toy_root / 'images/training'}: the folder with the images" in message


def test_an_empty_split_is_an_error(toy: DatasetSpec, toy_root: Path) -> None:
    for folder in ("images", "annotations"):
        shutil.rmtree(toy_root / folder / "val")
        (toy_root / folder / "val").mkdir()
    assert error_message(toy_root, toy).startswith(f"{toy_root / 'images/val'}: no images")


def test_a_wrong_number_of_images_is_an_error(changed, toy_root: Path) -> None:
    check_data_set(toy_root, changed(counts={"train": 3, "val": 2}))
    message = error_message(toy_root, changed(counts={"train": 4, "val": 2}))
    assert message.startswith(f"{toy_root / 'images/train'}: 3 images, expected 4.")
    assert "dataset.counts.train=3" in message


def test_a_wrong_digest_is_an_error(changed, toy_root: Path) -> None:
    digest = check_data_set(toy_root, changed()).digest
    assert check_data_set(toy_root, changed(digest=digest)).digest == digest
    message = error_message(toy_root, changed(digest="0" * 64))
    assert digest in message
    assert f"expected {'0' * 64}" in message
    assert f"dataset.digest={digest}" in message


def test_one_message_lists_several_problems(toy: DatasetSpec, toy_root: Path) -> None:
    (toy_root / "annotations/val/1.png").unlink()
    write_labels(toy_root / "annotations/train/0.png", np.full((30, 40), 9, np.uint8))
    (toy_root / "images/train/2.jpg").write_bytes(b"")
    lines = error_message(toy_root, toy).splitlines()
    assert lines[0].startswith(f"{toy_root / 'images/val/1.jpg'}: has no annotation")
    assert lines[1] == "2 others:"
    assert lines[2].startswith(f"  {toy_root / 'annotations/train/0.png'}: label out of range")
    assert lines[3].startswith(f"  {toy_root / 'images/train/2.jpg'}: cannot be decoded")


def test_camvid_passes_the_check(camvid_root: Path) -> None:
    dataset = read_spec("camvid")
    report = check_data_set(camvid_root, dataset)
    assert report.digest == dataset.digest
    images = {name: split.images for name, split in report.splits.items()}
    assert images == {"train": 367, "val": 101, "test": 233}
    for split in report.splits.values():
        assert split.smallest == split.largest == (480, 360)
        assert sum(split.pixels.values()) + split.ignored == split.images * 480 * 360
        assert split.absent == ()
        assert max(split.pixels, key=lambda name: split.pixels[name]) in ("road", "building")
        assert 0 < split.ignored < 0.1 * split.images * 480 * 360


def test_camvids_void_label_is_an_error_unless_ignored(camvid_root: Path, changed) -> None:
    dataset = changed(classes=read_spec("camvid").classes, counts={"val": 101}, train_split="val")
    message = error_message(camvid_root, dataset)
    assert "label out of range: 11 (" in message
    assert " others:" in message


def test_label_0_of_real_ade20k_pairs_is_ignored(test_data: Path) -> None:
    root = test_data / "fixtures" / "ade20k"
    if not root.is_dir():
        pytest.skip(f"needs {root}")
    dataset = DatasetSpec(
        name="ade20k",
        classes=tuple(f"class {number}" for number in range(1, 151)),
        digest="unpinned",
        reduce_zero_label=True,
        train_split="training",
    )
    report = check_data_set(root, dataset)
    assert report.splits["training"].ignored > 0
    assert report.splits["training"].pixels["class 1"] > 0


def test_255_is_out_of_range_unless_it_is_listed(changed, toy_root: Path) -> None:
    for path in (toy_root / "annotations").glob("*/*.png"):
        labels = np.zeros((30, 40), np.uint8)
        labels[0, :3], labels[1, :5] = 255, 9
        write_labels(path, labels)
    assert "255 (3 pixels); allowed: 0 to 2 for the 3 classes, 9 (ignored)" in error_message(
        toy_root, changed(ignore_index=9)
    )
    several = changed(ignore_index=9, ignore=(255, 17))
    assert check_data_set(toy_root, several).splits["val"].ignored == 2 * 8
    assert "9 (5 pixels); allowed: 0 to 2 for the 3 classes, 17, 255 (ignored)" in error_message(
        toy_root, changed(ignore=(17,))
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_a_labelled_pixel_is_an_error(
    toy: DatasetSpec, toy_root: Path, split: str
) -> None:
    for path in (toy_root / "annotations" / split).iterdir():
        write_labels(path, np.full((30, 40), 255, np.uint8))
    message = error_message(toy_root, toy)
    assert message.startswith(
        f"{toy_root / 'annotations' / split}: no pixel of split '{split}' has a class; all are "
    )
    with pytest.raises(DataError) as error:
        require_labelled_pixels(toy_root, toy, split)
    assert str(error.value) == message
    labels = np.full((30, 40), 255, np.uint8)
    labels[29, 39] = 2
    write_labels(path, labels)  # one pixel of one map is enough
    require_labelled_pixels(toy_root, toy, split)
    check_data_set(toy_root, toy)


DAMAGED = {
    "png without its end": (".png", lambda image: save(image, "PNG")[:-12]),
    "png with a wrong checksum": (".png", lambda image: flip_checksum(save(image, "PNG"))),
    "tga": (".tga", lambda image: save(image, "TGA")),
    "pcx": (".pcx", lambda image: save(image, "PCX")),
    "float tiff": (".tif", lambda image: save(image.convert("F"), "TIFF")),
    "int32 tiff": (".tif", lambda image: save(image.convert("I"), "TIFF")),
    "jpeg without its end": (".jpg", lambda image: save(image, "JPEG")[:-200]),
}


def save(image: Image.Image, file_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


def flip_checksum(data: bytes) -> bytes:
    """Change the last byte of the checksum of a PNG's pixels."""
    changed = bytearray(data)
    changed[changed.index(b"IEND") - 5] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(("suffix", "encode"), DAMAGED.values(), ids=DAMAGED)
def test_check_names_a_photograph_that_training_cannot_read(
    changed, toy_root: Path, suffix: str, encode: Callable[[Image.Image], bytes]
) -> None:
    for path in (toy_root / "images").glob("*/*.jpg"):
        with Image.open(path) as image:
            image.load()
        path.unlink()
        path.with_suffix(suffix).write_bytes(encode(image))
    dataset = changed(image_suffix=suffix)
    path = toy_root / f"images/val/0{suffix}"
    message = error_message(toy_root, dataset)
    assert f"{path}: cannot be decoded (" in message
    load = [{"type": "LoadImageFromFile"}]
    samples = SegmentationFolder(str(toy_root), to_plain(dataset), "val", load)
    with pytest.raises(DataError, match=f"{re.escape(str(path))}: cannot be decoded"):
        samples[0]


@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_a_photograph_and_its_map_are_turned_alike(
    changed, toy_root: Path, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    labels = np.zeros((30, 40), np.uint8)
    labels[:10, :25] = 1
    for path in (toy_root / "images").glob("*/*.jpg"):
        Image.fromarray(labels * 250).convert("RGB").save(path, exif=exif, quality=98)
    for path in (toy_root / "annotations").glob("*/*.png"):
        Image.fromarray(labels).save(path, exif=exif)
    dataset = changed(classes=("ground", "leaf"))
    assert check_data_set(toy_root, dataset).notes == ()
    load = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}]
    sample = SegmentationFolder(str(toy_root), to_plain(dataset), "val", load)[0]
    assert sample["img"].shape[:2] == ((40, 30) if orientation > 4 else (30, 40))
    np.testing.assert_array_equal(sample["img"][..., 0] > 125, sample["gt_seg_map"] == 1)
    for path in (toy_root / "annotations").glob("*/*.png"):
        Image.fromarray(labels).save(path)
    if orientation > 4:
        assert "is 30×40 after its EXIF orientation" in error_message(toy_root, dataset)
    else:  # the sizes agree: the user must decide
        notes = check_data_set(toy_root, dataset).notes
        assert notes[0].startswith("train: 3 of 3 images are turned by an EXIF orientation that")


PHOTOGRAPHS = {
    "grey of 16 bits": ("PNG", lambda rgb: Image.fromarray(rgb[..., 0].astype(np.uint16) * 257)),
    "grey": ("PNG", lambda rgb: Image.fromarray(rgb[..., 0])),
    "one bit": ("PNG", lambda rgb: Image.fromarray(rgb[..., 0]).convert("1")),
    "cmyk": ("JPEG", lambda rgb: Image.fromarray(rgb).convert("CMYK")),
    "cmyk tiff": ("TIFF", lambda rgb: Image.fromarray(rgb).convert("CMYK")),
    "transparent": ("PNG", lambda rgb: Image.fromarray(rgb).convert("RGBA")),
    "palette": ("PNG", lambda rgb: Image.fromarray(rgb).quantize(4)),
    "webp": ("WEBP", lambda rgb: Image.fromarray(rgb)),
}


@pytest.mark.parametrize(("file_format", "convert"), PHOTOGRAPHS.values(), ids=PHOTOGRAPHS)
def test_photographs_of_every_kind_keep_their_colours(
    tmp_path: Path, file_format: str, convert: Callable[[np.ndarray], Image.Image]
) -> None:
    rgb = np.zeros((20, 30, 3), np.uint8)
    rgb[:10, :15], rgb[10:, 15:] = (255, 0, 0), (255, 255, 0)
    image = convert(rgb)
    path = tmp_path / "photograph"
    path.write_bytes(save(image, file_format))
    grey = image.mode in ("L", "1", "I;16")
    expected = np.repeat(rgb[..., :1], 3, axis=2) if grey else rgb
    read = read_photograph(path)[..., ::-1].astype(int)
    assert np.abs(read - expected)[2:8, 2:13].max() < 8
    assert np.abs(read - expected)[12:18, 17:28].max() < 8
