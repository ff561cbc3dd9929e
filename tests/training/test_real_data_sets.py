"""Every data set, and every model with two of its data sets, on real images.

Each data set is prepared from its published layout. One iteration is trained and one image
evaluated.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import gc
import math
import os
from pathlib import Path
from typing import Any

import pytest
from datasets import raw
from PIL import Image

from protoseg.config.hydra.folders import ConfigFolders
from protoseg.config.load_matrix import list_matrices
from protoseg.config.schema import DatasetSpec, RunSpec
from protoseg.datasets.layout import find_pairs, find_root
from protoseg.datasets.prepare.registry import PREPARATIONS
from protoseg.datasets.prepare.runner import prepare_data_set
from protoseg.runs.folder import RunFolder
from protoseg.training.builders.components import build_components
from protoseg.training.builders.config import build_config
from protoseg.training.evaluation.evaluate import evaluate
from protoseg.training.loop import TrainingLoop
from protoseg.training.signals import StopRequest
from training.small import EXPERIMENTS, REPOSITORY, compose, matrix

OPTIONS = sorted(path.stem for path in (EXPERIMENTS / "dataset").glob("*.yaml"))
MADE_OF = {"ccp_weak_masks": "ccp"}
"""Data sets made by `protoseg masks` -> the data set whose layout and label values they keep."""
SMALL = (
    "augmentation.scale=[192,96]",
    "augmentation.crop_size=[64,80]",
    "augmentation.cat_max_ratio=0.75",
    "augmentation.ratio_range=[0.5,2.0]",
    "evaluation.scale=[192,96]",
    "schedule.iterations=1",
    "schedule.batch_size=2",
    "schedule.warmup_iterations=0",
    "method.num_prototypes=2",
)


@pytest.fixture(scope="module")
def samples() -> Path:
    folder = os.environ.get("PROTOSEG_TEST_DATA") or REPOSITORY.parent / "shared" / "data"
    if not (Path(folder) / "fixtures").is_dir():
        pytest.skip(f"needs real samples in {folder}/fixtures; set PROTOSEG_TEST_DATA")
    return Path(folder)


def find_published(name: str, samples: Path, work: Path) -> Path:
    """The folder of a data set in its published layout, or of a small one in that layout."""
    if name == "pascal_voc":
        return raw.voc(work)
    if name in ("pascal_person_part", "lip"):
        return {"pascal_person_part": raw.person_part, "lip": raw.lip}[name](work / "published")
    if name == "ade20k_full":
        root = raw.ade_full_from_fixture(samples / "fixtures" / "ade20k_full", work)
        # Crop the images: 847 scores for each pixel of a whole image take a gigabyte.
        for path in root.rglob("ADE_*"):
            if path.name.endswith((".jpg", "_seg.png")):
                with Image.open(path) as image:
                    image.crop((600, 700, 760, 820)).save(path)
        return root
    return samples / "fixtures" / name


PARTS = 5


@functools.cache
def list_pairs() -> dict[str, RunSpec]:
    """Specs of each model in the matrices, with its data sets of the fewest and the most classes.

    The number of classes is what a model depends on; each data set has a test of its readers. The
    built-in data is left out; test_quickstart.py trains on it.
    """
    models: dict[str, dict[int, RunSpec]] = {}
    for name in list_matrices(ConfigFolders(EXPERIMENTS)):
        for run in matrix(name).runs:
            spec = run.spec
            model = f"{spec.backbone.name}-{spec.decoder.name}-{spec.method.kind}"
            if not spec.dataset.generator:
                models.setdefault(model, {}).setdefault(len(spec.dataset.classes), spec)
    return {
        f"{model}-{specs[size].dataset.name}": specs[size]
        for model, specs in models.items()
        for size in {min(specs), max(specs)}
    }


def shrink(spec: RunSpec) -> RunSpec:
    """The same model, losses and inference on small images."""
    is_sliding = spec.evaluation.mode == "slide"
    evaluation: dict[str, Any] = {"scale": (192, 96)}
    evaluation |= {"crop_size": (64, 64), "stride": (48, 48)} if is_sliding else {}
    method: dict[str, Any] = {"num_prototypes": 2} if hasattr(spec.method, "num_prototypes") else {}
    return dataclasses.replace(
        spec,
        backbone=dataclasses.replace(spec.backbone, weights="", weights_sha256=""),
        augmentation=dataclasses.replace(
            spec.augmentation, scale=(192, 96), crop_size=(64, 80), ratio_range=(0.5, 2.0)
        ),
        schedule=dataclasses.replace(
            spec.schedule, iterations=1, batch_size=2, warmup_iterations=0
        ),
        evaluation=dataclasses.replace(spec.evaluation, **evaluation),
        method=dataclasses.replace(spec.method, **method),
    )


@pytest.mark.parametrize("option", OPTIONS)
def test_every_data_set_trains_and_evaluates(
    option: str, samples: Path, tmp_path_factory: pytest.TempPathFactory, data: Path
) -> None:
    spec = compose(f"dataset={option}", *SMALL)
    data_folder = data.parent
    if spec.dataset.generator:
        spec = compose(f"dataset={option}", *SMALL, "dataset.generator.train=4",
                       "dataset.generator.val=1", "dataset.digest=unpinned")  # fmt: skip
    else:
        data_folder = find_data_folder(spec, samples, tmp_path_factory)
    train_and_evaluate(spec, data_folder, tmp_path_factory.mktemp(option))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_model_trains_on_its_data_sets_of_fewest_and_most_classes(
    part: int, samples: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for pair in sorted(list_pairs())[part::PARTS]:
        print(pair)
        spec = shrink(list_pairs()[pair])
        data_folder = find_data_folder(spec, samples, tmp_path_factory)
        train_and_evaluate(spec, data_folder, tmp_path_factory.mktemp("pair"))
        # A network and its optimiser refer to each other, and glibc keeps what they free.
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)


class UnsavedLoop(TrainingLoop):
    """A loop without checkpoints: those of all models together take 24 GB."""

    def save(self, iteration: int) -> None:
        """Save nothing."""


def train_and_evaluate(spec: RunSpec, data_folder: Path, work: Path) -> None:
    """Train one iteration and evaluate one image, with the available number of images."""
    dataset = spec.dataset
    if dataset.place in MADE_OF:
        dataset = dataclasses.replace(dataset, folder=MADE_OF[dataset.place])
        spec = dataclasses.replace(spec, dataset=dataset)
    root = find_root(dataset, data_folder)
    split = next((name for name in dataset.counts if name != dataset.train_split), "val")
    counts = {name: len(find_pairs(root, dataset, name)) for name in (dataset.train_split, split)}
    spec = dataclasses.replace(
        spec,
        dataset=dataclasses.replace(spec.dataset, counts=counts),
        evaluation=dataclasses.replace(spec.evaluation, split=split),
    )
    parts = build_components(build_config(spec, data_root=root), None)
    loop = UnsavedLoop(parts, RunFolder(work), 1, math.inf, StopRequest())
    loop.run(0)
    (point,) = loop.curve
    assert all(math.isfinite(value) for value in point[1].values())
    assert ("aux.loss_ce" in point[1]) == spec.decoder.auxiliary
    first = next(iter(parts.test_loader))
    parts = dataclasses.replace(parts, test_loader=[first])  # type: ignore[arg-type]
    overall, per_class, _, images = evaluate(parts, spec, StopRequest())
    assert images == 1
    assert len(per_class) == len(spec.dataset.classes)
    with Image.open(find_pairs(root, dataset, split)[0].annotation) as file:
        size = file.width * file.height
    assert 0 < sum(row["pixels"] for row in per_class) <= size
    assert 0 <= overall["aacc"] <= 100


def find_data_folder(spec: RunSpec, samples: Path, factory: pytest.TempPathFactory) -> Path:
    """The data folder that holds a real data set, prepared if it needs preparation."""
    if spec.dataset.place == "mapillary_v2":
        return raw.mapillary(factory.mktemp("published"))
    if spec.dataset.place not in PREPARATIONS:
        return samples
    return prepare_once(spec.dataset, samples, factory)


_prepared: dict[str, Path] = {}


def prepare_once(dataset: DatasetSpec, samples: Path, factory: pytest.TempPathFactory) -> Path:
    """The data folder that holds a prepared data set; each is prepared once."""
    name = dataset.place
    if name not in _prepared:
        source = find_published(name, samples, factory.mktemp("published"))
        target = factory.mktemp("prepared")
        prepare_data_set(PREPARATIONS[name](source, dataset), dataset, target / name, progress=None)
        _prepared[name] = target
    return _prepared[name]
