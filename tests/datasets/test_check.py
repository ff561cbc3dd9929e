"""`check` reads everything and names the file that is wrong, how, and what to do."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.helpers import read_spec, write_labels
from protoseg.config.schema import DatasetSpec
from protoseg.datasets import layout
from protoseg.datasets.check import check
from protoseg.datasets.prepare import label_maps
from protoseg.errors import DataError


def refused(root: Path, dataset: DatasetSpec) -> str:
    with pytest.raises(DataError) as error:
        check(root, dataset)
    return str(error.value)


def test_report_counts_what_is_there(toy: DatasetSpec, toy_root: Path) -> None:
    write_labels(toy_root / "annotations/val/0.png", np.full((30, 40), 1, np.uint8))
    write_labels(toy_root / "annotations/val/1.png", np.full((20, 50), 255, np.uint8))
    Image.new("RGB", (50, 20)).save(toy_root / "images/val/1.jpg")
    steps: list[tuple[int, int]] = []
    report = check(toy_root, toy, progress=lambda done, total: steps.append((done, total)))
    assert (report.name, report.root, set(report.splits)) == (
        "toy",
        str(toy_root),
        {"train", "val"},
    )
    assert steps == [(done, 5) for done in range(1, 6)]
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


@pytest.mark.parametrize("keep", [0, 100, 0.5])
@pytest.mark.parametrize("name", ["images/val/1.jpg", "annotations/val/1.png"])
def test_truncated_file(toy: DatasetSpec, toy_root: Path, name: str, keep: float) -> None:
    path = toy_root / name
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    message = refused(toy_root, toy)
    assert message.startswith(f"{path}: can not be decoded (")
    assert "\n" not in message


def test_jpeg_that_is_no_image(toy: DatasetSpec, toy_root: Path) -> None:
    (toy_root / "images/train/0.jpg").write_text("<html>not found</html>")
    assert refused(toy_root, toy).startswith(f"{toy_root / 'images/train/0.jpg'}: can not be")


def test_label_out_of_range(toy: DatasetSpec, toy_root: Path) -> None:
    labels = np.zeros((30, 40), np.uint8)
    labels[3, :7] = 3
    labels[4, 4] = 200
    write_labels(toy_root / "annotations/train/2.png", labels)
    message = refused(toy_root, toy)
    assert message.startswith(
        f"{toy_root / 'annotations/train/2.png'}: label out of range: "
        "3 (7 pixels), 200 (1 pixels); allowed: 0-2 for the 3 classes, 255 (ignored)."
    )


def test_sixteen_bit_labels_do_not_wrap_around(toy: DatasetSpec, toy_root: Path) -> None:
    labels = np.zeros((30, 40), np.uint16)
    write_labels(toy_root / "annotations/train/2.png", labels)
    check(toy_root, toy)
    labels[0, 0] = 256  # 0 in eight bits
    write_labels(toy_root / "annotations/train/2.png", labels)
    assert "label out of range: 256 (1 pixels)" in refused(toy_root, toy)


def test_reduced_zero_label(changed, toy_root: Path) -> None:
    reduced = changed(reduce_zero_label=True)
    report = check(toy_root, reduced)
    plain = check(toy_root, changed())
    train, before = report.splits["train"], plain.splits["train"]
    # Classes start at 1: what was 'sky' (0) is now ignored, and 'tree' (3) has no pixel.
    assert train.ignored == before.ignored + before.pixels["sky"]
    assert train.pixels == {"sky": before.pixels["road"], "road": before.pixels["tree"], "tree": 0}
    write_labels(toy_root / "annotations/train/0.png", np.full((30, 40), 3, np.uint8))
    assert check(toy_root, reduced).splits["train"].pixels["tree"] == 1200
    assert "3 (1200 pixels)" in refused(toy_root, changed())
    write_labels(toy_root / "annotations/train/0.png", np.full((30, 40), 4, np.uint8))
    assert "allowed: 1-3 for the 3 classes, 0, 255 (ignored)" in refused(toy_root, reduced)


def test_ignore_index_right_after_the_classes(changed, toy_root: Path) -> None:
    dataset = changed(classes=("sky", "road"), ignore_index=2)
    assert "255 (1 pixels); allowed: 0-1 for the 2 classes, 2 (ignored)" in refused(
        toy_root, dataset
    )


def test_palette_is_fine_and_colour_is_not(toy: DatasetSpec, toy_root: Path) -> None:
    path = toy_root / "annotations/train/0.png"
    with Image.open(path) as file:
        labels = np.asarray(file)
    before = check(toy_root, toy).splits["train"].pixels
    palette = Image.fromarray(labels)
    palette.putpalette([7, 7, 7] * 256)  # the colours mean nothing, the indices do
    palette.save(path)
    with Image.open(path) as file:
        assert file.mode == "P"
    assert check(toy_root, toy).splits["train"].pixels == before
    Image.fromarray(labels).convert("RGB").save(path)
    message = refused(toy_root, toy)
    assert message.startswith(f"{path}: an annotation must have one channel")
    assert "'RGB'" in message


def test_one_bit_a_pixel_is_a_label_map(changed, toy_root: Path) -> None:
    for path in (toy_root / "annotations").rglob("*.png"):
        labels = np.zeros((30, 40), np.uint8)
        labels[:10] = 1
        Image.fromarray(255 * labels).convert("1").save(path)
    report = check(toy_root, changed(classes=("ground", "leaf")))
    assert report.splits["val"].pixels == {"ground": 2 * 800, "leaf": 2 * 400}


def test_a_checksum_that_does_not_hold_is_damage(toy: DatasetSpec, toy_root: Path) -> None:
    path = toy_root / "annotations/val/1.png"
    data = bytearray(path.read_bytes())
    data[data.index(b"IEND") - 5] ^= 1  # the last byte of the checksum of the pixels
    path.write_bytes(data)
    assert np.asarray(Image.open(path)).shape == (30, 40), "decoding does not look at it"
    assert refused(toy_root, toy).startswith(f"{path}: can not be decoded (")
    with pytest.raises(DataError, match="can not be decoded"):
        label_maps.read(path)


def test_a_folder_that_can_not_be_read_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By relative names: others than the owner may not enter the folders above.
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    folder = Path("images")
    closed = folder / "closed"
    closed.mkdir(parents=True)
    (folder / "a.jpg").touch()
    (closed / "b.jpg").touch()
    assert layout.stems(folder, ".jpg").keys() == {"a", "closed/b"}
    closed.chmod(0)
    try:
        with unprivileged(), pytest.raises(DataError) as error:
            layout.stems(folder, ".jpg")
    finally:
        closed.chmod(0o755)
    assert str(error.value) == (
        f"{closed}: can not be read (Permission denied). Change its permissions."
    )


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Root may read everything: be someone else for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_sizes_that_differ(toy: DatasetSpec, toy_root: Path) -> None:
    write_labels(toy_root / "annotations/train/0.png", np.zeros((40, 30), np.uint8))
    message = refused(toy_root, toy)
    assert message.startswith(f"{toy_root / 'annotations/train/0.png'}: is 30×40 pixels")
    assert f"{toy_root / 'images/train/0.jpg'} is 40×30" in message


def test_photograph_turned_by_its_exif_orientation(toy: DatasetSpec, toy_root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(toy_root / "images/train/0.jpg", exif=exif)
    assert "is 30×40" in refused(toy_root, toy)


def test_missing_pair_and_missing_folder(toy: DatasetSpec, toy_root: Path) -> None:
    (toy_root / "annotations/train/1.png").unlink()
    assert refused(toy_root, toy).startswith(f"{toy_root / 'images/train/1.jpg'}: has no ann")
    shutil.rmtree(toy_root / "annotations/val")
    assert "the folder with the annotations of split 'val' is missing" in refused(toy_root, toy)


def test_train_split_has_to_be_there(changed, toy_root: Path) -> None:
    message = refused(toy_root, changed(train_split="training"))
    assert f"{toy_root / 'images/training'}: the folder with the images" in message


def test_empty_split(toy: DatasetSpec, toy_root: Path) -> None:
    for kind in ("images", "annotations"):
        shutil.rmtree(toy_root / kind / "val")
        (toy_root / kind / "val").mkdir()
    assert refused(toy_root, toy).startswith(f"{toy_root / 'images/val'}: no images")


def test_wrong_count(changed, toy_root: Path) -> None:
    check(toy_root, changed(counts={"train": 3, "val": 2}))
    message = refused(toy_root, changed(counts={"train": 4, "val": 2}))
    assert message.startswith(f"{toy_root / 'images/train'}: 3 images, expected 4.")
    assert "dataset.counts.train=3" in message


def test_wrong_digest(changed, toy_root: Path) -> None:
    found = check(toy_root, changed()).digest
    assert check(toy_root, changed(digest=found)).digest == found
    message = refused(toy_root, changed(digest="0" * 64))
    assert found in message
    assert f"expected {'0' * 64}" in message
    assert f"dataset.digest={found}" in message


def test_several_problems_in_one_message(toy: DatasetSpec, toy_root: Path) -> None:
    (toy_root / "annotations/val/1.png").unlink()
    write_labels(toy_root / "annotations/train/0.png", np.full((30, 40), 9, np.uint8))
    (toy_root / "images/train/2.jpg").write_bytes(b"")
    lines = refused(toy_root, toy).splitlines()
    assert lines[0].startswith(f"{toy_root / 'images/val/1.jpg'}: has no annotation")
    assert lines[1] == "2 others:"
    assert lines[2].startswith(f"  {toy_root / 'annotations/train/0.png'}: label out of range")
    assert lines[3].startswith(f"  {toy_root / 'images/train/2.jpg'}: can not be decoded")


def test_camvid(camvid_root: Path) -> None:
    dataset = read_spec("camvid")
    report = check(camvid_root, dataset)
    assert report.digest == dataset.digest
    found = {name: split.images for name, split in report.splits.items()}
    assert found == {"train": 367, "val": 101, "test": 233}
    for split in report.splits.values():
        assert split.smallest == split.largest == (480, 360)
        assert sum(split.pixels.values()) + split.ignored == split.images * 480 * 360
        assert split.absent == ()
        assert max(split.pixels, key=lambda name: split.pixels[name]) in ("road", "building")
        assert 0 < split.ignored < 0.1 * split.images * 480 * 360


def test_camvid_with_the_void_label_as_an_error(camvid_root: Path, changed) -> None:
    dataset = changed(classes=read_spec("camvid").classes, counts={"val": 101}, train_split="val")
    message = refused(camvid_root, dataset)
    assert "label out of range: 11 (" in message
    assert " others:" in message


def test_real_ade20k_pairs_have_label_zero_for_other(test_data: Path) -> None:
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
    report = check(root, dataset)
    assert report.splits["training"].ignored > 0
    assert report.splits["training"].pixels["class 1"] > 0
