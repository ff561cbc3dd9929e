"""``protoseg status``."""

from __future__ import annotations

import pytest

from cli.conftest import CommandLine
from protoseg.cli import context
from protoseg.runs import claim


def test_status_shows_progress_and_the_reasons_of_failures(protoseg: CommandLine) -> None:
    runs = protoseg.quickstart()
    total = runs[0].spec.schedule.iterations
    done_iterations = total - 340
    protoseg.record(runs[0], 70.25)
    protoseg.lab.fail(runs[1].spec, "out_of_memory", "CUDA out of memory: use a smaller batch")
    protoseg.lab.fail(runs[2].spec, "preempted", "SIGTERM")
    (protoseg.lab.runs / runs[2].run_id / "progress.json").write_text(
        f'{{"iteration": {done_iterations}, "iterations": {total}, "iterations_per_second": 3.0}}'
    )
    held = claim.acquire(protoseg.lab.start(runs[3].spec).claim)
    assert held is not None
    result = protoseg("status", "quickstart")
    data = protoseg("status", "quickstart", "--json").json
    held.release()
    assert result.status == 1, "a run has failed"
    lines = {line.split()[0]: line for line in result.out.splitlines() if line}
    done, failed, interrupted, running = (lines[run.run_id] for run in runs[:4])
    assert "done" in done
    assert f"{total}/{total}" in done
    assert done.endswith("70.25")
    message = f"{runs[1].run_id}: out_of_memory: CUDA out of memory: use a smaller batch"
    assert message in result.out.splitlines()
    assert "failed" in failed
    assert "interrupted" in interrupted
    assert f"{done_iterations}/{total}" in interrupted
    assert "2 min" in interrupted
    assert "running" in running
    assert "5 new, 1 running, 1 interrupted, 1 failed, 1 done" in result.out
    states = [run["state"] for run in data["runs"]]
    assert states[:5] == ["done", "failed", "interrupted", "running", "new"]
    assert data["runs"][1]["reason"] == "out_of_memory"
    assert data["runs"][2]["left_seconds"] == pytest.approx(340 / 3)


@pytest.mark.parametrize("width", [60, 80, 300])
def test_a_narrow_terminal_truncates_nothing(
    protoseg: CommandLine, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    run = protoseg.quickstart()[0]
    protoseg.lab.fail(run.spec, "out_of_memory", "CUDA out of memory: use a smaller batch")
    monkeypatch.setattr(context, "PIPE_WIDTH", width)
    result = protoseg("status", "quickstart", "seed=0")
    without_spaces = "".join(result.out.split())
    assert "…" not in result.out
    assert without_spaces.count(f"0/{run.spec.schedule.iterations}") == 3
    assert f"{run.run_id}:out_of_memory:CUDAoutofmemory:useasmallerbatch" in without_spaces
    assert "2 new, 1 failed" in result.out


def test_watching_a_finished_sweep_returns(protoseg: CommandLine) -> None:
    for run in protoseg.quickstart():
        protoseg.record(run, 70.0)
    result = protoseg("status", "quickstart", "--watch")
    assert result.status == 0
    assert "9 done" in result.out
