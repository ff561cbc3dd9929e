"""``protoseg status``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from waiting import finish

from cli.conftest import CommandLine
from protoseg.cli import context
from protoseg.cli.commands import status as status_command
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


def test_a_run_shows_its_last_evaluation_on_the_way(protoseg: CommandLine) -> None:
    run = protoseg.quickstart()[0]
    protoseg.lab.fail(run.spec, "preempted", "SIGTERM")
    progress = protoseg.lab.runs / run.run_id / "progress.json"
    last = {"iteration": 40, "miou": 43.2149, "seconds": 2.5}
    progress.write_text(json.dumps({"iteration": 45, "iterations": 550, "evaluation": last}))
    line = next(x for x in protoseg("status", "quickstart").out.splitlines() if run.run_id in x)
    assert line.endswith("43.21 at 40")
    data = protoseg("status", "quickstart", "--json").json["runs"]
    assert (data[0]["miou"], data[0]["evaluation"]) == (None, last)
    assert "evaluation" not in data[1]
    for damaged in ("[1]", '{"miou": "x", "iteration": null}', '"x"'):
        progress.write_text(f'{{"iteration": 45, "iterations": 550, "evaluation": {damaged}}}')
        assert protoseg("status", "quickstart").status == 0
    protoseg.record(run, 50.0)
    assert protoseg("status", "quickstart", "--json").json["runs"][0]["miou"] == 50.0


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


def test_a_run_is_named_by_a_part_of_its_id(protoseg: CommandLine) -> None:
    runs = protoseg.quickstart()
    protoseg.record(runs[0], 70.25, in_runs=True)
    protoseg.lab.fail(runs[1].spec, "out_of_memory", "CUDA out of memory: use a smaller batch")
    protoseg.record(runs[2], 61.5)  # only its committed record is left
    done = protoseg("status", runs[0].run_id[:-6])
    assert (done.status, done.err) == (0, "")
    assert done.out.split("\n")[1].split()[:2] == [runs[0].run_id, "done"]
    assert "70.25" in done.out
    assert "61.50" in protoseg("status", runs[2].run_id[-10:]).out
    both = protoseg("status", runs[0].run_id, runs[1].run_id)
    assert both.status == 1
    assert "out_of_memory: CUDA out of memory" in both.out
    assert protoseg("status", "quickstart", runs[1].run_id, "--json").json["counts"]["new"] == 6
    assert "is a part of 2 run ids" in protoseg("status", "tiny").err
    unknown = protoseg("status", "quickstard")
    assert "unknown matrix or run 'quickstard'. Did you mean 'quickstart'?" in unknown.err
    assert "Remove it, or name a matrix." in protoseg("status", runs[0].run_id, "seed=1").err


def test_a_terminal_of_80_columns_shows_what_differs(
    protoseg: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = protoseg.quickstart()[0]
    protoseg.record(run, 70.25)
    monkeypatch.setattr(context, "PIPE_WIDTH", 80)
    lines = protoseg("status", "quickstart").out.splitlines()
    assert lines[0] == "Run ids begin with shapes_64-tiny-segformer-"
    rows = [line for line in lines if f"/{run.spec.schedule.iterations}" in line]
    assert len(rows) == 9
    assert len({row.split()[0] for row in rows}) == 9
    # The shown part identifies the run.
    assert protoseg("status", rows[0].split()[0]).out.count(run.run_id) == 1


def write_progress(protoseg: CommandLine, run_id: str, **progress: Any) -> None:
    settings = {"iteration": 45, "iterations": 550, "iterations_per_second": 5.0} | progress
    (protoseg.lab.runs / run_id / "progress.json").write_text(json.dumps(settings))


def test_watching_in_a_pipe_prints_a_block_each_time(
    protoseg: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = protoseg.quickstart()
    for run in runs[1:]:
        protoseg.record(run, 70.0)
    held = claim.acquire(protoseg.lab.start(runs[0].spec).claim)
    assert held is not None
    losses = [[i, 8.0 - i] for i in range(1, 5)]
    write_progress(protoseg, runs[0].run_id, losses=losses, loss=3.75)
    pauses: list[float] = []

    def pause(every: float) -> None:
        """The run evaluates during the first pause, and has its record after the second one."""
        pauses.append(every)
        if len(pauses) == 1:
            evaluations = [[10, 20.0], [20, 30.25]]
            write_progress(protoseg, runs[0].run_id, losses=losses, evaluations=evaluations)
        else:
            held.release()
            protoseg.record(runs[0], 71.5)

    monkeypatch.setattr(status_command, "_pause", pause)
    result = protoseg("status", "quickstart", "--watch", "--every", "7")
    assert result.status == 0
    assert pauses == [7.0, 7.0]
    assert "\x1b" not in result.out, "no escape codes in a pipe"
    blocks = split_blocks(result.out)
    assert len(blocks) == 3
    lines = [next(x for x in block.splitlines() if runs[0].run_id in x) for block in blocks]
    assert "█▆▄▁" in lines[0]
    assert lines[0].rstrip().endswith("3.7500")
    assert "▁█" in lines[1]
    assert lines[1].rstrip().endswith("30.25")
    assert "done" in lines[2]
    assert lines[2].rstrip().endswith("71.50")
    # 505 iterations are left, at 5 a second.
    assert "quickstart: 1 run left, 1 running: about 2 min, until " in blocks[0]
    assert "left, " not in blocks[2]


def split_blocks(text: str) -> list[str]:
    """The blocks of a watched plan: each starts with a line that is a time."""
    blocks: list[str] = []
    for line in text.splitlines():
        if len(line) == 19 and line[4] == line[7] == "-":
            blocks.append("")
        blocks[-1] += f"{line}\n"
    return blocks


def test_every_needs_watch(protoseg: CommandLine) -> None:
    result = protoseg("status", "quickstart", "--every", "5")
    assert result.status == 2
    assert "--every is the interval of --watch. Add --watch." in result.err


def test_watching_in_a_terminal_replaces_the_display(
    protoseg: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, *others = protoseg.quickstart()
    for other in others:
        protoseg.record(other, 70.0)
    monkeypatch.setattr(status_command, "_pause", lambda every: protoseg.record(run, 71.5))
    monkeypatch.setattr(context.PipeConsole, "is_terminal", True)
    result = protoseg("status", "quickstart", "--watch")
    assert result.status == 0
    assert "\x1b[1A" in result.out, "the cursor goes up to the first line of the display"
    assert "71.50" in result.out


@pytest.mark.slow
def test_ctrl_c_ends_watching_without_an_error(protoseg: CommandLine) -> None:
    protoseg.quickstart()
    command = [sys.executable, "-m", "protoseg.cli", "status", "quickstart", "--watch"]
    folders = ["--runs", str(protoseg.lab.runs), "--every", "0.1", "--ignore-records"]
    process = subprocess.Popen(
        [*command, *folders],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    while "9 new" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = finish(process)
    assert (process.returncode, err) == (0, "")
