"""``protoseg plan --time``: times a small run, stores the timing, and uses it in later plans."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import CommandLine
from protoseg.config.fields import to_plain
from protoseg.config.identity import run_id
from protoseg.config.matrix import Matrix, PlannedRun, TableSpec
from protoseg.config.schema import RunSpec
from protoseg.launch.current_plan import read_plan
from protoseg.planning import timings
from protoseg.planning.cost import workloads_to_time
from protoseg.planning.timings import Device, Failure, Timing
from protoseg.planning.workload import workload_digest, workload_of
from protoseg.runs.store import all_records

SMALL = """\
base:
  augmentation.scale: [48, 48]
  augmentation.crop_size: [48, 48]
  schedule.iterations: 500
  schedule.batch_size: 2
rows:
  - {label: prototypes}
  - {label: huge, schedule.batch_size: 1000000, augmentation.crop_size: [100000, 100000]}
seeds: [0, 1]
"""
GPU = "NVIDIA H200"


def timing(run: PlannedRun, seconds: float, **changes: Any) -> Timing:
    """A timing of a run's workload on a GPU.

    Args:
        seconds: per iteration.
        changes: other values of fields.
    """
    values = {
        "kind": workload_digest(run.spec),
        "what": "a workload",
        "code": timings.code_version(),
        "device": GPU,
        "gpu": True,
        "iterations": 10,
        "seconds": seconds,
        "fastest": seconds,
        "slowest": seconds,
        "memory_mib": 1000.0,
        "time": "2026-01-01T00:00:00+00:00",
    }
    return Timing(**{**values, **changes})


def store(protoseg: CommandLine, *stored: Timing) -> None:
    """Write timings into the folder where a plan reads them."""
    folder = protoseg.lab.runs / timings.FOLDER
    folder.mkdir(exist_ok=True)
    for each in stored:
        path = folder / f"{len(list(folder.iterdir()))}.json"
        path.write_text(json.dumps(dataclasses.asdict(each)))


TIMER = """\
import json, sys
from pathlib import Path
if len(sys.argv) == 1:
    print(json.dumps({"device": "CPU Abacus", "gpu": False}))
else:
    request = json.loads(Path(sys.argv[1]).read_text())
    if request["spec"]["schedule"]["batch_size"] > 1000:
        answer = {"reason": "out_of_memory", "message": "too large"}
    else:
        seconds = {"seconds": 0.5, "fastest": 0.25, "slowest": 1.0}
        answer = {"iterations": request["iterations"], "memory_mib": 100.0, **seconds}
    Path(sys.argv[2]).write_text(json.dumps(answer))
"""
"""A module with the input and output of `protoseg.training.timing`, but without torch."""


@pytest.mark.parametrize(
    "module", ["timer", pytest.param(timings.MODULE, marks=pytest.mark.slow)], ids=str
)
def test_a_workload_without_a_record_is_timed_once(
    protoseg: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    (tmp_path / "timer.py").write_text(TIMER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(timings, "MODULE", module)
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    answer = protoseg("plan", str(path), "--json", "--time", "2")
    assert answer.status == 0, answer.err
    data = answer.json
    (measured,) = data["timings"]
    assert measured["gpu"] or measured["device"].startswith("CPU ")
    assert measured["gpu"] or re.search(r", \d+ threads?$", measured["device"])
    assert (measured["iterations"], measured["what"]) == (
        2,
        "tiny, segformer, prototype, K = 10, 6 classes, 2 × 48×48",
    )
    seconds_left = [run["left_seconds"] for run in data["runs"]]
    assert seconds_left[:2] == [pytest.approx(500 * measured["seconds"])] * 2
    assert seconds_left[2:] == [None, None]
    assert [run["timed"] for run in data["runs"]] == [True, True, False, False]
    hours = pytest.approx(2 * 500 * measured["seconds"] / 3600) if measured["gpu"] else None
    assert data["gpu_hours"] == hours
    (message,) = data["not_timed"].values()
    assert message == f"does not fit into the memory of {measured['device']}"
    assert "Timing 2 workloads on " in answer.err
    assert "1/2  tiny, segformer, prototype, K = 10, 6 classes, 2 × 48×48: " in answer.err
    assert "2/2  tiny, segformer, prototype, K = 10, 6 classes, 1000000 × " in answer.err

    # The next plan reads the timing, starts no process, and names the source of its estimate.
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process started"))
    later = protoseg("plan", str(path), "--json").json
    assert [run["left_seconds"] for run in later["runs"]] == seconds_left
    out = protoseg("plan", str(path)).out
    assert "by timings (2 runs); 2 runs unknown." in out
    assert f"Timings: 1 workload on {measured['device']}, the median of 2 iterations each" in out
    assert "without reading images and without evaluation" in out


def test_a_killed_a_broken_and_a_slow_process_have_different_messages(
    protoseg: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "killed.py").write_text("import os\nos.kill(os.getpid(), 9)")
    (tmp_path / "broken.py").write_text("raise ZeroDivisionError('oh')")
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    spec, device = protoseg.quickstart()[0].spec, Device(GPU, True)

    def fails(module: str) -> Failure:
        monkeypatch.setattr(timings, "MODULE", module)
        failure = timings.measure_workload(spec, protoseg.lab.runs, device, iterations=1, threads=1)
        assert isinstance(failure, Failure)
        return failure

    killed = fails("killed")
    assert (killed.memory, killed.message) == (True, f"does not fit into the memory of {GPU}")
    assert fails("broken").message == "ZeroDivisionError: oh"
    # This process never ends: giving up is right however slow the machine is.
    monkeypatch.setattr(timings, "TIMEOUT_SECONDS", 0.1)
    late = fails("slow")
    assert not late.memory
    assert "stopped after" in late.message
    assert not (protoseg.lab.runs / timings.FOLDER).exists()
    monkeypatch.setattr(timings, "MODULE", "broken")
    answer = protoseg("plan", "quickstart", "--time")
    assert answer.status == 1
    assert "plan --time: torch does not start (ZeroDivisionError: oh)" in answer.err


def test_gpu_hours_come_from_records_or_else_from_timings(protoseg: CommandLine) -> None:
    runs = protoseg.quickstart()
    iterations = runs[0].spec.schedule.iterations
    cost = {"gpu_hours": 0.24, "iterations_per_second": iterations / 800}
    protoseg.record(runs[0], 70.0, cost=cost)
    # By the timings, a run takes 4 hours.
    store(protoseg, *(timing(run, 4 * 3600 / iterations) for run in (runs[0], runs[3])))
    data = protoseg("plan", "quickstart", "--json").json
    # Two parametric runs by the record, three of K = 1 by the timing; three of K = 4 are unknown.
    assert data["gpu_hours_by_timings"] == pytest.approx(3 * 4.0)
    assert data["gpu_hours"] == pytest.approx(2 * 0.24 + 3 * 4.0)
    assert (data["gpu_hours_timed_runs"], data["gpu_hours_unknown_runs"]) == (3, 3)
    assert [run["left_seconds"] for run in data["runs"][1:4]] == pytest.approx([800, 800, 4 * 3600])
    out = protoseg("plan", "quickstart").out
    assert (
        "GPU-hours: 0.5 by records of similar runs and 12.0 by timings (3 runs), each run on one "
        "GPU; 3 runs unknown."
    ) in out
    assert (
        "Training time: 27 min by records of similar runs (2 runs) and 12.0 h by timings "
        "(3 runs); 3 runs unknown."
    ) in out
    assert "12.0 h, timed" in out


def test_cpu_timings_give_no_gpu_hours_and_timings_of_other_code_are_ignored(
    protoseg: CommandLine,
) -> None:
    runs = protoseg.quickstart()
    on_cpu = {"device": "CPU, 2 threads", "gpu": False}
    store(protoseg, timing(runs[0], 2.0, **on_cpu), timing(runs[3], 2.0, code="another"))
    (protoseg.lab.runs / timings.FOLDER / "torn.json").write_text('{"kind": ')
    data = protoseg("plan", "quickstart", "--json").json
    assert data["gpu_hours"] is None
    seconds = 2.0 * runs[0].spec.schedule.iterations
    assert [run["left_seconds"] for run in data["runs"]] == [seconds] * 3 + [None] * 6
    # A GPU timing is preferred to a CPU timing, unless the device is this CPU.
    both = [timing(runs[0], 1.0), timing(runs[0], 2.0, **on_cpu)]
    workload = workload_digest(runs[0].spec)
    assert timings.choose_timings(both)[workload].seconds == 1.0
    assert timings.choose_timings(both, Device("CPU, 2 threads", False))[workload].seconds == 2.0
    newer = timing(runs[0], 3.0, time="2026-02-01T00:00:00+00:00")
    assert timings.choose_timings([newer, *both])[workload].seconds == 3.0


def test_only_workloads_of_unknown_speed_on_this_device_are_timed(protoseg: CommandLine) -> None:
    runs = protoseg.quickstart()
    matrix = Matrix("quickstart", "", tuple(runs), TableSpec(), ())
    gpu, cpu = Device(GPU, True), Device("CPU, 2 threads", False)

    def labels(device: Device, *known: Timing) -> list[str]:
        plan = read_plan([matrix], protoseg.lab.runs, [protoseg.lab.records])
        specs = workloads_to_time(plan, [*all_records([protoseg.lab.records])], known, device)
        names = {run_id(run.spec): str(run.axes["label"]) for run in runs}
        return [names[run_id(spec)] for spec in specs]

    every = ["Parametric, K = 1", "ProtoSeg, K = 1", "ProtoSeg, K = 4"]
    assert labels(cpu) == labels(gpu) == every
    protoseg.record(runs[0], 70.0, cost={"gpu_hours": 0.0})  # on a CPU
    assert (labels(cpu), labels(gpu)) == (every[1:], every)
    protoseg.record(runs[1], 70.0, cost={"gpu_hours": 0.2})
    assert (labels(cpu), labels(gpu)) == (every[1:], every[1:])
    known = timing(runs[3], 1.0)
    assert (labels(cpu, known), labels(gpu, known)) == (every[1:], every[2:])


def test_a_matrix_after_the_option_time_is_wrong_usage(protoseg: CommandLine) -> None:
    answer = protoseg("plan", "--time", "quickstart")
    assert answer.status == 2
    assert "expected a whole number from 1, found 'quickstart'; put matrices before" in answer.err
    assert protoseg("plan", "quickstart", "--time", "0").status == 2


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({"seed": 5}, True),
        ({"method": {"momentum": 0.5, "ppc_weight": 0.5, "distance": "huber"}}, True),
        ({"schedule": {"iterations": 7, "learning_rate": 0.5}}, True),
        ({"method": {"num_prototypes": 3}}, False),
        ({"method": {"projection": False}}, False),
        ({"schedule": {"batch_size": 3}}, False),
        ({"contrast": {"weight": 0.1}}, False),
        ({"determinism": "bitwise"}, False),
        ({"precision": "bf16"}, False),
    ],
    ids=str,
)
def test_which_settings_change_the_workload(
    protoseg: CommandLine, change: Any, is_same: bool
) -> None:
    def changed(spec: Any, values: Any) -> Any:
        return dataclasses.replace(
            spec,
            **{
                key: changed(getattr(spec, key), value) if isinstance(value, dict) else value
                for key, value in values.items()
            },
        )

    spec: RunSpec = protoseg.quickstart()[-1].spec
    other = changed(spec, change)
    assert (workload_of(spec) == workload_of(other)) is is_same
    assert (workload_digest(spec) == workload_digest(other)) is is_same
    # The spec in a record has lists instead of tuples, and lacks fields that were added later.
    record = json.loads(json.dumps(to_plain(other, identity=True)))
    assert workload_of(record) == workload_of(other)
