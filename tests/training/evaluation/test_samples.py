"""Samples of a trained run, compared with its record and with the head, pixel by pixel."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from protoseg.config.schema import RunSpec
from protoseg.datasets.layout import find_root
from protoseg.errors import ProtosegError, UsageError
from protoseg.report.statistics.counts import read_counts
from protoseg.report.verify.samples import find_problems
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import read_record
from protoseg.runs.results.samples import (
    FULL_BYTES,
    check_origin,
    decode_similarities,
    read_samples,
)
from protoseg.runs.results.samples_reduction import resize_nearest
from protoseg.training.evaluation import confusion, samples
from protoseg.training.evaluation.finished_run import load_model
from protoseg.training.evaluation.finished_samples import sample_finished_run
from protoseg.training.evaluation.samples import choose_images, collect_samples
from training.small import HIERARCHICAL, log, make_folder, small_spec, work


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    return small_spec("schedule.iterations=6")


@pytest.fixture(scope="module")
def finished(spec: RunSpec, data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run with K = 3 on four images."""
    folder = make_folder(tmp_path_factory.mktemp("runs"), spec, data)
    status, output = work(folder)
    assert status == 0, output
    return folder


@pytest.fixture(scope="module")
def parts(finished: RunFolder, spec: RunSpec, data: Path) -> Any:
    return load_model(finished, read_record(finished.record), spec, find_root(spec.dataset, data))


def predict(parts: Any, index: int) -> tuple[Any, Any]:
    """Ground truth and prediction of an image at full size."""
    batch = parts.test_loader.collate_fn([parts.test_loader.dataset[index]])
    parts.module.eval()
    with torch.no_grad():
        (sample,) = parts.module.test_step(batch)
    return sample.gt_sem_seg.data[0].numpy(), sample.pred_sem_seg.data[0].numpy()


def test_a_worker_writes_samples_of_the_recorded_model(finished: RunFolder) -> None:
    content = read_samples(finished.samples)
    record = read_record(finished.record)
    check_origin(content, record, finished.samples)
    assert finished.samples.stat().st_size <= FULL_BYTES
    assert content.meta["count_difference"] == 0
    assert not find_problems(content, finished.confusion)
    assert sorted(content.images) == [f"images/val/{i:05}.png" for i in range(4)]
    assert content.num_prototypes == 3
    assert "no samples" not in log(finished)


def test_label_maps_are_the_counted_predictions(finished: RunFolder, parts: Any) -> None:
    """The predictions at full size, counted pixel by pixel, are the counts of the record."""
    content, counts = read_samples(finished.samples), read_counts(finished.confusion)
    for position, index in enumerate(content.arrays["image_index"].tolist()):
        truth, labels = predict(parts, index)
        np.testing.assert_array_equal(content.maps["truth"][position], truth)
        np.testing.assert_array_equal(content.maps["prediction"][position], labels)
        pairs = zip(truth.ravel().tolist(), labels.ravel().tolist(), strict=True)
        counted = Counter(6 * t + p for t, p in pairs if t < 6)
        chosen = counts.image == index
        recorded = dict(
            zip(counts.cell[chosen].tolist(), counts.pixels[chosen].tolist(), strict=True)
        )
        assert counted == recorded
        ious = []
        for c in range(6):
            union = ((truth == c) | (labels == c)) & (truth < 6)
            if union.any():
                ious.append(100 * ((truth == c) & (labels == c)).sum() / union.sum())
        assert content.arrays["image_miou"][position] == pytest.approx(np.mean(ious))


def test_prototype_maps_are_those_of_the_head(finished: RunFolder, parts: Any) -> None:
    """Closest prototypes, similarities, counts and nearest pixels, from the embeddings alone."""
    content, head = read_samples(finished.samples), parts.module.decode_head
    prototypes = head.bank.prototypes.numpy().reshape(18, -1)
    pixels, nearest = np.zeros(18, int), {}
    for position, index in enumerate(content.arrays["image_index"].tolist()):
        batch = parts.test_loader.collate_fn([parts.test_loader.dataset[index]])
        parts.module.eval()
        with torch.no_grad():
            inputs = parts.module.data_preprocessor(batch, False)["inputs"]
            maps = head.compute_embeddings(parts.module.extract_feat(inputs))[0].numpy()
        cosines = np.einsum("hwd,pd->hwp", maps, prototypes)
        closest, similarity = cosines.argmax(2), cosines.max(2)
        assert (content.maps["closest"][position] == closest).mean() > 0.999  # ties by rounding
        stored = decode_similarities(content, content.maps["similarity"][position])
        low, high = content.meta["similarity_range"]
        np.testing.assert_allclose(stored, similarity, atol=0.6 * (high - low) / 255 + 1e-6)
        pixels += np.bincount(closest.ravel(), minlength=18)
        scale = 48 / closest.shape[0]
        for p in range(18):
            if (closest == p).any():
                best = float(similarity[closest == p].max())
                nearest.setdefault(p, []).append((best, position, closest == p, similarity, scale))
    np.testing.assert_allclose(content.arrays["prototype_pixels"].ravel(), pixels, atol=1)
    classes = content.arrays["prototype_class"].tolist()
    for p, of_prototype in nearest.items():
        c, k = divmod(p, 3)
        if c not in classes:
            continue
        stored = content.arrays["nearest_similarity"][classes.index(c), k]
        expected = sorted((each[0] for each in of_prototype), reverse=True)
        np.testing.assert_allclose(stored[: len(expected)], expected, atol=1e-5)
        image, row, column = content.arrays["nearest"][classes.index(c), k, 0]
        (_, _, mask, similarity, scale) = next(e for e in of_prototype if e[1] == image)
        at = int(row / scale), int(column / scale)
        assert mask[at]
        assert similarity[at] == pytest.approx(expected[0], abs=1e-5)
        assert (content.arrays["nearest"][classes.index(c), k, len(expected) :] == -1).all()


def test_embeddings_are_pixels_of_their_image_and_class(finished: RunFolder, parts: Any) -> None:
    content, head = read_samples(finished.samples), parts.module.decode_head
    arrays = content.arrays
    for position, index in enumerate(arrays["image_index"].tolist()):
        batch = parts.test_loader.collate_fn([parts.test_loader.dataset[index]])
        parts.module.eval()
        with torch.no_grad():
            inputs = parts.module.data_preprocessor(batch, False)["inputs"]
            maps = head.compute_embeddings(parts.module.extract_feat(inputs))[0].numpy()
        truth = resize_nearest(predict(parts, index)[0], maps.shape[:2])
        for c in range(6):
            of_class = maps[truth == c]
            chosen = (arrays["embedding_image"] == position) & (arrays["embedding_class"] == c)
            for row in arrays["embedding"][chosen][:5].astype(np.float32):
                assert np.abs(of_class - row).max(1).min() < 2e-3
    norms = np.linalg.norm(arrays["embedding"].astype(float), axis=1)
    np.testing.assert_allclose(norms, 1, atol=5e-3)
    closest = arrays["embedding_prototype"]
    assert ((closest >= 0) & (closest < 18)).all()


def test_equal_models_give_equal_bytes(finished: RunFolder, data: Path, tmp_path: Path) -> None:
    """Another process, at another time, in another folder: the bytes are those of the worker."""
    copy = RunFolder(tmp_path / finished.run_id)
    shutil.copytree(finished.path, copy.path)
    copy.samples.unlink()
    steps: list[tuple[int, int]] = []
    sample_finished_run(copy, data, lambda *step: steps.append(step))
    assert copy.samples.read_bytes() == finished.samples.read_bytes()
    assert steps == [(i, 4) for i in (1, 2, 3, 4)]


def test_the_model_and_its_head_are_as_before(parts: Any, finished: RunFolder, data: Path) -> None:
    spec = small_spec("schedule.iterations=6")
    parts.module.train()
    before = {name: value.clone() for name, value in parts.module.state_dict().items()}
    state = torch.get_rng_state()
    counts = confusion.unpack_counts(finished.confusion.read_bytes())
    collect_samples(parts, spec, counts, data, finished.run_id, "state")
    assert parts.module.training
    assert "classify" not in vars(parts.module.decode_head)
    assert torch.equal(state, torch.get_rng_state())
    for name, value in parts.module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_predictions_that_are_not_those_of_the_record_are_refused(
    parts: Any, finished: RunFolder, data: Path, spec: RunSpec
) -> None:
    counts = confusion.unpack_counts(finished.confusion.read_bytes())
    moved = [(number, (cells + 1) % 36, pixels) for number, cells, pixels in counts]
    with pytest.raises(ProtosegError, match="are predicted otherwise than in its record"):
        collect_samples(parts, spec, moved, data, finished.run_id, "state")


def test_sliding_windows_have_maps_of_the_whole_image(
    parts: Any, finished: RunFolder, data: Path, spec: RunSpec
) -> None:
    """With windows, prototypes are those of one pass over the whole image."""
    whole = read_samples(finished.samples)
    sliding = dataclasses.replace(
        spec, evaluation=dataclasses.replace(spec.evaluation, mode="slide")
    )
    counts = confusion.unpack_counts(finished.confusion.read_bytes())
    content = collect_samples(parts, sliding, counts, data, finished.run_id, "state")
    for one, other in zip(content.maps["closest"], whole.maps["closest"], strict=True):
        np.testing.assert_array_equal(one, other)


def test_weak_runs_have_no_samples(parts: Any, data: Path) -> None:
    spec = small_spec()
    weak = dataclasses.replace(spec, method=WeakMethod())
    with pytest.raises(UsageError, match="predicts pseudo-masks, which have no samples"):
        collect_samples(parts, weak, [], data, "run", "state")


class WeakMethod:
    """A method of the task ``weak``, for its message."""

    task = "weak"
    kind = "cam"


@pytest.mark.parametrize("method", ["parametric", "pixel_query", "hierarchical"])
def test_other_heads_have_embeddings_but_no_prototypes(
    method: str, data: Path, tmp_path: Path
) -> None:
    overrides = (f"method={method}", "~method.momentum")
    overrides = HIERARCHICAL if method == "hierarchical" else overrides
    spec = small_spec(*overrides, "schedule.iterations=4")
    folder = make_folder(tmp_path, spec, data)
    status, output = work(folder)
    assert status == 0, output
    content = read_samples(folder.samples)
    assert content.num_prototypes == 0
    assert content.maps["closest"] == ()
    assert (content.arrays["embedding_prototype"] == -1).all()
    assert len(content.arrays["embedding"]) > 20
    assert not find_problems(content, folder.confusion)


def test_an_error_leaves_the_run_done(spec: RunSpec, data: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, small_spec("schedule.iterations=4"), data)
    break_it = (
        "from protoseg.training.evaluation import samples\n"
        "def fail(*_): raise MemoryError('no memory')\n"
        "samples.choose_images = fail"
    )
    status, output = work(folder, break_it)
    assert status == 0, output
    read_record(folder.record)
    assert not folder.samples.exists()
    advice = f"no samples (MemoryError: no memory). To make them: protoseg samples {folder.run_id}"
    assert advice in log(folder)


def test_the_choice_of_images_depends_on_names_only() -> None:
    names = [f"images/val/{i}.png" for i in range(50)]
    chosen = [names[i] for i in choose_images(names, "camvid", "val", 8)]
    assert [names[::-1][i] for i in choose_images(names[::-1], "camvid", "val", 8)] == chosen
    assert [names[i] for i in choose_images(names, "camvid", "val", 4)] == chosen[:4]
    assert [names[i] for i in choose_images(names, "camvid", "test", 8)] != chosen
    assert [names[i] for i in choose_images(names, "other", "val", 8)] != chosen
    assert choose_images(names[:3], "camvid", "val", 8) != []
    assert samples.IMAGES == 16
