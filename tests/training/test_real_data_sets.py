"""Every data set, and every model with each data set it is declared on, on real images.

Prepared, one iteration trained, one image evaluated; each of its published layout.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from pathlib import Path
from typing import Any

import pytest
from datasets import raw
from PIL import Image

from protoseg.config.load_matrix import matrix_names
from protoseg.config.schema import DatasetSpec, RunSpec
from protoseg.datasets.layout import find_root, pairs
from protoseg.datasets.prepare.registry import PLANS
from protoseg.datasets.prepare.runner import prepare
from protoseg.runs.folder import RunFolder
from protoseg.training.build.components import build_components
from protoseg.training.build.config import build_config
from protoseg.training.loop import TrainingLoop
from protoseg.training.run import evaluate
from protoseg.training.signals import StopRequest
from training.small import EXPERIMENTS, REPOSITORY, compose, matrix

OPTIONS = sorted(path.stem for path in (EXPERIMENTS / "dataset").glob("*.yaml"))
MADE_OF = {"ccp_weak_masks": "ccp"}
"""Data sets that `protoseg masks` makes of another one, in its layout and with its label values."""
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
    place = os.environ.get("PROTOSEG_TEST_DATA") or REPOSITORY.parent / "shared" / "data"
    if not (Path(place) / "fixtures").is_dir():
        pytest.skip(f"needs genuine samples in {place}/fixtures; set PROTOSEG_TEST_DATA")
    return Path(place)


def published(option_place: str, samples: Path, work: Path) -> Path:
    """The folder of a data set as it was published, or a small one in that layout."""
    if option_place == "pascal_voc":
        return raw.voc(work)
    if option_place == "ade20k_full":
        root = raw.ade_full_from_fixture(samples / "fixtures" / "ade20k_full", work)
        # A part of the picture: 847 scores for each pixel of a whole one take a gigabyte.
        for path in root.rglob("ADE_*"):
            if path.name.endswith((".jpg", "_seg.png")):
                with Image.open(path) as image:
                    image.crop((600, 700, 760, 820)).save(path)
        return root
    return samples / "fixtures" / option_place


PARTS = 8


@functools.cache
def declared() -> dict[str, RunSpec]:
    """A spec for each model, kind of method and data set that the matrices join.

    Not for the built-in data: test_quickstart.py trains on it to the end.
    """
    found: dict[str, RunSpec] = {}
    for name in matrix_names(EXPERIMENTS):
        for run in matrix(name).runs:
            spec = run.spec
            model = f"{spec.backbone.name}-{spec.decoder.name}-{spec.method.kind}"
            if not spec.dataset.generator:
                found.setdefault(f"{spec.dataset.name}-{model}", spec)
    return found


def small(spec: RunSpec) -> RunSpec:
    """The same model, losses and inference on small images."""
    slide = spec.evaluation.mode == "slide"
    evaluation: dict[str, Any] = {"scale": (192, 96)}
    evaluation |= {"crop_size": (64, 64), "stride": (48, 48)} if slide else {}
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
def test_every_data_set(
    option: str, samples: Path, tmp_path_factory: pytest.TempPathFactory, data: Path
) -> None:
    spec = compose(f"dataset={option}", *SMALL)
    place = data.parent
    if spec.dataset.generator:
        spec = compose(f"dataset={option}", *SMALL, "dataset.generator.train=4",
                       "dataset.generator.val=1", "dataset.digest=unpinned")  # fmt: skip
    else:
        place = folder_of(spec, samples, tmp_path_factory)
    one_iteration_and_one_image(spec, place, tmp_path_factory.mktemp(option))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_model_with_each_of_its_data_sets(
    part: int, samples: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for pair in sorted(declared())[part::PARTS]:
        print(pair)
        spec = small(declared()[pair])
        place = folder_of(spec, samples, tmp_path_factory)
        one_iteration_and_one_image(spec, place, tmp_path_factory.mktemp("pair"))


class UnsavedLoop(TrainingLoop):
    """Without the checkpoint at its end: those of all models together take 24 GB."""

    def save(self, iteration: int) -> None:
        """Save nothing."""


def one_iteration_and_one_image(spec: RunSpec, place: Path, work: Path) -> None:
    """Train and evaluate, with as many images as there are."""
    dataset = spec.dataset
    if dataset.place in MADE_OF:
        dataset = dataclasses.replace(dataset, folder=MADE_OF[dataset.place])
        spec = dataclasses.replace(spec, dataset=dataset)
    root = find_root(dataset, place)
    split = next((name for name in dataset.counts if name != dataset.train_split), "val")
    counts = {name: len(pairs(root, dataset, name)) for name in (dataset.train_split, split)}
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
    with Image.open(pairs(root, dataset, split)[0].annotation) as file:
        size = file.width * file.height
    assert 0 < sum(row["pixels"] for row in per_class) <= size
    assert 0 <= overall["aacc"] <= 100


def folder_of(spec: RunSpec, samples: Path, factory: pytest.TempPathFactory) -> Path:
    """The data folder that holds a real data set, prepared where it needs that."""
    if spec.dataset.place not in PLANS:
        return samples
    return prepared(spec.dataset, samples, factory)


_prepared: dict[str, Path] = {}


def prepared(dataset: DatasetSpec, samples: Path, factory: pytest.TempPathFactory) -> Path:
    """The data folder that holds a prepared data set; each is prepared once."""
    place = dataset.place
    if place not in _prepared:
        source = published(place, samples, factory.mktemp("published"))
        target = factory.mktemp("prepared")
        prepare(PLANS[place](source, dataset), dataset, target / place, progress=None)
        _prepared[place] = target
    return _prepared[place]
