"""``protoseg sweep`` and ``protoseg train`` if no run has to be trained.

tests/launch/test_local.py trains runs with these verbs.
"""

from __future__ import annotations

import pytest
from rich.console import Console

from cli.conftest import REPOSITORY, CommandLine
from protoseg.cli.cluster_sweep import make_job_name
from protoseg.cli.local_sweep import Outcome, run_sweep
from protoseg.config.compose import Composer
from protoseg.config.identity import run_id
from protoseg.config.matrix import Matrix, PlannedRun, TableSpec
from protoseg.launch.current_plan import read_plan
from protoseg.planning.plan import Plan
from protoseg.runs import claim
from protoseg.runs.folder import Launch


def make_matrix(name: str) -> Matrix:
    """A matrix without runs."""
    return Matrix(name, "", (), TableSpec(), ())


def test_a_finished_sweep_has_nothing_to_do(protoseg: CommandLine) -> None:
    for run in protoseg.quickstart():
        protoseg.record(run, 70.0)
    result = protoseg("sweep", "quickstart")
    assert (result.status, result.err) == (0, "")
    assert "9 runs: 9 done." in result.out
    assert "Nothing to do: every run has its record." in result.out
    data = protoseg("sweep", "quickstart", "--json").json
    lists = ("trained", "finished_elsewhere", "interrupted")
    assert data == {**{name: [] for name in lists}, "failed": {}, "left_alone": {}}


def test_a_run_that_failed_for_a_permanent_reason_is_skipped(protoseg: CommandLine) -> None:
    failed, *finished = protoseg.quickstart()
    for run in finished:
        protoseg.record(run, 70.0)
    protoseg.lab.fail(failed.spec, "bad_data", "camvid: no images")
    result = protoseg("sweep", "quickstart")
    assert result.status == 1
    assert failed.run_id in result.err
    assert "--retry-failed" in result.err
    assert "Nothing to do" not in result.out
    assert list(protoseg("sweep", "quickstart", "--json").json["left_alone"]) == [failed.run_id]


def test_a_finished_run_is_not_trained_again(protoseg: CommandLine) -> None:
    spec = Composer(REPOSITORY / "experiments").spec([], "train")
    protoseg.record(PlannedRun(spec, {}), 70.0)
    result = protoseg("train")
    assert (result.status, result.err) == (0, "")
    assert "1 run: 1 done." in result.out
    assert "Nothing to do: every run has its record." in result.out
    assert run_id(spec) not in result.out


def test_the_name_of_jobs_has_the_matrices_or_their_number() -> None:
    assert make_job_name([make_matrix("a"), make_matrix("b")]) == "a-b"
    many = [make_matrix(f"matrix_{number}") for number in range(20)]
    assert make_job_name(many) == "matrix_0-and-19-more"


def test_a_run_that_another_worker_finishes_meanwhile_is_done(
    protoseg: CommandLine, capsys: pytest.CaptureFixture[str]
) -> None:
    run = protoseg.quickstart()[0]
    matrix = Matrix("one", "", (run,), TableSpec(), ())
    held = claim.acquire(protoseg.lab.start(run.spec).claim)
    assert held is not None
    plan = read_plan([matrix], protoseg.lab.runs, [])

    def train(plan: Plan) -> Outcome:
        launch = Launch(data="", weights="")
        console = Console(width=200)
        return run_sweep(
            plan, protoseg.lab.runs, launch, jobs=1, retry_failed=False, console=console, live=False
        )

    outcome = train(plan)
    assert not outcome.is_complete()
    assert "by another worker. Follow it with: protoseg logs" in outcome.left_alone[run.run_id]
    protoseg.record(run, 70.25, in_runs=True)
    held.release()
    outcome = train(plan)
    assert outcome.is_complete()
    assert outcome.finished_elsewhere == [run.run_id]
    assert f"done     {run.run_id}  mIoU 70.25" in capsys.readouterr().out
