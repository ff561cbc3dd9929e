"""``protoseg explain``."""

from __future__ import annotations

from cli.conftest import CommandLine


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
