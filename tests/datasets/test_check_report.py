"""The check counts pixels and images of each class, names equal pictures, and uses processes."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.helpers import write_labels
from protoseg.config.schema import DatasetSpec
from protoseg.datasets import check
from protoseg.datasets.readers.photographs import check_photograph, read_photograph
from protoseg.datasets.worker_pool import WorkerPool
from protoseg.errors import DataError, ProtosegError


def count_by_hand(root: Path, split: str, value: int) -> tuple[int, int]:
    """Pixels and images of a label value, counted with NumPy alone."""
    maps = [np.asarray(Image.open(p)) for p in (root / "annotations" / split).iterdir()]
    return sum(int((m == value).sum()) for m in maps), sum(bool((m == value).any()) for m in maps)


def test_pixels_images_and_share_of_each_class(toy: DatasetSpec, toy_root: Path) -> None:
    write_labels(toy_root / "annotations/train/1.png", np.full((30, 40), 2, np.uint8))
    train = check.check_data_set(toy_root, toy).splits["train"]
    for value, name in enumerate(toy.classes):
        expected = count_by_hand(toy_root, "train", value)
        assert (train.pixels[name], train.images_with[name]) == expected
        assert train.find_share(name) == expected[0] / (3 * 1200 - 2)
    assert train.images_with == {"sky": 2, "road": 2, "tree": 3}


def test_sixteen_bit_maps_are_counted_as_eight_bit_ones(
    toy: DatasetSpec, toy_root: Path, tmp_path: Path
) -> None:
    before = check.check_data_set(toy_root, toy).splits
    for path in (toy_root / "annotations").rglob("*.png"):
        write_labels(path, np.asarray(Image.open(path)).astype(np.uint16))
    assert check.check_data_set(toy_root, toy).splits == before


@pytest.mark.parametrize("many", [0, 8000])
def test_processes_and_threads_give_the_same_report(
    toy: DatasetSpec, toy_root: Path, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    expected = check.check_data_set(toy_root, toy, jobs=1)
    monkeypatch.setattr(check, "MANY_FILES", many)
    report = check.check_data_set(toy_root, toy, jobs=2)
    assert dataclasses.replace(report, seconds=expected.seconds) == expected


def test_a_picture_in_two_splits_or_twice_in_one_is_named(toy: DatasetSpec, toy_root: Path) -> None:
    images = toy_root / "images"
    assert check.check_data_set(toy_root, toy).equal_pictures == ()
    shutil.copy(images / "train/2.jpg", images / "val/0.jpg")
    shutil.copy(images / "train/2.jpg", images / "train/0.jpg")
    report = check.check_data_set(toy_root, toy)
    assert [(e.splits, e.count, e.examples) for e in report.equal_pictures] == [
        (("train", "train"), 1, (("images/train/0.jpg", "images/train/2.jpg"),)),
        (("train", "val"), 1, (("images/train/0.jpg", "images/val/0.jpg"),)),
    ]
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["equal_pictures"][1]["splits"] == ["train", "val"]
    assert plain["splits"]["val"]["share"].keys() == {"sky", "road", "tree"}


def test_many_equal_pictures_are_counted_and_five_are_named(
    toy: DatasetSpec, toy_root: Path
) -> None:
    for index in range(3, 11):
        for folder, suffix in (("images", "jpg"), ("annotations", "png")):
            source = toy_root / folder / f"train/0.{suffix}"
            shutil.copy(source, toy_root / folder / f"val/{index}.{suffix}")
    (equal,) = check.check_data_set(toy_root, toy).equal_pictures
    assert (equal.splits, equal.count, len(equal.examples)) == (("train", "val"), 8, 5)


def test_the_digest_is_the_same_after_a_check_and_alone(toy: DatasetSpec, toy_root: Path) -> None:
    from protoseg.datasets.digest import folder_digest

    report = check.check_data_set(toy_root, toy)
    shutil.rmtree(os.environ["PROTOSEG_CACHE"], ignore_errors=True)
    assert report.digest == folder_digest(toy_root, toy)


def write_jpeg(path: Path, exif: int = 1, **options: object) -> bytes:
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 256, (8, 11, 3)), np.ones((9, 7, 1))).astype(np.uint8)
    tags = Image.Exif()
    tags[0x0112] = exif
    Image.fromarray(pixels).save(path, "JPEG", exif=tags, **options)
    return path.read_bytes()


@pytest.mark.parametrize("exif", range(1, 9))
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30, "subsampling": 2}])
def test_a_photograph_has_the_size_that_training_reads(
    tmp_path: Path, exif: int, options: dict[str, object]
) -> None:
    content = write_jpeg(tmp_path / "a.jpg", exif, **options)
    size, orientation = check_photograph(tmp_path / "a.jpg", content)
    assert orientation == exif
    assert size == read_photograph(tmp_path / "a.jpg").shape[:2]
    assert size == ((72, 77) if exif < 5 else (77, 72))


def is_refused(path: Path, content: bytes, *, quick: bool) -> bool:
    path.write_bytes(content)
    try:
        check_photograph(path, content) if quick else read_photograph(path)
    except DataError:
        return True
    return False


@pytest.mark.parametrize("progressive", [False, True])
def test_the_check_refuses_the_damaged_photographs_that_training_refuses(
    tmp_path: Path, progressive: bool
) -> None:
    path = tmp_path / "a.jpg"
    whole = write_jpeg(path, progressive=progressive)
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(150):
        content = bytearray(whole)
        if rng.integers(2):
            del content[int(rng.integers(2, len(whole))) :]
        for position in rng.integers(0, len(content), int(rng.integers(0, 4))):
            content[position] = int(rng.integers(256))
        expected = is_refused(path, bytes(content), quick=False)
        assert is_refused(path, bytes(content), quick=True) == expected
        refused += expected
    assert 20 < refused < 150


def kill_process(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_process_is_a_clear_error() -> None:
    with (
        WorkerPool(1, use_processes=True) as pool,
        pytest.raises(ProtosegError, match=r"a process that reads files was killed"),
    ):
        list(pool.map_tasks(kill_process, range(8)))


def test_tasks_are_taken_as_results_are_used() -> None:
    taken = []

    def tasks() -> object:
        for number in range(100):
            taken.append(number)
            yield number

    with WorkerPool(2, use_processes=False) as pool:
        results = pool.map_tasks(abs, tasks())  # type: ignore[arg-type]
        assert next(results) == 0
        assert len(taken) <= 10
        assert list(results) == list(range(1, 100))
