"""``protoseg compare``: what it refuses (tests/report/test_comparison.py compares records)."""

from __future__ import annotations

import pytest

from cli.conftest import CommandLine


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one"], "protoseg compare: name two runs, or a matrix and two of its rows."),
        (["quickstart", "#1", "#2", "miou", "more"], "name two runs, or a matrix and two of"),
        (["quickstart", "Parametric", "#2"], "quickstart: unknown row 'Parametric'. Did you mean"),
        (["quickstart", "#1", "#2", "mio"], "unknown column 'mio'. Did you mean 'miou'?"),
        (["quickstart", "#1", "#2", "--draws", "0"], "expected a whole number from 1, found '0'"),
    ],
)
def test_wrong_arguments_are_reported(
    protoseg: CommandLine, arguments: list[str], message: str
) -> None:
    result = protoseg("compare", *arguments)
    assert (result.status, result.out) == (2, "")
    assert message in result.err


def test_an_unknown_run_is_reported_with_the_searched_folders(protoseg: CommandLine) -> None:
    run = protoseg.quickstart()[0]
    protoseg.record(run, 70.0)
    result = protoseg("compare", run.run_id, "nothing")
    assert result.status == 2
    where = f"{protoseg.lab.records} and {protoseg.lab.runs}"
    assert f"protoseg compare: {where}: unknown run 'nothing'. Known: {run.run_id}" in result.err


def test_a_row_without_a_finished_run_is_reported(protoseg: CommandLine) -> None:
    result = protoseg("compare", "quickstart", "Parametric, K = 1", "ProtoSeg, K = 4")
    assert result.status != 0
    assert "'Parametric, K = 1' has no finished run" in result.err
    assert "protoseg sweep" in result.err
