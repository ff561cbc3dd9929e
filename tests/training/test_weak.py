"""The task ``weak``: short runs, resumed runs, exported masks, and training on the masks."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from protoseg.cli import main
from protoseg.config.fields import build, to_plain
from protoseg.config.identity import run_id
from protoseg.config.schema import DatasetSpec, RunSpec
from protoseg.datasets.check import check_data_set
from protoseg.datasets.folder_dataset import SegmentationFolder
from protoseg.datasets.layout import find_pairs, find_root
from protoseg.errors import ProtosegError, UsageError
from protoseg.runs.folder import Launch, RunFolder
from protoseg.training.builders.components import build_components
from protoseg.training.builders.config import build_config
from protoseg.training.evaluation import confusion
from protoseg.training.evaluation.cam_masks import THRESHOLDS, ThresholdCounts
from protoseg.training.evaluation.evaluate import evaluate
from protoseg.training.evaluation.export_masks import write_masks
from protoseg.training.loop import TrainingLoop
from protoseg.training.run import execute_run
from protoseg.training.signals import StopRequest, StopRequested
from training.small import cells, compose, make_folder, record_of, result, small_spec

WEAK = (
    *("method=weak_contrast", "decoder=cam", "evaluation.split=train"),
    *("~method.num_prototypes", "~method.momentum", "method.scales=[1.0,1.5]"),
)
"""Overrides of the small run of the other tests."""


def weak_spec(*overrides: str) -> RunSpec:
    return small_spec(*WEAK, *overrides)


def train(folder: RunFolder, spec: RunSpec, data: Path, stop: StopRequest | None = None) -> None:
    execute_run(spec, folder, Launch(str(data), str(data)), stop or StopRequest())


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run with all losses, shared by the tests of this module."""
    spec = weak_spec()
    folder = make_folder(tmp_path_factory.mktemp("weak"), spec, data)
    train(folder, spec, data)
    return folder


def test_a_finished_run_has_a_record(finished: RunFolder) -> None:
    record = record_of(finished)
    assert record["run_id"].startswith("shapes-tiny-cam-weak_contrast-s0-")
    assert record["metrics"]["images"] == 16
    assert set(record["losses"][-1][1]) == {"loss_cls", "loss_cross", "loss_intra", "loss"}
    assert all(value > 0 for value in record["losses"][-1][1].values())
    curve = dict(record["metrics"]["miou_by_threshold"])
    assert tuple(curve) == THRESHOLDS
    assert curve[record["metrics"]["threshold"]] == pytest.approx(record["metrics"]["miou"])
    assert max(curve.values()) == pytest.approx(record["metrics"]["miou"])
    # Backbone and classifier; the projection is removed after training.
    backbone = sum(
        9 * a * b + 9 * b * b + 4 * b for a, b in ((3, 16), (16, 32), (32, 64), (64, 96))
    )
    assert record["parameters"] == {"learnable": backbone + 5 * 96, "prototype": 0}


def test_a_resumed_run_gives_the_same_bits(
    finished: RunFolder, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, stop = weak_spec(), StopRequest()
    folder = make_folder(tmp_path, spec, data)
    with monkeypatch.context() as patch:

        def report(loop: TrainingLoop, iteration: int) -> None:
            stop.signal_number = signal.SIGTERM if iteration == 4 else None

        patch.setattr(TrainingLoop, "_report", report)
        with pytest.raises(StopRequested):
            train(folder, spec, data, stop)
    assert [path.stem for path in folder.checkpoints.glob("*.pth")] == ["iter_00000005"]
    train(folder, spec, data)
    assert result(folder) == result(finished)
    assert (
        record_of(folder)["provenance"]["state_sha256"]
        == record_of(finished)["provenance"]["state_sha256"]
    )


def test_training_batches_hold_no_label_map(shapes_root: Path) -> None:
    spec = weak_spec()
    parts = build_components(build_config(spec, data_root=shapes_root), None)
    batch = next(iter(parts.train_loader))
    assert batch.keys() == {"inputs", "data_samples"}
    for sample in batch["data_samples"]:
        assert sample.keys() == [], "only the image"
        assert set(sample.metainfo_keys()) == {"image_labels"}
    # The image-level labels are the classes in the label maps.
    dataset = SegmentationFolder(
        str(shapes_root), to_plain(spec.dataset), "train", [{"type": "LoadImageLabels"}]
    )
    for index, (_, annotation) in enumerate(find_pairs(shapes_root, spec.dataset, "train")):
        with Image.open(annotation) as file:
            values = np.unique(np.asarray(file)).tolist()
        assert dataset[index]["image_labels"] == tuple(v for v in values if 0 < v < 255)


@pytest.mark.slow
def test_training_improves_the_masks(tmp_path_factory: pytest.TempPathFactory, data: Path) -> None:
    spec = compose(
        *("method=weak_contrast", "decoder=cam", "decoder.in_index=[2]", "decoder.channels=64"),
        *("evaluation.split=train", "schedule.learning_rate=3e-3"),
        *("dataset.digest=unpinned", "dataset.generator.train=96", "dataset.generator.val=1"),
        *("dataset.counts.train=96", "dataset.counts.val=1", "schedule.iterations=200"),
        *("method.scales=[1.0]", "method.flip=false"),
    )
    folder = make_folder(tmp_path_factory.mktemp("weak_shapes"), spec, data)
    train(folder, spec, data)
    trained = record_of(folder)
    # The untrained network: its maps depend on the image-level labels, not on the pixels.
    parts = build_components(build_config(spec, data_root=find_root(spec.dataset, data)), None)
    untrained = evaluate(parts, spec, StopRequest())[0]
    assert trained["metrics"]["miou"] > untrained["miou"] + 2
    assert trained["losses"][-1][1]["loss_cls"] < trained["losses"][0][1]["loss_cls"] - 0.05


def test_counts_at_each_threshold_are_those_of_the_masks(shapes_root: Path) -> None:
    spec = weak_spec()
    parts = build_components(build_config(spec, data_root=shapes_root), None)
    parts.model.eval()
    counter, samples = ThresholdCounts(6), []
    with torch.no_grad():
        for batch in parts.test_loader:
            predictions = [sample.to_dict() for sample in parts.model.test_step(batch)]
            counter.process(batch, predictions)
            samples += predictions
    counter.compute_metrics(list(counter.results))
    for threshold in (0.0, 0.2, 0.5, 0.98):
        plain_counts = confusion.ConfusionCounts(6)
        for sample in samples:
            maps = sample["seg_logits"]["data"][1:].numpy()
            best, highest = maps.argmax(0) + 1, maps.max(0)
            mask = np.where((highest > 0) & (highest >= np.float32(threshold)), best, 0)
            plain_counts.process(
                None, [{**sample, "pred_sem_seg": {"data": torch.from_numpy(mask)[None]}}]
            )
        expected = plain_counts.compute_metrics(plain_counts.results)["miou"]
        assert dict(counter.details["miou_by_threshold"])[threshold] == pytest.approx(expected)


# Exported masks


@pytest.fixture(scope="module")
def masks(finished: RunFolder, data: Path) -> dict[str, Any]:
    return write_masks(finished, data, data / "shape_masks")


def read_option(data: Path) -> DatasetSpec:
    """The data set in the config file of the masks, as the composer reads it."""
    text = (data / "shape_masks" / "dataset.yaml").read_text()
    values = yaml.safe_load(text)
    assert values.pop("defaults") == ["schema", "_self_"]
    spec: DatasetSpec = build(DatasetSpec, values, "dataset.yaml")
    return spec


def test_exported_masks_are_a_data_set_with_their_digest(
    masks: dict[str, Any], finished: RunFolder, data: Path, shapes_root: Path
) -> None:
    dataset = read_option(data)
    assert dataset.digest == masks["digest"]
    report = check_data_set(data / "shape_masks", dataset)
    assert report.digest == masks["digest"]
    assert {name: split.images for name, split in report.splits.items()} == {"train": 16, "val": 4}
    # The masks are the predictions that the record counts.
    counted = np.zeros((6, 6), np.int64)
    for _, truth, guess, count in cells(finished.confusion):
        counted[truth, guess] += count
    recounted = np.zeros((6, 6), np.int64)
    for (_, truth), (_, mask) in zip(
        find_pairs(shapes_root, dataclasses.replace(dataset, folder=""), "train"),
        find_pairs(data / "shape_masks", dataset, "train"),
        strict=True,
    ):
        with Image.open(truth) as truth_file, Image.open(mask) as mask_file:
            labels, guess = np.asarray(truth_file), np.asarray(mask_file)
        np.add.at(recounted, (labels[labels < 6], guess[labels < 6]), 1)
    np.testing.assert_array_equal(recounted, counted)
    origin = json.loads((data / "shape_masks" / "masks.json").read_text())
    assert origin == masks
    assert origin["run_id"] == finished.run_id


def test_a_segmentor_trains_on_the_masks(masks: dict[str, Any], data: Path, tmp_path: Path) -> None:
    spec = dataclasses.replace(small_spec("schedule.iterations=3"), dataset=read_option(data))
    folder = make_folder(tmp_path, spec, data)
    train(folder, spec, data)
    record = record_of(folder)
    assert record["spec"]["dataset"]["digest"] == masks["digest"]
    assert record["provenance"]["data_digest"] == masks["digest"]
    assert record["metrics"]["images"] == 4
    other = dataclasses.replace(spec, dataset=dataclasses.replace(spec.dataset, digest="0" * 64))
    assert run_id(other) != run_id(spec), "other masks give another run id"


def test_masks_are_refused_for_an_existing_target_or_an_unfinished_run(
    masks: dict[str, Any], finished: RunFolder, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"shape_masks: exists already\. Name another"):
        write_masks(finished, data, data / "shape_masks")
    empty = make_folder(tmp_path, weak_spec("seed=1"), data)
    with pytest.raises(ProtosegError, match=r"no record in .*\. This needs a finished run"):
        write_masks(empty, data, tmp_path / "masks")
    newest = sorted(finished.checkpoints.glob("*.pth"))[-1]
    digest_file = newest.with_suffix(".json")
    content = digest_file.read_bytes()
    digest_file.unlink()
    try:
        with pytest.raises(
            ProtosegError, match=r"no valid checkpoint of .* \(.*no digest file.*\)\. Train"
        ):
            write_masks(finished, data, tmp_path / "masks")
    finally:
        digest_file.write_bytes(content)
    assert not list(tmp_path.glob("*masks*"))


def test_the_masks_command_writes_masks(
    finished: RunFolder, data: Path, masks: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--runs", str(finished.path.parent), "--data", str(data)]
    assert main(["masks", "weak_contrast-s0", "--into", "verb_masks", *folders, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**masks, "name": "verb_masks"}
    for arguments, sentence in {
        ("masks", "weak_contrast"): "masks: no data set is named. Add --into NAME",
        ("masks", "weak_contrast", "--into", "a/b"): "'a/b' is not the name of a folder in",
        ("masks", "nothing", "--into", "x"): "unknown run 'nothing'",
    }.items():
        assert main([*arguments, *folders]) == 2
        assert sentence in capsys.readouterr().err


# Invalid settings


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["augmentation.cat_max_ratio=0.75"], r"augmentation\.cat_max_ratio: 0\.75 selects crops"),
        (["decoder.auxiliary=true"], r"decoder\.auxiliary: an auxiliary head needs label maps"),
        (["contrast=pixel"], r"contrast\.weight: pixel contrast needs label maps"),
        (
            ["evaluation=slide_512"],
            r"evaluation\.mode: slide does not work for class activation maps",
        ),
        (["method.second_view=false"], r"method\.cross_prototype requires method\.second_view"),
        (["method.intra=false"], r"method\.prototype_mining requires method\.intra=true"),
    ],
)
def test_inconsistent_settings_are_one_error_message(
    overrides: list[str], sentence: str, shapes_root: Path
) -> None:
    with pytest.raises(UsageError, match=sentence) as error:
        build_components(build_config(weak_spec(*overrides), data_root=shapes_root), None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("method.top_pixels=0", r"method\.top_pixels: 0 is out of range; allowed: at least 1"),
        ("method.hardest=0", r"method\.hardest: 0\.0 is out of range; allowed: greater than 0 and"),
        ("method.scales=[]", r"method\.scales: needs at least one value"),
        ("method.scales=[1.0,0]", r"method\.scales\[1\]: 0\.0 is out of range"),
        ("method.top_pixel=3", r"unknown key 'method\.top_pixel'. Did you mean 'method\.top_pix"),
        ("dataset.image_label_share=2", r"dataset\.image_label_share: 2\.0 is out of range"),
    ],
)
def test_values_out_of_range_are_one_error_message(override: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        weak_spec(override)
