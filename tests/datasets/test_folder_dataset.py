"""What training sees is a function of (seed, iteration, position) alone."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from PIL import Image
from training.small import small_spec

from protoseg.config.fields import plain
from protoseg.config.schema import DatasetSpec
from protoseg.datasets import folder_dataset
from protoseg.datasets.folder_dataset import (
    SampleRequest,
    SegmentationFolder,
    StatelessSampler,
    permutation,
)
from protoseg.errors import DataError
from protoseg.runs.folder import RunFolder
from protoseg.training.build.components import build_components
from protoseg.training.build.config import build_config
from protoseg.training.loop import TrainingLoop
from protoseg.training.signals import StopRequest, StopRequested

LOAD = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
STRONG = (
    "augmentation.photometric=true",
    "augmentation.ratio_range=[0.5,2.0]",
    "augmentation.cat_max_ratio=0.75",
    "augmentation.crop_size=[32,40]",
)


def digest_of(batch: dict[str, Any]) -> list[str]:
    """A digest of each sample of a batch: its pixels, its labels, which image it is."""
    found = []
    for image, sample in zip(batch["inputs"], batch["data_samples"], strict=True):
        text = image.numpy().tobytes() + sample.gt_sem_seg.data.numpy().tobytes()
        name = Path(sample.img_path).name
        found.append(name + " " + hashlib.sha256(text).hexdigest()[:12])
    return found


def seen(root: Path, *overrides: str, **arguments: Any) -> list[str]:
    """Digests of all samples of a training, in order."""
    spec = small_spec(*STRONG, *overrides)
    config = build_config(spec, data_root=root, **arguments)
    loader = Runner.build_dataloader(config.train_dataloader, seed=spec.seed)
    return [digest for batch in loader for digest in digest_of(batch)]


@pytest.fixture(scope="module")
def whole(shapes_root: Path) -> list[str]:
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmseg"):
        return seen(shapes_root)


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_workers_give_the_same_samples(
    whole: list[str], shapes_root: Path, workers: int
) -> None:
    assert len(whole) == 12 * 4
    assert seen(shapes_root, num_workers=workers) == whole


def test_two_processes_load_what_one_would(
    whole: list[str], shapes_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the pixel: augmentation belongs to the place in the whole batch."""
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(folder_dataset, "get_dist_info", lambda rank=rank: (rank, 2))
        shares.append(seen(shapes_root, world_size=2))
    together = []
    for i in range(0, len(whole) // 2, 2):
        together += shares[0][i : i + 2] + shares[1][i : i + 2]
    assert together == whole


def test_going_on_at_iteration_150000_replays_nothing(
    shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One iteration reads the images of one batch, and orders one epoch, wherever it is."""
    images: list[int] = []
    epochs: set[int] = set()
    load, order = SegmentationFolder._load, folder_dataset.permutation

    def loaded(self: SegmentationFolder, index: int) -> Any:
        images.append(index)
        return load(self, index)

    def ordered(seed: int, epoch: int, size: int) -> Any:
        epochs.add(epoch)
        return order(seed, epoch, size)

    monkeypatch.setattr(SegmentationFolder, "_load", loaded)
    monkeypatch.setattr(folder_dataset, "permutation", ordered)
    spec = small_spec("schedule.iterations=160000")
    for start in (0, 150_000):
        images.clear()
        epochs.clear()
        parts = build_components(build_config(spec, data_root=shapes_root, start=start), None)
        stop = StopRequest()
        stop.signal_number = signal.SIGTERM  # at the first chance, after one iteration
        folder = RunFolder(tmp_path / str(start))
        folder.path.mkdir()
        with pytest.raises(StopRequested):
            TrainingLoop(parts, folder, 160_000, 1e9, stop).run(start)
        assert len(images) == 4
        assert epochs == {start * 4 // 16}
        assert folder.checkpoint_iteration() == start + 1


@pytest.mark.parametrize("start", [1, 5, 11])
def test_a_later_start_gives_the_tail(whole: list[str], shapes_root: Path, start: int) -> None:
    assert seen(shapes_root, start=start) == whole[4 * start :]


def test_a_longer_training_begins_the_same(whole: list[str], shapes_root: Path) -> None:
    assert seen(shapes_root, "schedule.iterations=14")[: len(whole)] == whole


def test_another_batch_size_sees_the_same_samples_in_the_same_order(
    whole: list[str], shapes_root: Path
) -> None:
    found = seen(shapes_root, "schedule.batch_size=8", "schedule.iterations=6")
    assert found == whole


def test_another_seed_sees_others(whole: list[str], shapes_root: Path) -> None:
    other = seen(shapes_root, "seed=1")
    assert not set(whole) & set(other)
    assert [s.split()[0] for s in whole] != [s.split()[0] for s in other]


def test_the_global_generators_do_not_matter(whole: list[str], shapes_root: Path) -> None:
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    assert seen(shapes_root) == whole


def test_the_global_generators_are_left_as_they_were(shapes_root: Path) -> None:
    spec = small_spec(*STRONG)
    config = build_config(spec, data_root=shapes_root)
    dataset = Runner.build_dataloader(config.train_dataloader, seed=0).dataset

    def states() -> tuple[Any, ...]:
        key = np.random.get_state()
        return random.getstate(), key[1].tolist(), key[2], torch.get_rng_state().tolist()

    before = states()
    for number in range(5):
        dataset[SampleRequest(number, seed=0, number=number)]
    assert states() == before


def test_they_are_left_as_they_were_even_where_a_sample_fails(shapes_root: Path) -> None:
    spec = small_spec()
    dataset = SegmentationFolder(str(shapes_root), plain(spec.dataset), "train", LOAD)
    dataset.samples[0] = dataset.samples[0]._replace(image=Path("nowhere.png"))
    before = torch.get_rng_state(), random.getstate()
    with pytest.raises(DataError):
        dataset[SampleRequest(0, seed=0, number=0)]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_augmentation_differs_between_epochs(whole: list[str]) -> None:
    assert len(set(whole)) == len(whole), "the same crop of the same image twice"
    by_image = Counter(digest.split()[0] for digest in whole)
    assert set(by_image.values()) == {3}


# The order


def draws(size: int, **changes: Any) -> list[SampleRequest]:
    settings = {"seed": 3, "batch_size": 4, "iterations": 20, **changes}
    return list(StatelessSampler(range(size), **settings))


def test_each_epoch_is_a_permutation() -> None:
    images = [draw.image for draw in draws(10)]
    epochs = [images[i : i + 10] for i in range(0, 80, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 8
    assert len({draw.number for draw in draws(10)}) == 80


def test_permutations_are_the_same_everywhere() -> None:
    """Pinned: another order would be another training."""
    assert permutation(0, 0, 8).tolist() == [1, 6, 5, 3, 0, 4, 7, 2]
    assert permutation(7, 2, 5).tolist() == [4, 0, 3, 1, 2]


def test_a_batch_larger_than_the_data_set() -> None:
    assert Counter(d.image for d in draws(3, batch_size=6, iterations=2)) == {0: 4, 1: 4, 2: 4}


@pytest.mark.parametrize("start", [0, 7])
def test_two_processes_share_what_one_would_see(
    monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    alone = draws(10, start=start)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(folder_dataset, "get_dist_info", lambda rank=rank: (rank, 2))
        sampler = StatelessSampler(range(10), 3, 4, 20, start)
        shares.append(list(sampler))
        assert len(sampler) == len(shares[-1]) == (20 - start) * 2
    first, second = ([d.number for d in share] for share in shares)
    assert not set(first) & set(second)
    together = []
    for i in range(0, len(first), 2):
        together += shares[0][i : i + 2] + shares[1][i : i + 2]
    assert together == alone


# Labels


@pytest.fixture
def labelled(tmp_path: Path) -> Callable[..., SegmentationFolder]:
    """A data set of one image, with the given label map and settings."""

    def make(labels: Any, **settings: Any) -> SegmentationFolder:
        labels = np.asarray(labels, np.uint8)
        for kind in ("images", "annotations"):
            (tmp_path / kind / "train").mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((*labels.shape[:2], 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / "train" / "a.png")
        Image.fromarray(labels).save(tmp_path / "annotations" / "train" / "a.png")
        spec = DatasetSpec(
            name="toy",
            digest="unpinned",
            classes=("a", "b", "c"),
            image_suffix=".png",
            **settings,
        )
        return SegmentationFolder(str(tmp_path), plain(spec), "train", LOAD)

    return make


def loaded(dataset: SegmentationFolder) -> list[list[int]]:
    return dataset[0]["data_samples"].gt_sem_seg.data[0].tolist()


@pytest.mark.parametrize(
    ("raw", "settings", "expected"),
    [
        ([[0, 1], [2, 255]], {}, [[0, 1], [2, 255]]),
        ([[0, 1], [2, 11]], {"ignore_index": 11}, [[0, 1], [2, 255]]),
        ([[0, 1], [2, 2]], {"ignore_index": 0}, [[255, 1], [2, 2]]),
        ([[0, 1], [3, 255]], {"reduce_zero_label": True}, [[255, 0], [2, 255]]),
        ([[0, 1], [3, 0]], {"reduce_zero_label": True, "ignore_index": 0}, [[255, 0], [2, 255]]),
        ([[0, 1], [3, 9]], {"reduce_zero_label": True, "ignore_index": 9}, [[255, 0], [2, 255]]),
    ],
)
def test_ignored_labels_become_255(
    labelled: Callable[..., SegmentationFolder],
    raw: Any,
    settings: dict[str, Any],
    expected: Any,
) -> None:
    dataset = labelled(raw, **settings)
    assert loaded(dataset) == expected
    assert loaded(dataset) == expected, "the second time is like the first"


def test_camvids_void_is_ignored() -> None:
    from training.small import compose

    spec = compose("dataset=camvid").dataset
    assert (len(spec.classes), spec.ignore_index) == (11, 11)


@pytest.mark.parametrize(
    ("raw", "settings", "value"),
    [
        ([[0, 1], [2, 3]], {}, 3),
        ([[0, 1], [2, 255]], {"ignore_index": 11, "name": "x"}, None),
        ([[0, 12], [2, 11]], {"ignore_index": 11}, 12),
        ([[0, 4], [3, 255]], {"reduce_zero_label": True}, 4),
    ],
)
def test_a_label_out_of_range_names_file_and_value(
    labelled: Callable[..., SegmentationFolder], raw: Any, settings: dict, value: int | None
) -> None:
    settings.pop("name", None)
    dataset = labelled(raw, **settings)
    if value is None:  # 255 means ignored whatever the spec says
        assert loaded(dataset) == raw
        return
    with pytest.raises(DataError, match=rf"a\.png: label out of range: {value} \(1 pixels") as e:
        dataset[0]
    assert "\n" not in str(e.value)


def test_files_that_can_not_be_read_are_named(
    labelled: Callable[..., SegmentationFolder], tmp_path: Path
) -> None:
    dataset = labelled([[0, 1], [1, 2]])
    for kind in ("images", "annotations"):
        path = tmp_path / kind / "train" / "a.png"
        whole = path.read_bytes()
        for damaged in (whole[: len(whole) // 2], b"", b"no picture"):
            path.write_bytes(damaged)
            with pytest.raises(DataError, match=rf"{kind}/train/a\.png: can not be read") as e:
                dataset[0]
            assert "\n" not in str(e.value)
        path.unlink()
        with pytest.raises(DataError, match=rf"{kind}/train/a\.png: can not be read"):
            dataset[0]
        path.write_bytes(whole)
    assert loaded(dataset) == [[0, 1], [1, 2]]


def test_a_label_map_of_another_size_or_in_colour(
    labelled: Callable[..., SegmentationFolder], tmp_path: Path
) -> None:
    dataset = labelled([[0, 1], [1, 2]])
    path = tmp_path / "annotations" / "train" / "a.png"
    for pixels in (np.zeros((2, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)):
        Image.fromarray(pixels).save(path)
        with pytest.raises(DataError, match=r"a\.png: has the shape"):
            dataset[0]


def test_bad_data_in_a_loader_process_keeps_its_kind(shapes_root: Path) -> None:
    spec = small_spec()
    wrong = dataclasses.replace(spec.dataset, classes=spec.dataset.classes[:2])
    config = build_config(
        dataclasses.replace(spec, dataset=wrong), data_root=shapes_root, num_workers=1
    )
    with pytest.raises(DataError, match="label out of range"):
        next(iter(Runner.build_dataloader(config.train_dataloader, seed=0)))
