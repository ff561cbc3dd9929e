"""Methods with a tree of classes: trained by a worker, resumed, averaged, started from weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from protoseg import files
from protoseg.config.schema import RunSpec
from protoseg.runs.folder import Launch, RunFolder
from protoseg.training import checkpoint
from protoseg.training.run import execute_run
from protoseg.training.signals import StopRequest
from training.resumed import check_resume, train
from training.small import HIERARCHICAL, TREE, make_folder, record_of, small_spec, work

PROTOTYPES = ("method=prototype_hierarchical", TREE)
METHODS = {"hierarchical": HIERARCHICAL, "prototype_hierarchical": PROTOTYPES}
LONG = ("schedule.iterations=40", "schedule.learning_rate=0.003")
FEW = "method.triplet_samples=5"


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of ``hierarchical``."""
    spec = small_spec(*HIERARCHICAL, *LONG, FEW)
    folder = make_folder(tmp_path_factory.mktemp("finished"), spec, data)
    train(folder, spec, data)
    return folder


def read_losses(folder: RunFolder, name: str) -> list[float]:
    return [point[1][name] for point in record_of(folder)["losses"]]


def check_losses_fall(folder: RunFolder, share: float, *names: str) -> None:
    for name in names:
        losses = read_losses(folder, name)
        assert torch.tensor(losses).isfinite().all()
        assert sum(losses[-5:]) < share * sum(losses[:5]), name


def test_the_losses_of_a_run_fall(finished: RunFolder) -> None:
    check_losses_fall(finished, 0.8, "loss_tree")
    triplets = read_losses(finished, "loss_triplet")
    assert triplets[0] == 0 < max(triplets)
    newest, _ = checkpoint.find_newest(finished.checkpoints)
    model = torch.load(newest.path, weights_only=True)["model"]
    assert model["decode_head.iteration"] == 40
    record = record_of(finished)
    assert record["run_id"].startswith("shapes-tiny-segformer-hierarchical-s0-")
    assert record["spec"]["dataset"]["hierarchy"][1] == ["round", "disk"]
    assert record["metrics"]["miou"] > 0


@pytest.mark.slow
def test_the_losses_of_prototypes_fall_on_all_levels(data: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, small_spec(*PROTOTYPES, *LONG), data)
    status, output = work(folder)
    assert status == 0, output
    check_losses_fall(folder, 0.95, "loss_ce", "loss_levels")
    assert record_of(folder)["parameters"]["prototype"] == 6 * 3 * 64


def interrupted(*overrides: str) -> RunSpec:
    return small_spec(*overrides, "schedule.iterations=8")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        (*HIERARCHICAL, FEW),
        (*HIERARCHICAL, "method.tree_loss=tree_min", "schedule.ema.momentum=0.3"),
        (*HIERARCHICAL, "schedule.accumulative_counts=2", "precision=bf16"),
        (*HIERARCHICAL, "evaluation.every=2", "method.rmi_weight=0.25", "method.ce_weight=1"),
        (*HIERARCHICAL, "method=hierarchical_released"),
        PROTOTYPES,
    ],
    ids=["triplets", "average", "accumulation, bf16", "on the way", "released", "prototypes"],
)
def test_an_interrupted_run_has_the_same_bits(
    overrides: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    state = check_resume(interrupted(*overrides), data, tmp_path, 3)
    if overrides != PROTOTYPES:
        assert state["model"]["decode_head.iteration"] == 8, "training iterations, not forwards"


@pytest.mark.slow
def test_a_run_that_starts_from_a_checkpoint_starts_its_schedule(
    finished: RunFolder, data: Path, tmp_path: Path
) -> None:
    newest, _ = checkpoint.find_newest(finished.checkpoints)
    weights = tmp_path / "weights"
    weights.mkdir()
    torch.save(torch.load(newest.path, weights_only=True)["model"], weights / "start.pth")
    digest = files.file_digest(weights / "start.pth")
    spec = small_spec(
        *(*HIERARCHICAL, FEW, "schedule.iterations=4", "schedule.warmup_iterations=1"),
        *("init_from=start.pth", f"init_from_sha256={digest}"),
    )
    folder = make_folder(tmp_path / "runs", spec, data)
    execute_run(spec, folder, Launch(str(data), str(weights), threads=1), StopRequest())
    saved, _ = checkpoint.find_newest(folder.checkpoints)
    model = torch.load(saved.path, weights_only=True)["model"]
    assert model["decode_head.iteration"] == 4
    assert read_losses(folder, "loss_triplet")[0] == 0
    assert read_losses(folder, "loss_tree")[0] < 0.8 * read_losses(finished, "loss_tree")[0]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_another_tree_gives_another_model(method: str, data: Path, tmp_path: Path) -> None:
    """The tree is a part of the spec that reaches the head."""
    states = []
    for tree in (TREE, "dataset.hierarchy={a: [ground, disk, ring], b: [box, triangle, bar]}"):
        spec = interrupted(*METHODS[method], tree)
        states.append(train(make_folder(tmp_path, spec, data), spec, data)["model"])
    assert any(
        one.shape != other.shape or not torch.equal(one, other)
        for one, other in zip(states[0].values(), states[1].values(), strict=True)
    )
