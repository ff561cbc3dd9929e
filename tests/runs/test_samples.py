"""Files of samples: packed, read back, refused, reduced and published."""

from __future__ import annotations

import dataclasses
import io
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_samples import make_samples, write_samples

from protoseg.runs.results.samples import (
    MAPS,
    PUBLISHED_BYTES,
    Samples,
    check_origin,
    decode_similarities,
    find_samples,
    pack_arrays,
    read_samples,
)
from protoseg.runs.results.samples_reduction import (
    CLOSEST_SIDE,
    COMPONENTS,
    LABEL_SIDE,
    Level,
    fit_size,
    publish_samples,
    reduce_samples,
    resize_nearest,
    select_part,
)
from protoseg.runs.sealed import RecordError


def change_meta(samples: Samples, **values: Any) -> Samples:
    return dataclasses.replace(samples, meta={**samples.meta, **values})


def rewrite(path: Path, name: str, data: bytes) -> None:
    """Replace one array of a file, without its digest."""
    with zipfile.ZipFile(path) as archive:
        content = {entry: archive.read(entry) for entry in archive.namelist()}
    content[f"{name}.npy"] = data
    with zipfile.ZipFile(path, "w") as archive:
        for entry, value in content.items():
            archive.writestr(entry, value)


def encode_array(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_samples_are_read_as_they_were_packed(tmp_path: Path) -> None:
    samples = make_samples()
    again = read_samples(write_samples(samples, tmp_path / "samples.npz"))
    assert again.digest == samples.digest
    assert again.meta == samples.meta
    for name, array in samples.arrays.items():
        assert again.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(again.arrays[name], array)
    for name in MAPS:
        assert len(again.maps[name]) == 4
        for one, other in zip(again.maps[name], samples.maps[name], strict=True):
            np.testing.assert_array_equal(one, other)


def test_samples_without_prototypes_are_read_too(tmp_path: Path) -> None:
    samples = make_samples(prototypes=0)
    again = read_samples(write_samples(samples, tmp_path / "samples.npz"))
    assert again.num_prototypes == 0
    assert again.maps["closest"] == ()
    assert reduce_samples(again).arrays["prototype"].shape == (3, 0, 8)


def test_equal_values_give_equal_bytes_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_samples().pack()
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert make_samples().pack() == first
    assert make_samples(seed=1).pack() != first
    assert reduce_samples(make_samples()).pack() == reduce_samples(make_samples()).pack()
    assert pack_arrays({"a": np.arange(3)}) == pack_arrays({"a": np.arange(3)})


@pytest.mark.parametrize("name", ["prediction", "embedding", "confusion_count"])
def test_a_changed_value_is_refused(name: str, tmp_path: Path) -> None:
    path = write_samples(make_samples(), tmp_path / "samples.npz")
    with np.load(path) as archive:
        array = archive[name].copy()
    array.flat[0] += 1
    rewrite(path, name, encode_array(array))
    with pytest.raises(RecordError, match=r"do not match their digest. Remove it, then"):
        read_samples(path)


def test_a_file_that_is_cut_or_no_archive_is_refused(tmp_path: Path) -> None:
    path = write_samples(make_samples(), tmp_path / "samples.npz")
    for content in (path.read_bytes()[:-400], b"", b"text", pack_arrays({"a": np.arange(3)})):
        path.write_bytes(content)
        with pytest.raises(RecordError, match="not a file of samples"):
            read_samples(path)


def test_a_newer_version_asks_for_an_update(tmp_path: Path) -> None:
    path = write_samples(change_meta(make_samples(), version=9), tmp_path / "samples.npz")
    with pytest.raises(RecordError, match=r"version 9; this protoseg reads up to 1\. Update"):
        read_samples(path)


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/passwd", "images/../../x.png"])
def test_an_image_outside_of_the_data_is_refused(name: str, tmp_path: Path) -> None:
    samples = make_samples(number=1)
    path = write_samples(change_meta(samples, images=[name]), tmp_path / "samples.npz")
    with pytest.raises(RecordError, match="outside of the data folder"):
        read_samples(path)
    write_samples(change_meta(samples, folder=name), path)
    with pytest.raises(RecordError, match="outside of the data folder"):
        read_samples(path)
    sampled = [*samples.images, name]
    write_samples(change_meta(samples, sampled_images=sampled), path)
    with pytest.raises(RecordError, match="outside of the data folder"):
        read_samples(path)


def test_incomplete_samples_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    samples = make_samples()
    broken = {**samples.maps, "truth": samples.maps["truth"][:1]}
    write_samples(dataclasses.replace(samples, maps=broken), path)
    with pytest.raises(RecordError, match="images and label maps differ in number"):
        read_samples(path)
    write_samples(change_meta(samples, num_prototypes="3"), path)
    with pytest.raises(RecordError, match="'num_prototypes' is of another type"):
        read_samples(path)


def test_samples_of_another_model_are_refused(tmp_path: Path) -> None:
    samples = make_samples("run", "state")
    record = {"run_id": "run", "provenance": {"state_sha256": "state"}}
    check_origin(samples, record, tmp_path)
    for other in (
        {**record, "run_id": "other"},
        {**record, "provenance": {"state_sha256": "other"}},
    ):
        with pytest.raises(RecordError, match="of another model than the record"):
            check_origin(samples, other, tmp_path)


def test_published_samples_come_before_those_of_the_run_folder(tmp_path: Path) -> None:
    folders, runs = [tmp_path / "a", tmp_path / "b"], tmp_path / "runs"
    assert find_samples(folders, runs, "run") is None
    in_run = write_samples(make_samples(), runs / "run" / "samples.npz")
    assert find_samples(folders, runs, "run") == in_run
    assert find_samples(folders, None, "run") is None
    published = write_samples(make_samples(), tmp_path / "b" / "run.npz")
    assert find_samples(folders, runs, "run") == published


def test_similarities_are_decoded_over_their_range() -> None:
    samples = change_meta(make_samples(), similarity_range=[-1.0, 0.5])
    values = decode_similarities(samples, np.array([0, 51, 255], np.uint8))
    np.testing.assert_allclose(values, [-1.0, -0.7, 0.5], atol=1e-6)


def test_nearest_neighbour_takes_the_value_at_the_centre() -> None:
    array = np.arange(7 * 5).reshape(7, 5)
    resized = resize_nearest(array, (3, 2))
    for row in range(3):
        for column in range(2):
            y, x = int((row + 0.5) * 7 / 3), int((column + 0.5) * 5 / 2)
            assert resized[row, column] == array[y, x]
    np.testing.assert_array_equal(resize_nearest(array, (7, 5)), array)
    assert fit_size((100, 400), 200) == (50, 200)
    assert fit_size((10, 20), 200) == (10, 20)


def test_the_published_form_is_reduced_by_its_rule() -> None:
    samples = make_samples(size=(300, 400), width=40, number=2)
    part = reduce_samples(samples)
    assert part.meta["form"] == "published"
    assert part.meta["source"] == samples.digest
    assert reduce_samples(part) is part
    assert part.maps["truth"][0].shape == (150, LABEL_SIDE)
    expected = resize_nearest(samples.maps["prediction"][0], (150, 200))
    np.testing.assert_array_equal(part.maps["prediction"][0], expected)
    assert max(part.maps["closest"][0].shape) == CLOSEST_SIDE
    values = part.maps["similarity"][0].astype(int)
    old = resize_nearest(samples.maps["similarity"][0], values.shape).astype(int)
    assert len(np.unique(values)) == 16
    assert np.abs(values - old).max() <= 9


def test_projected_embeddings_keep_distances_of_unit_vectors() -> None:
    samples = make_samples(width=COMPONENTS)  # all components are kept
    part = reduce_samples(samples)
    old, new = samples.arrays["embedding"].astype(float), part.arrays["embedding"].astype(float)
    old /= np.linalg.norm(old, axis=1, keepdims=True)
    prototypes = samples.arrays["prototype"].astype(float)
    prototypes /= np.linalg.norm(prototypes, axis=-1, keepdims=True)
    for i, j in ((0, 1), (5, 30), (20, 59)):
        distance = np.linalg.norm(new[i] - new[j])
        assert distance == pytest.approx(np.linalg.norm(old[i] - old[j]), abs=3e-3)
    distance = np.linalg.norm(new[3] - part.arrays["prototype"][1, 2].astype(float))
    assert distance == pytest.approx(np.linalg.norm(old[3] - prototypes[1, 2]), abs=3e-3)
    variances = new.var(0)
    assert (np.diff(variances) < 1e-3).all()  # by falling variance


def test_hard_samples_stay_below_the_limit() -> None:
    """Noise with many classes cannot be compressed; fewer images and embeddings are kept."""
    classes = [f"class {i}" for i in range(60)]
    samples = make_samples(
        size=(140, 140), classes=classes, prototypes=10, number=16, width=256, per_class=100
    )
    part = reduce_samples(samples)
    assert len(part.pack()) <= PUBLISHED_BYTES
    assert 1 <= len(part.images) < 12
    assert len(part.maps["truth"]) == len(part.images) == len(part.arrays["image_miou"])
    assert len(np.unique(part.arrays["embedding_class"])) == 12
    assert part.meta["sampled_images"] == samples.images  # patches still name them


def test_a_part_has_embeddings_of_all_images_and_classes() -> None:
    samples = make_samples(per_class=50)
    part = select_part(samples, Level(2, 1, 10))
    assert np.bincount(part.arrays["embedding_class"]).tolist() == [10, 10, 10]
    assert [len(part.maps[name]) for name in MAPS] == [2, 2, 1, 1]
    rows = np.flatnonzero(samples.arrays["embedding_class"] == 1)[np.arange(10) * 5]
    chosen = part.arrays["embedding"][part.arrays["embedding_class"] == 1]
    np.testing.assert_array_equal(chosen, samples.arrays["embedding"][rows])


def test_published_samples_are_never_overwritten(tmp_path: Path) -> None:
    path, folder = write_samples(make_samples(), tmp_path / "samples.npz"), tmp_path / "published"
    assert publish_samples(path, folder)
    content = (folder / "run.npz").read_bytes()
    assert len(content) <= PUBLISHED_BYTES
    assert read_samples(folder / "run.npz").meta["source"] == make_samples().digest
    assert not publish_samples(path, folder)
    assert not publish_samples(folder / "run.npz", folder)  # published ones are the same
    write_samples(make_samples(seed=5), path)
    with pytest.raises(RecordError, match="other samples of run; they are kept"):
        publish_samples(path, folder)
    assert (folder / "run.npz").read_bytes() == content
