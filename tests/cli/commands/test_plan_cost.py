"""The cost in ``protoseg plan``: shared runs, GPU-hours of similar runs, storage by formula."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import REPOSITORY, CommandLine
from protoseg.config.compose import Composer
from protoseg.config.load_matrix import load_matrix
from protoseg.config.matrix import PlannedRun
from protoseg.config.methods import ContrastSpec
from protoseg.core.memory_bank import ContrastMemory

LEARNABLE = 3_720_000
"""Parameters in the records that `report.lab` makes."""
COMMITTED = ("--results", str(REPOSITORY / "results"))


@pytest.fixture
def plan(protoseg: CommandLine) -> Any:
    """Calls ``protoseg plan --json`` and returns its data."""

    def call(*arguments: str) -> Any:
        return protoseg("plan", *arguments, "--json").json

    return call


def test_a_plan_of_the_paper_counts_table_rows_and_distinct_runs(protoseg: CommandLine) -> None:
    data = protoseg("plan", "paper", "cluster=eight_gpus", "--json", *COMMITTED).json
    # 8+8+8+20+4+5+5+3+2+5+11+3 rows; six tables have the default row, and two have K = 1.
    assert data["listed"] == 82 * 3
    assert len(data["runs"]) == len({run["run_id"] for run in data["runs"]}) == 76 * 3
    assert sum(len(array["runs"]) for array in data["arrays"]) == 76 * 3
    assert data["gpu_hours"] is None
    assert data["gpu_hours_unknown_runs"] == 76 * 3
    # Neither the paper nor a record states the parameters of the released decoder.
    assert data["storage_unknown_runs"] == 3 * 3
    slug = "mit_b2-segformer-prototype-k10"
    b2 = [run for run in data["runs"] if slug in run["run_id"]]
    assert any(len(run["matrices"]) == 6 for run in b2)


def test_storage_follows_the_formula(plan: Any) -> None:
    data = plan("paper_table7", "seed=0", *COMMITTED)
    sgd, adamw = (9.8 + 13.7 + 15.4) * 1e6, (3.8 + 3.7) * 1e6
    prototypes = 10 * 150 * 256
    assert data["storage_bytes"] == pytest.approx(2 * 4 * (2 * sgd + 3 * adamw + prototypes))


def test_storage_counts_the_best_model_of_a_run_with_metrics_on_the_way(plan: Any) -> None:
    data = plan("paper_table7", "seed=0", "evaluation.every=1000", *COMMITTED)
    sgd, adamw = (9.8 + 13.7 + 15.4) * 1e6, (3.8 + 3.7) * 1e6
    prototypes = 10 * 150 * 256
    checkpoints = 2 * 4 * (2 * sgd + 3 * adamw + prototypes)
    assert data["storage_bytes"] == pytest.approx(checkpoints + 4 * (sgd + adamw + prototypes))


def test_the_parameters_of_a_model_come_from_any_published_table(plan: Any) -> None:
    # Table 5 prints no parameters, but Table 4 has the same model.
    data = plan("paper_5a", "seed=0", *COMMITTED)
    prototypes = 10 * 150 * 768
    assert data["storage_unknown_runs"] == 0
    assert data["storage_bytes"] == pytest.approx(4 * 2 * 4 * (3 * 27.37e6 + prototypes))


def test_gpu_hours_come_from_records_of_similar_runs_on_a_gpu(
    protoseg: CommandLine, plan: Any
) -> None:
    runs = protoseg.quickstart()
    assert plan("quickstart")["gpu_hours"] is None
    protoseg.record(runs[0], 70.0, cost={"gpu_hours": 0.0})  # on a CPU
    assert plan("quickstart")["gpu_hours"] is None
    protoseg.record(runs[1], 70.0, cost={"gpu_hours": 0.25})
    data = plan("quickstart")
    # One parametric run is left, and six ProtoSeg runs without a similar record.
    assert (data["gpu_hours"], data["gpu_hours_unknown_runs"]) == (pytest.approx(0.25), 6)
    protoseg.record(runs[3], 70.0, cost={"gpu_hours": 0.5})
    data = plan("quickstart")
    # A run with another K is not similar.
    assert (data["gpu_hours"], data["gpu_hours_unknown_runs"]) == (pytest.approx(0.25 + 1.0), 3)
    shorter = plan("quickstart", "schedule.iterations=120", "--ignore-records")
    assert shorter["gpu_hours"] is None


def test_storage_comes_from_a_record_of_the_same_model(protoseg: CommandLine, plan: Any) -> None:
    runs = protoseg.quickstart()
    assert "Storage unknown" in protoseg("plan", "quickstart").out
    protoseg.record(runs[0], 70.0)
    data = plan("quickstart")
    assert data["storage_bytes"] == 2 * 2 * 4 * 3 * LEARNABLE  # two more runs of this model
    assert data["storage_unknown_runs"] == 6
    out = protoseg("plan", "quickstart").out
    assert "Storage at the end: about 179 MB; 6 runs unknown (two checkpoints a run" in out
    assert "GPU-hours by records of similar runs: 0.7; 6 runs unknown." in out


MODELS = """\
base: {decoder: segformer_64, dataset: shapes}
rows:
  - {label: recorded, method: %s, method.num_prototypes: 1, method.temperature: 0.5}
  - {label: same K, method: %s, method.num_prototypes: 1}
  - {label: other K, method: %s, method.num_prototypes: 7}
"""


@pytest.mark.parametrize(("method", "is_learned"), [("pixel_query", True), ("paper", False)])
def test_another_k_changes_the_number_of_parameters_of_learned_prototypes_only(
    protoseg: CommandLine, plan: Any, tmp_path: Path, method: str, is_learned: bool
) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(MODELS % (method, method, method))
    protoseg.record(load_matrix(Composer(REPOSITORY / "experiments"), str(path)).runs[0], 70.0)
    data = plan(str(path))
    buffers = 0 if is_learned else (1 + 7) * 6 * 64
    known = 1 if is_learned else 2
    assert data["storage_unknown_runs"] == 2 - known
    assert data["storage_bytes"] == 2 * 4 * (known * 3 * LEARNABLE + buffers)


def test_storage_includes_the_memory_bank_of_pixel_contrast(
    protoseg: CommandLine, plan: Any, tmp_path: Path
) -> None:
    path = tmp_path / "contrast.yaml"
    path.write_text("{base: {decoder: segformer_64, dataset: shapes, contrast: pixel_small}}")
    (run,) = load_matrix(Composer(REPOSITORY / "experiments"), str(path)).runs
    without = plan(str(path), "contrast=none")
    assert without["storage_bytes"] is None
    no_contrast = dataclasses.replace(run.spec, contrast=ContrastSpec(), seed=9)
    protoseg.record(PlannedRun(no_contrast, {}), 70.0)
    without, with_contrast = plan(str(path), "contrast=none"), plan(str(path))
    contrast = run.spec.contrast
    memory = ContrastMemory(
        len(run.spec.dataset.classes),
        contrast.channels,
        pixel_queue=contrast.pixel_queue,
        region_queue=contrast.region_queue,
    )
    bank = sum(queue.nbytes for queue in (memory.pixels, memory.regions))
    assert bank == 4 * 6 * 1000 * 256
    assert with_contrast["storage_bytes"] - without["storage_bytes"] == 2 * bank


def test_a_bundle_and_its_matrix_are_planned_once(protoseg: CommandLine, plan: Any) -> None:
    both = plan("questions", "question_kappa")
    assert len(both["runs"]) == len(plan("questions")["runs"])
    result = protoseg("compare", "questions", "a", "b")
    assert result.status == 2
    assert "is a bundle of several matrices" in result.err
