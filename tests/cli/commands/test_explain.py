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
