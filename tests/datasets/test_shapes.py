"""The built-in data set: reproducible pixels, complete folders, looks of each class."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from waiting import finish, wait_until

from datasets.helpers import read_spec
from protoseg.config.schema import DatasetSpec
from protoseg.datasets import digest, layout, shapes, shapes_drawing
from protoseg.datasets.check import check_data_set
from protoseg.errors import DataError, UsageError

SMALL = {"seed": 3, "size": 48, "train": 5, "val": 2}


def small_spec(**arguments: int) -> DatasetSpec:
    """The spec of a small built-in data set."""
    generator = {
        "name": "shapes",
        "version": shapes_drawing.GENERATOR_VERSION,
        **SMALL,
        **arguments,
    }
    return dataclasses.replace(
        read_spec("shapes"),
        generator=generator,
        counts={split: generator[split] for split in shapes.SPLITS},
        digest=shapes.generator_digest(generator),
    )


def read_all_pixels(root: Path) -> dict[str, bytes]:
    """Relative path -> pixels, for all images in a folder."""
    return {
        path.relative_to(root).as_posix(): np.asarray(Image.open(path)).tobytes()
        for path in root.rglob("*.png")
    }


def test_the_pixels_of_version_1_are_pinned() -> None:
    """If this fails, increase GENERATOR_VERSION and pin the new pixels here."""
    assert shapes_drawing.GENERATOR_VERSION == 1
    total = hashlib.sha256()
    for index in range(12):
        sample = shapes_drawing.draw_sample(64, 0, 0, index)
        for array in (sample.image, sample.labels, sample.looks):
            assert array.dtype == np.uint8
            total.update(array.tobytes())
    assert total.hexdigest() == "9bfda61b30c2eb4bbee0fea03a0c6198cd22d4364d62d1fc5a26056fa3025126"


def test_every_look_occurs_and_belongs_to_its_class() -> None:
    counts = np.zeros(len(shapes_drawing.CLASSES) * shapes_drawing.LOOKS_PER_CLASS, int)
    for index in range(60):
        sample = shapes_drawing.draw_sample(96, 0, 0, index)
        kept = sample.labels != shapes_drawing.IGNORE
        np.testing.assert_array_equal(kept, sample.looks != shapes_drawing.IGNORE)
        np.testing.assert_array_equal(
            sample.labels[kept], sample.looks[kept] // shapes_drawing.LOOKS_PER_CLASS
        )
        counts += np.bincount(sample.looks[kept], minlength=len(counts))
    assert counts.min() > 0
    assert [len(looks) for looks in shapes_drawing.LOOKS.values()] == [4] * 6


def test_the_mean_colour_of_a_class_resembles_none_of_its_looks() -> None:
    """The looks of a class differ in colour, and the colour does not determine the class."""
    samples = [shapes_drawing.draw_sample(96, 0, 0, index) for index in range(60)]
    image = np.concatenate([sample.image.reshape(-1, 3)[::7] for sample in samples]).astype(float)
    looks = np.concatenate([sample.looks.ravel()[::7] for sample in samples])
    means = np.stack([image[looks == look].mean(axis=0) for look in range(24)])
    distances = np.linalg.norm(means[:, None] - means[None], axis=-1)
    for first in range(0, 24, 4):
        within_class = distances[first : first + 4, first : first + 4]
        assert within_class[np.triu_indices(4, k=1)].min() > 25
    kept = looks != shapes_drawing.IGNORE
    nearest = np.linalg.norm(image[kept, None] - means[None], axis=-1).argmin(axis=1) // 4
    truth = looks[kept] // 4
    assert (nearest == truth)[truth > 0].mean() < 0.5


def test_ignored_outlines_exist_and_are_thin() -> None:
    ignored = [
        (shapes_drawing.draw_sample(96, 0, 0, i).labels == shapes_drawing.IGNORE).mean()
        for i in range(60)
    ]
    assert 0 < np.mean(ignored) < 0.04


def test_a_generated_data_set_passes_the_check(tmp_path: Path) -> None:
    dataset = small_spec()
    root = layout.find_root(dataset, tmp_path)
    assert root == tmp_path / f"shapes-{dataset.digest[:8]}"
    report = check_data_set(root, dataset)
    assert {name: split.images for name, split in report.splits.items()} == {"train": 5, "val": 2}
    assert report.digest == dataset.digest == digest.verify_digest(root, dataset)
    assert sorted(p.name for p in (root / "looks/val").iterdir()) == ["00000.png", "00001.png"]
    assert layout.find_root(small_spec(seed=4), tmp_path) != root


def test_the_same_arguments_give_the_same_pixels(tmp_path: Path) -> None:
    first = read_all_pixels(shapes.generate_data_set(tmp_path / "a", **SMALL))
    assert read_all_pixels(shapes.generate_data_set(tmp_path / "b", **SMALL)) == first
    other = read_all_pixels(shapes.generate_data_set(tmp_path / "c", **{**SMALL, "seed": 4}))
    assert not set(first.values()) & set(other.values())
    # More images do not change the first ones.
    more = read_all_pixels(shapes.generate_data_set(tmp_path / "d", **{**SMALL, "train": 6}))
    assert more.items() > first.items()


def test_a_second_call_changes_no_files(tmp_path: Path) -> None:
    root = shapes.generate_data_set(tmp_path / "a", **SMALL)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    shapes.generate_data_set(root, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_the_committed_spec_matches_the_generator() -> None:
    dataset = read_spec("shapes")
    assert dataset.classes == shapes_drawing.CLASSES
    assert dataset.digest == shapes.generator_digest(dataset.generator)
    assert dataset.counts == {split: dataset.generator[split] for split in shapes.SPLITS}


@pytest.mark.parametrize("name", ["precious.txt", "generator.json"])
def test_a_folder_with_other_content_is_not_changed(tmp_path: Path, name: str) -> None:
    root = tmp_path / "shapes"
    root.mkdir()
    (root / name).write_text('{"name": "mine"}')
    with pytest.raises(DataError, match="It was not changed"):
        shapes.generate_data_set(root, **SMALL)
    assert [(p.name, p.read_text()) for p in root.iterdir()] == [(name, '{"name": "mine"}')]
    assert not list(tmp_path.glob(".*.tmp"))


def test_other_arguments_do_not_overwrite_a_data_set(tmp_path: Path) -> None:
    root = shapes.generate_data_set(tmp_path / "a", **SMALL)
    before = read_all_pixels(root)
    with pytest.raises(DataError, match="not the data set 'shapes' with these arguments"):
        shapes.generate_data_set(root, **{**SMALL, "seed": 4})
    assert read_all_pixels(root) == before


def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        shapes.generate_data_set(tmp_path / "file" / "shapes", **SMALL)


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        ({"name": "shape", "version": 1}, r"unknown generator 'shape'\. Did you mean 'shapes'"),
        ({"name": "shapes", "version": 2}, "version: found 2, expected 1"),
        ({"name": "shapes"}, "version: found None, expected 1"),
        ({"name": "shapes", "version": 1, "sise": 9}, "unknown argument 'sise'.*'size'"),
        ({"name": "shapes", "version": 1, "size": 8}, "whole number from 32 to 1024, found 8"),
        ({"name": "shapes", "version": 1, "seed": True}, "found True"),
    ],
)
def test_invalid_generator_arguments_are_errors(generator: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        shapes.parse_arguments(generator)


def test_changed_or_missing_files_are_errors(tmp_path: Path) -> None:
    dataset = small_spec()
    root = layout.find_root(dataset, tmp_path)
    path = root / "annotations/val/00001.png"
    labels = np.array(Image.open(path))
    labels[0, 0] = (labels[0, 0] + 1) % 6
    Image.fromarray(labels).save(path)
    with pytest.raises(DataError, match="the pixels differ from the generated ones"):
        check_data_set(root, dataset)
    path.unlink()
    with pytest.raises(DataError, match="has no annotation"):
        digest.verify_digest(root, dataset)
    (root / "images/val/00001.png").unlink()
    with pytest.raises(DataError, match="has 1 images, 2 were generated"):
        digest.verify_digest(root, dataset)
    (root / "generator.json").unlink()
    with pytest.raises(DataError, match=r"'generator\.json' is missing"):
        digest.verify_digest(root, dataset)


def test_another_digest_is_an_error(tmp_path: Path) -> None:
    dataset = dataclasses.replace(small_spec(), digest="0" * 64)
    with pytest.raises(DataError, match=r"dataset\.digest="):
        digest.verify_digest(layout.find_root(dataset, tmp_path), dataset)


GENERATE = """
import json, sys
from pathlib import Path
from protoseg.datasets import shapes
shapes.generate_data_set(Path(sys.argv[1]), **json.loads(sys.argv[2]))
"""


def start_generation(root: Path, arguments: dict[str, int]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", GENERATE, str(root), json.dumps(arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_a_killed_generation_leaves_no_incomplete_data_set(tmp_path: Path) -> None:
    root = tmp_path / "data" / "shapes"
    process = start_generation(root, {**SMALL, "train": 50_000})
    try:
        wait_until(
            lambda: process.poll() is not None or len(list(tmp_path.rglob("*.png"))) >= 20,
            "the first 20 images",
        )
    finally:
        process.kill()
        _, errors = finish(process)
    assert process.returncode == -signal.SIGKILL, errors
    (temporary,) = root.parent.iterdir()
    assert not root.exists()
    shapes.generate_data_set(root, **SMALL)
    assert temporary.exists()  # a process on another machine may still write it
    assert len(read_all_pixels(root)) == 3 * (SMALL["train"] + SMALL["val"])

    long_ago = time.time() - 2 * shapes.STALE_SECONDS
    os.utime(temporary, (long_ago, long_ago))
    shapes.generate_data_set(root.with_name("other"), **SMALL)
    assert temporary.exists()  # it belongs to another data set
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    shapes.generate_data_set(root, **SMALL)
    assert not temporary.exists()


def test_concurrent_generations_succeed_with_one_data_set(tmp_path: Path) -> None:
    root = tmp_path / "data" / "shapes"
    arguments = {**SMALL, "train": 150}
    processes = [start_generation(root, arguments) for _ in range(3)]
    for process in processes:
        _, errors = finish(process)
        assert process.returncode == 0, errors
    assert list(root.parent.iterdir()) == [root]
    expected = shapes.generate_data_set(tmp_path / "expected", **arguments)
    assert read_all_pixels(root) == read_all_pixels(expected)


def test_a_data_set_created_just_before_the_rename_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data" / "shapes"
    rename = os.rename

    def rename_late(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "rename", rename)
        shapes.generate_data_set(root, **SMALL)
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_late)
    shapes.generate_data_set(root, **SMALL)
    assert list(root.parent.iterdir()) == [root]


def test_the_folder_is_complete_as_soon_as_it_exists(tmp_path: Path) -> None:
    root = tmp_path / "data" / "shapes"
    process = start_generation(root, {**SMALL, "train": 150})
    try:
        wait_until(
            lambda: root.exists() or process.poll() is not None,
            "the data set",
            poll_seconds=0.0005,
        )
    except AssertionError:
        process.kill()
        raise
    assert len(list(root.rglob("*.png"))) == 3 * (150 + SMALL["val"])
    assert shapes.read_marker(root) is not None
    _, errors = finish(process)
    assert process.returncode == 0, errors


def test_a_foreign_folder_created_just_before_the_rename_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data" / "shapes"
    rename = os.rename

    def rename_late(source: Path, target: Path) -> None:
        root.mkdir()
        (root / "precious.txt").write_text("mine")
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_late)
    with pytest.raises(DataError, match="It was not changed"):
        shapes.generate_data_set(root, **SMALL)
    assert list(root.parent.rglob("*")) == [root, root / "precious.txt"]


def test_checking_data_does_not_import_torch() -> None:
    code = (
        "import sys; from protoseg.datasets import check, digest, layout, shapes; "
        "sys.exit('torch' in sys.modules or 'mmseg' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
