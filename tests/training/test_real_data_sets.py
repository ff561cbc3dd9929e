"""Every data set on real images: prepared, one iteration trained, one image evaluated."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import pytest
from datasets import raw
from PIL import Image

from protoseg.datasets.layout import find_root, pairs
from protoseg.datasets.prepare.known import PLANS
from protoseg.datasets.prepare.work import prepare
from protoseg.runs.folder import RunFolder
from protoseg.training.loop import TrainingLoop
from protoseg.training.parts import build_parts
from protoseg.training.recipe import build_config
from protoseg.training.run import evaluate
from protoseg.training.stop import StopRequest

from .small import EXPERIMENTS, REPOSITORY, compose

OPTIONS = sorted(path.stem for path in (EXPERIMENTS / "dataset").glob("*.yaml"))
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


@pytest.mark.parametrize("option", OPTIONS)
def test_one_iteration_and_one_image(
    option: str, samples: Path, tmp_path_factory: pytest.TempPathFactory, data: Path
) -> None:
    spec = compose(f"dataset={option}", *SMALL)
    dataset = spec.dataset
    split = next((name for name in dataset.counts if name != dataset.train_split), "val")
    if dataset.generator:
        place = data.parent
        spec = compose(f"dataset={option}", *SMALL, "dataset.generator.train=4",
                       "dataset.generator.val=1", "dataset.digest=unpinned")  # fmt: skip
    elif dataset.place in PLANS:
        place = prepared(dataset.place, samples, tmp_path_factory, option)
    else:
        place = samples
    root = find_root(spec.dataset, place)
    counts = {name: len(pairs(root, dataset, name)) for name in (dataset.train_split, split)}
    spec = dataclasses.replace(
        spec,
        dataset=dataclasses.replace(spec.dataset, counts=counts),
        evaluation=dataclasses.replace(spec.evaluation, split=split),
    )
    parts = build_parts(build_config(spec, data_root=root), None)
    folder = RunFolder(tmp_path_factory.mktemp(option))
    loop = TrainingLoop(parts, folder, 1, math.inf, StopRequest())
    loop.run(0)
    (point,) = loop.curve
    assert all(math.isfinite(value) for value in point[1].values())
    first = next(iter(parts.test_loader))
    parts = dataclasses.replace(parts, test_loader=[first])  # type: ignore[arg-type]
    overall, per_class, _, images = evaluate(parts, spec, StopRequest())
    assert images == 1
    assert len(per_class) == len(spec.dataset.classes)
    with Image.open(pairs(root, dataset, split)[0].annotation) as file:
        size = file.width * file.height
    assert 0 < sum(row["pixels"] for row in per_class) <= size
    assert 0 <= overall["aacc"] <= 100


_prepared: dict[str, Path] = {}


def prepared(place: str, samples: Path, factory: pytest.TempPathFactory, option: str) -> Path:
    """The data folder that holds a prepared data set; each is prepared once."""
    if place not in _prepared:
        work = factory.mktemp("published")
        source = published(place, samples, work)
        dataset = compose(f"dataset={option}").dataset
        target = factory.mktemp("prepared")
        prepare(PLANS[place](source, dataset), dataset, target / place, progress=None)
        _prepared[place] = target
    return _prepared[place]
