"""A run with a holdout: trained on the rest of the training split, and evaluated on the holdout."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from waiting import finish

from protoseg.config.schema import RunSpec
from protoseg.datasets.layout import find_root
from protoseg.datasets.pairing.holdout_parts import find_parts
from protoseg.errors import UsageError
from protoseg.runs.folder import RunFolder
from protoseg.training.builders.components import build_components
from protoseg.training.builders.config import build_config
from protoseg.training.evaluation.export_masks import write_masks
from training.launch import Workers
from training.small import (
    cells,
    ends,
    log,
    log_paths,
    make_folder,
    pause_after,
    record_of,
    result,
    small_spec,
    start_worker,
    wait_for_checkpoint,
    work,
)

HOLDOUT = ("evaluation.split=holdout", "evaluation.holdout={share: 0.25, blocks: 4, gap: 1}")


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    return small_spec("method=released", "method.num_prototypes=3", *HOLDOUT)


@pytest.fixture(scope="module")
def finished(spec: RunSpec, data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """An uninterrupted run."""
    folder = make_folder(tmp_path_factory.mktemp("finished"), spec, data)
    status, output = work(folder)
    assert status == 0, output + log(folder)
    return folder


def test_the_loaders_have_the_parts_of_the_training_split(spec: RunSpec, data: Path) -> None:
    root = find_root(spec.dataset, data)
    parts = find_parts(root, spec.dataset, spec.evaluation.holdout)
    components = build_components(build_config(spec, data_root=root), None)
    assert components.train_loader.dataset.samples == parts.train
    assert components.test_loader.dataset.samples == parts.holdout
    assert components.train_loader.sampler.size == len(parts.train) < 12


def test_the_record_has_the_sizes_of_the_parts(
    finished: RunFolder, spec: RunSpec, data: Path
) -> None:
    record = record_of(finished)
    root = find_root(spec.dataset, data)
    parts = find_parts(root, spec.dataset, spec.evaluation.holdout)
    holdout = record["provenance"]["holdout"]
    assert holdout["train_images"] == len(parts.train)
    assert holdout["holdout_images"] == len(parts.holdout) == record["metrics"]["images"] == 4
    assert holdout["gap_images"] == len(parts.gap) == 16 - 4 - len(parts.train)
    assert holdout["names_sha256"] == parts.names_sha256
    assert holdout["absent_classes"] == [
        entry["name"] for entry in record["per_class"] if entry["pixels"] == 0
    ]
    assert {image for image, *_ in cells(finished.confusion)} == {0, 1, 2, 3}
    assert (
        f"holdout (25% of train, blocks of 4, gap 1, seed 0): {len(parts.train)} images to train "
        f"on, 4 held out, {len(parts.gap)} in gaps"
    ) in log(finished)


def test_a_resumed_run_with_a_holdout_gives_the_same_bits(
    finished: RunFolder, spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, spec, data, checkpoint_seconds=0)
    process = start_worker(folder, pause_after(4))
    wait_for_checkpoint(folder, 4, process)
    process.kill()
    finish(process, logs=log_paths(folder))
    assert process.returncode == -signal.SIGKILL
    assert work(folder)[0] == 0
    assert ends(folder) == ["lost", None]
    assert re.search(r"resuming from iteration [1-9]", log(folder))
    assert result(folder) == result(finished)
    assert folder.confusion.read_bytes() == finished.confusion.read_bytes()
    first, second = (record_of(run)["provenance"] for run in (folder, finished))
    for key in ("holdout", "state_sha256"):
        assert first[key] == second[key]


def test_two_processes_evaluate_the_same_holdout(
    finished: RunFolder, spec: RunSpec, data: Path, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, spec, data)
    assert Workers(folder).end() == [0, 0], log(folder)
    first, second = record_of(folder), record_of(finished)
    assert first["provenance"]["processes"] == 2
    assert first["provenance"]["holdout"] == second["provenance"]["holdout"]
    assert first["metrics"]["images"] == 4
    pixels = [[entry["pixels"] for entry in record["per_class"]] for record in (first, second)]
    assert pixels[0] == pixels[1]


def test_a_run_whose_draw_leaves_nothing_to_train_on_ends_before_training(
    data: Path, tmp_path: Path
) -> None:
    """The pattern makes one group of all names, which only the worker can read."""
    rule = "evaluation.holdout={share: 0.25, pattern: '^(0)'}"
    folder = make_folder(tmp_path, small_spec("evaluation.split=holdout", rule), data)
    assert work(folder)[0] == 1
    assert "all 16 training images are in one block or group" in folder.attempts()[-1].message
    assert not list(folder.checkpoints.glob("*.pth"))


def test_masks_of_a_holdout_are_refused(data: Path, tmp_path: Path) -> None:
    spec = small_spec(
        *("method=cam", "decoder=cam", "augmentation.cat_max_ratio=1", "~method.num_prototypes"),
        *("~method.momentum", *HOLDOUT),
    )
    folder = make_folder(tmp_path, spec, data)
    status, output = work(folder)
    assert status == 0, output + log(folder)
    with pytest.raises(UsageError, match="was evaluated on a holdout, so its masks would be of a"):
        write_masks(folder, data, tmp_path / "masks")
