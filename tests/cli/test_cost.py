"""What a plan costs: runs shared by tables, GPU-hours by like records, storage by the formula."""

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

LEARNABLE = 3_720_000  # of the records that the laboratory seals
OURS = ("--results", str(REPOSITORY / "results"))


@pytest.fixture
def plan(protoseg: CommandLine) -> Any:
    def call(*words: str) -> Any:
        return protoseg("plan", *words, "--json").json

    return call


def test_the_paper_is_counted_as_listed_and_as_trained(protoseg: CommandLine) -> None:
    answer = protoseg("plan", "paper", "cluster=eight_gpus", "--json", *OURS)
    data = answer.json
    # 8+8+8+20+4+5+5+3+2+5+11+3 settings; the default one stands in six tables, K = 1 in two.
    assert data["listed"] == 82 * 3
    assert len(data["runs"]) == len({run["run_id"] for run in data["runs"]}) == 76 * 3
    assert sum(len(array["runs"]) for array in data["arrays"]) == 76 * 3
    assert data["gpu_hours"] is None
    assert data["gpu_hours_unknown_runs"] == 76 * 3
    # Neither the paper nor a record counts the released preset's projection.
    assert data["storage_unknown_runs"] == 3
    b2 = [r for r in data["runs"] if "mit_b2-segformer-prototype-k10" in r["run_id"]]
    assert any(len(run["matrices"]) == 6 for run in b2)


def test_storage_is_the_formula(protoseg: CommandLine) -> None:
    data = protoseg("plan", "paper_table7", "seed=0", "--json", *OURS).json
    sgd, adamw = (9.8 + 13.7 + 15.4) * 1e6, (3.8 + 3.7) * 1e6
    held = 10 * 150 * 256
    assert data["storage_bytes"] == pytest.approx(2 * 4 * (2 * sgd + 3 * adamw + held))


def test_a_model_counts_as_any_published_table_prints_it(plan: Any) -> None:
    data = plan("paper_5a", "seed=0", *OURS)  # Table 5 prints no counts; Table 4 has this model
    held = 10 * 150 * 768
    assert data["storage_unknown_runs"] == 0
    assert data["storage_bytes"] == pytest.approx(4 * 2 * 4 * (3 * 27.37e6 + held))


def test_gpu_hours_are_those_of_like_runs_on_a_gpu(protoseg: CommandLine, plan: Any) -> None:
    runs = protoseg.quickstart()
    assert plan("quickstart")["gpu_hours"] is None
    protoseg.record(runs[0], 70.0, cost={"gpu_hours": 0.0})  # on a CPU
    assert plan("quickstart")["gpu_hours"] is None
    protoseg.record(runs[1], 70.0, cost={"gpu_hours": 0.25})
    data = plan("quickstart")
    # One parametric run is left, and six of prototypes that no record is like.
    assert (data["gpu_hours"], data["gpu_hours_unknown_runs"]) == (pytest.approx(0.25), 6)
    protoseg.record(runs[3], 70.0, cost={"gpu_hours": 0.5})
    data = plan("quickstart")
    # Another K is another kind of run.
    assert (data["gpu_hours"], data["gpu_hours_unknown_runs"]) == (pytest.approx(0.25 + 1.0), 3)
    halved = plan("quickstart", "schedule.iterations=120", "--ignore-records")
    assert halved["gpu_hours"] is None


def test_storage_by_a_record_and_in_words(protoseg: CommandLine, plan: Any) -> None:
    runs = protoseg.quickstart()
    assert "Storage unknown" in protoseg("plan", "quickstart").out
    protoseg.record(runs[0], 70.0)
    data = plan("quickstart")
    assert data["storage_bytes"] == 2 * 2 * 4 * 3 * LEARNABLE  # two runs are left of its kind
    assert data["storage_unknown_runs"] == 6
    out = protoseg("plan", "quickstart").out
    assert "Storage at the end: about 179 MB; 6 runs unknown (two checkpoints a run" in out
    assert "GPU-hours by the records of like runs: 0.7; 6 runs unknown." in out


KINDS = """\
base: {decoder: segformer_64, dataset: shapes}
rows:
  - {label: recorded, method: %s, method.num_prototypes: 1, method.temperature: 0.5}
  - {label: same K, method: %s, method.num_prototypes: 1}
  - {label: other K, method: %s, method.num_prototypes: 7}
"""


@pytest.mark.parametrize(("method", "learned"), [("pixel_query", True), ("paper", False)])
def test_parameters_of_another_k_are_others_where_they_are_learned(
    protoseg: CommandLine, plan: Any, tmp_path: Path, method: str, learned: bool
) -> None:
    path = tmp_path / "kinds.yaml"
    path.write_text(KINDS % (method, method, method))
    protoseg.record(load_matrix(Composer(REPOSITORY / "experiments"), str(path)).runs[0], 70.0)
    data = plan(str(path))
    held = 0 if learned else (1 + 7) * 6 * 64
    assert data["storage_unknown_runs"] == (1 if learned else 0)
    assert data["storage_bytes"] == 2 * 4 * ((1 if learned else 2) * 3 * LEARNABLE + held)


def test_storage_counts_the_memory_of_pixel_contrast(
    protoseg: CommandLine, plan: Any, tmp_path: Path
) -> None:
    path = tmp_path / "contrast.yaml"
    path.write_text("{base: {decoder: segformer_64, dataset: shapes, contrast: pixel_small}}")
    (run,) = load_matrix(Composer(REPOSITORY / "experiments"), str(path)).runs
    without = plan(str(path), "contrast=none")
    assert without["storage_bytes"] is None
    plain = dataclasses.replace(run.spec, contrast=ContrastSpec(), seed=9)
    protoseg.record(PlannedRun(plain, {}), 70.0)
    without, with_it = plan(str(path), "contrast=none"), plan(str(path))
    contrast = run.spec.contrast
    memory = ContrastMemory(
        len(run.spec.dataset.classes),
        contrast.channels,
        pixel_queue=contrast.pixel_queue,
        region_queue=contrast.region_queue,
    )
    held = sum(queue.nbytes for queue in (memory.pixels, memory.regions))
    assert with_it["storage_bytes"] - without["storage_bytes"] == 2 * held == 2 * 4 * 6 * 1000 * 256


def test_bundles_and_their_members_are_one_plan(protoseg: CommandLine, plan: Any) -> None:
    both = plan("questions", "question_kappa")
    assert len(both["runs"]) == len(plan("questions")["runs"])
    wrong = protoseg("compare", "questions", "a", "b")
    assert wrong.status == 2
    assert "is a bundle of several matrices" in wrong.err
