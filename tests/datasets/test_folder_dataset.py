"""A training sample depends only on seed, iteration and batch position; labels are checked."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from PIL import Image
from threads import one_thread  # noqa: F401  a fixture
from training.small import small_spec

from protoseg.config.fields import to_plain
from protoseg.config.schema import DatasetSpec
from protoseg.datasets import sampler
from protoseg.datasets.folder_dataset import SegmentationFolder
from protoseg.datasets.layout import find_root
from protoseg.datasets.sampler import SampleRequest
from protoseg.errors import DataError
from protoseg.runs.folder import RunFolder
from protoseg.training.builders.components import build_components
from protoseg.training.builders.config import build_config
from protoseg.training.loop import TrainingLoop
from protoseg.training.signals import StopRequest, StopRequested

LOAD = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
STRONG = (
    "augmentation.photometric=true",
    "augmentation.ratio_range=[0.5,2.0]",
    "augmentation.cat_max_ratio=0.75",
    "augmentation.crop_size=[32,40]",
)


def digest_samples(batch: dict[str, Any]) -> list[str]:
    """The image name of each sample of a batch, and a digest of its pixels and labels."""
    digests = []
    for image, sample in zip(batch["inputs"], batch["data_samples"], strict=True):
        content = image.numpy().tobytes() + sample.gt_sem_seg.data.numpy().tobytes()
        name = Path(sample.img_path).name
        digests.append(name + " " + hashlib.sha256(content).hexdigest()[:12])
    return digests


def load_samples(root: Path, *overrides: str, **arguments: Any) -> list[str]:
    """The digests of all samples of a training, in order."""
    spec = small_spec(*STRONG, *overrides)
    config = build_config(spec, data_root=root, **arguments)
    loader = Runner.build_dataloader(config.train_dataloader, seed=spec.seed)
    return [digest for batch in loader for digest in digest_samples(batch)]


@pytest.fixture(scope="module", autouse=True)
def _mmseg() -> Iterator[None]:
    """Use mmseg's registries, and log no initialisation of single parameters."""
    if not MMLogger.check_instance_created("protoseg"):
        MMLogger.get_instance("protoseg", log_level="ERROR")
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


@pytest.fixture(scope="module")
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small built-in data set."""
    return find_root(small_spec().dataset, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def all_samples(shapes_root: Path) -> list[str]:
    """The digests of all samples of one training in one process."""
    return load_samples(shapes_root)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_loader_workers_does_not_change_the_samples(
    all_samples: list[str], shapes_root: Path, workers: int
) -> None:
    assert len(all_samples) == 12 * 4
    assert load_samples(shapes_root, num_workers=workers) == all_samples


def test_two_processes_load_the_samples_of_one_process(
    all_samples: list[str], shapes_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The augmentation depends on the position in the batch of all processes."""
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(sampler, "get_dist_info", lambda rank=rank: (rank, 2))
        shares.append(load_samples(shapes_root, world_size=2))
    merged = []
    for i in range(0, len(all_samples) // 2, 2):
        merged += shares[0][i : i + 2] + shares[1][i : i + 2]
    assert merged == all_samples


def test_resuming_at_iteration_150000_loads_no_earlier_samples(
    shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any iteration reads the images of one batch and computes one permutation."""
    images: list[int] = []
    epochs: set[int] = set()
    load, permutation = SegmentationFolder._load, sampler.permutation

    def load_and_count(self: SegmentationFolder, index: int) -> Any:
        images.append(index)
        return load(self, index)

    def permute_and_count(seed: int, epoch: int, size: int) -> Any:
        epochs.add(epoch)
        return permutation(seed, epoch, size)

    monkeypatch.setattr(SegmentationFolder, "_load", load_and_count)
    monkeypatch.setattr(sampler, "permutation", permute_and_count)
    spec = small_spec("schedule.iterations=160000")
    for start in (0, 150_000):
        images.clear()
        epochs.clear()
        parts = build_components(build_config(spec, data_root=shapes_root, start=start), None)
        stop = StopRequest()
        stop.signal_number = signal.SIGTERM  # stops after one iteration
        folder = RunFolder(tmp_path / str(start))
        folder.path.mkdir()
        with pytest.raises(StopRequested):
            TrainingLoop(parts, folder, 160_000, 1e9, stop).run(start)
        assert len(images) == 4
        assert epochs == {start * 4 // 16}
        assert folder.checkpoint_iteration() == start + 1


@pytest.mark.parametrize("start", [1, 5, 11])
def test_a_resumed_training_gets_the_remaining_samples(
    all_samples: list[str], shapes_root: Path, start: int
) -> None:
    assert load_samples(shapes_root, start=start) == all_samples[4 * start :]


def test_a_longer_training_starts_with_the_same_samples(
    all_samples: list[str], shapes_root: Path
) -> None:
    assert load_samples(shapes_root, "schedule.iterations=14")[: len(all_samples)] == all_samples


def test_the_batch_size_does_not_change_samples_and_order(
    all_samples: list[str], shapes_root: Path
) -> None:
    samples = load_samples(shapes_root, "schedule.batch_size=8", "schedule.iterations=6")
    assert samples == all_samples


def test_another_seed_gives_other_samples_and_another_order(
    all_samples: list[str], shapes_root: Path
) -> None:
    other = load_samples(shapes_root, "seed=1")
    assert not set(all_samples) & set(other)
    assert [s.split()[0] for s in all_samples] != [s.split()[0] for s in other]


def test_the_state_of_the_global_generators_does_not_change_the_samples(
    all_samples: list[str], shapes_root: Path
) -> None:
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    assert load_samples(shapes_root) == all_samples


def test_loading_a_sample_restores_the_global_generators(shapes_root: Path) -> None:
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


def test_a_failing_sample_restores_the_global_generators(shapes_root: Path) -> None:
    spec = small_spec()
    dataset = SegmentationFolder(str(shapes_root), to_plain(spec.dataset), "train", LOAD)
    dataset.samples[0] = dataset.samples[0]._replace(image=Path("nowhere.png"))
    before = torch.get_rng_state(), random.getstate()
    with pytest.raises(DataError):
        dataset[SampleRequest(0, seed=0, number=0)]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_augmentation_differs_between_epochs(all_samples: list[str]) -> None:
    assert len(set(all_samples)) == len(all_samples), "the same crop of an image occurs twice"
    by_image = Counter(digest.split()[0] for digest in all_samples)
    assert set(by_image.values()) == {3}


# Labels


@pytest.fixture
def labelled(tmp_path: Path) -> Callable[..., SegmentationFolder]:
    """A function that writes a data set of one image with this label map and these fields."""

    def make(labels: Any, **settings: Any) -> SegmentationFolder:
        labels = np.asarray(labels, np.uint8)
        for folder in ("images", "annotations"):
            (tmp_path / folder / "train").mkdir(parents=True, exist_ok=True)
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
        return SegmentationFolder(str(tmp_path), to_plain(spec), "train", LOAD)

    return make


def load_labels(dataset: SegmentationFolder) -> list[list[int]]:
    return dataset[0]["data_samples"].gt_sem_seg.data[0].tolist()


@pytest.mark.parametrize(
    ("raw", "settings", "expected"),
    [
        ([[0, 1], [2, 255]], {}, [[0, 1], [2, 255]]),
        ([[0, 1], [2, 11]], {"ignore_index": 11}, [[0, 1], [2, 255]]),
        ([[0, 1], [2, 2]], {"ignore_index": 0}, [[255, 1], [2, 2]]),
        ([[0, 1], [3, 255]], {"reduce_zero_label": True}, [[255, 0], [2, 255]]),
        ([[0, 7], [2, 255]], {"ignore_index": 11, "ignore": (255, 7)}, [[0, 255], [2, 255]]),
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
    assert load_labels(dataset) == expected
    assert load_labels(dataset) == expected, "loading again gives the same labels"


def test_camvids_void_label_is_ignored() -> None:
    from training.small import compose

    spec = compose("dataset=camvid").dataset
    assert (len(spec.classes), spec.ignore_index) == (11, 11)


@pytest.mark.parametrize(
    ("raw", "settings", "value"),
    [
        ([[0, 1], [2, 3]], {}, 3),
        ([[0, 1], [2, 255]], {"ignore_index": 11}, 255),
        ([[0, 12], [2, 11]], {"ignore_index": 11}, 12),
        ([[0, 4], [3, 255]], {"reduce_zero_label": True}, 4),
    ],
)
def test_a_label_out_of_range_is_an_error_with_file_and_value(
    labelled: Callable[..., SegmentationFolder], raw: Any, settings: dict, value: int
) -> None:
    dataset = labelled(raw, **settings)
    with pytest.raises(DataError, match=rf"a\.png: label out of range: {value} \(1 pixels") as e:
        dataset[0]
    assert "\n" not in str(e.value)


def test_an_unreadable_file_is_an_error_with_its_name(
    labelled: Callable[..., SegmentationFolder], tmp_path: Path
) -> None:
    dataset = labelled([[0, 1], [1, 2]])
    for folder in ("images", "annotations"):
        path = tmp_path / folder / "train" / "a.png"
        content = path.read_bytes()
        for damaged in (content[: len(content) // 2], b"", b"no image"):
            path.write_bytes(damaged)
            with pytest.raises(DataError, match=rf"{folder}/train/a\.png: cannot be decoded") as e:
                dataset[0]
            assert "\n" not in str(e.value)
        path.unlink()
        with pytest.raises(DataError, match=rf"{folder}/train/a\.png: cannot be decoded"):
            dataset[0]
        path.write_bytes(content)
    assert load_labels(dataset) == [[0, 1], [1, 2]]


def test_a_label_map_of_another_size_or_in_colour_is_an_error(
    labelled: Callable[..., SegmentationFolder], tmp_path: Path
) -> None:
    dataset = labelled([[0, 1], [1, 2]])
    path = tmp_path / "annotations" / "train" / "a.png"
    for shape, problem in (((2, 3), "has the shape"), ((2, 2, 3), "expected label values in one")):
        Image.fromarray(np.zeros(shape, np.uint8)).save(path)
        with pytest.raises(DataError, match=rf"a\.png: {problem}"):
            dataset[0]


def test_a_data_error_in_a_loader_process_keeps_its_type(shapes_root: Path) -> None:
    spec = small_spec()
    few_classes = dataclasses.replace(spec.dataset, classes=spec.dataset.classes[:2])
    config = build_config(
        dataclasses.replace(spec, dataset=few_classes), data_root=shapes_root, num_workers=1
    )
    with pytest.raises(DataError, match="label out of range"):
        next(iter(Runner.build_dataloader(config.train_dataloader, seed=0)))
