"""``protoseg sweep`` and ``protoseg train`` if no run has to be trained.

tests/launch/test_local.py trains runs with these verbs.
"""

from __future__ import annotations

from cli.conftest import REPOSITORY, CommandLine
from protoseg.cli.commands.sweep import make_job_name
from protoseg.config.compose import Composer
from protoseg.config.identity import run_id
from protoseg.config.matrix import Matrix, PlannedRun, TableSpec


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
    assert data == {"trained": [], "failed": {}, "interrupted": [], "left_alone": {}}


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
