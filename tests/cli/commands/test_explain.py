"""``protoseg explain``."""

from __future__ import annotations

import pytest
from training.small import composer

from cli.conftest import CommandLine
from protoseg.config.load_matrix import load_matrix


def test_explain_names_runs_seeds_and_commits(protoseg: CommandLine) -> None:
    runs = protoseg.quickstart()
    for run in runs[:2]:
        protoseg.record(run, 70.0)
    result = protoseg("explain", "quickstart", "Parametric, K = 1", "miou")
    assert result.status == 0
    for run in runs[:3]:
        assert run.run_id in result.out
    assert "0123456" in result.out, "the commit"
    assert "not run" in result.out
    assert protoseg("explain", "quickstart", "1", "miou").out == result.out
    assert "ProtoSeg" in protoseg("explain", "quickstart", "ProtoSeg, K = 1", "delta").out


def test_a_single_run_is_explained(protoseg: CommandLine) -> None:
    run, other = protoseg.quickstart()[:2]
    protoseg.record(run, 70.0, in_runs=True)
    protoseg.record(other, 60.0)
    result = protoseg("explain", run.run_id[-10:])
    assert result.status == 0
    assert f"{run.run_id} / miou" in result.out
    assert "70.00 %" in result.out
    assert "0123456" in result.out, "the commit"
    assert "78.00 %" in protoseg("explain", run.run_id, "macc").out
    assert protoseg("explain", other.run_id, "--json").json["shown"] == "60.00"


def test_names_with_commas_are_quoted(protoseg: CommandLine) -> None:
    result = protoseg("explain", "quickstart", "x")
    assert "Known: 'Parametric, K = 1', 'ProtoSeg, K = 1', 'ProtoSeg, K = 4'." in result.err
    result = protoseg("explain", "quickstart")
    assert "name a row of quickstart. Rows: 'Parametric, K = 1', " in result.err


def test_overrides_change_the_matrix(protoseg: CommandLine) -> None:
    override = "schedule.iterations=100"
    others = load_matrix(composer(), "quickstart", [override]).runs
    for run, other in zip(protoseg.quickstart(), others, strict=True):
        protoseg.record(run, 70.0)
        protoseg.record(other, 60.0)
    cell = ("Parametric, K = 1", "miou")
    assert "70.00" in protoseg("explain", "quickstart", *cell).out
    result = protoseg("explain", "quickstart", override, *cell)
    assert (result.status, result.err) == (0, "")
    assert "60.00" in result.out
    assert protoseg("explain", "quickstart", *cell, override).out == result.out
    run_id = protoseg.quickstart()[0].run_id
    assert "only a run is named" in protoseg("explain", run_id, override).err


@pytest.mark.parametrize("label", ["K=4", "seeds=2", "method = paper", "ProtoSeg, method=paper"])
def test_a_label_with_an_equals_sign_is_a_row(protoseg: CommandLine, label: str) -> None:
    assert f"unknown row '{label}'" in protoseg("explain", "quickstart", label).err


def test_a_difference_of_percentages_is_in_points(protoseg: CommandLine) -> None:
    for number, run in enumerate(protoseg.quickstart()):
        protoseg.record(run, 60.0 + number % 3 + (2.5 if number > 2 else 0))
    result = protoseg("explain", "quickstart", "ProtoSeg, K = 1", "delta")
    assert "+2.50 ± 0.00 points" in result.out
    assert "%\n" not in result.out
    assert protoseg("explain", "quickstart", "ProtoSeg, K = 1", "--json").json["unit"] == "%"
