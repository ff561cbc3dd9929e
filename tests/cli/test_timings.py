"""``plan --time``: real timings of a small run, where they are kept, what a plan makes of them."""

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
from protoseg.config.fields import plain
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
    values = {
        "kind": workload_digest(run.spec),
        "what": "a kind",
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


def keep(protoseg: CommandLine, *found: Timing) -> None:
    folder = protoseg.lab.runs / timings.FOLDER
    folder.mkdir(exist_ok=True)
    for each in found:
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
"""A module that answers as `protoseg.training.timing` does."""


@pytest.mark.parametrize(
    "module", ["timer", pytest.param(timings.MODULE, marks=pytest.mark.slow)], ids=str
)
def test_a_kind_of_runs_without_a_record_is_timed_once(
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
    (found,) = data["timings"]
    assert found["gpu"] or found["device"].startswith("CPU ")
    assert found["gpu"] or re.search(r", \d+ threads?$", found["device"])
    assert (found["iterations"], found["what"]) == (
        2,
        "tiny, segformer, prototype, K = 10, 6 classes, 2 × 48×48",
    )
    lefts = [run["left_seconds"] for run in data["runs"]]
    assert lefts[:2] == [pytest.approx(500 * found["seconds"])] * 2
    assert lefts[2:] == [None, None]
    assert [run["timed"] for run in data["runs"]] == [True, True, False, False]
    hours = pytest.approx(2 * 500 * found["seconds"] / 3600) if found["gpu"] else None
    assert data["gpu_hours"] == hours
    (message,) = data["not_timed"].values()
    assert message == f"does not fit into the memory of {found['device']}"
    assert "Timing 2 kinds of runs on " in answer.err
    assert "1/2  tiny, segformer, prototype, K = 10, 6 classes, 2 × 48×48: " in answer.err
    assert "2/2  tiny, segformer, prototype, K = 10, 6 classes, 1000000 × " in answer.err

    # The next plan knows it, without torch or any process; and says where it comes from.
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process"))
    again = protoseg("plan", str(path), "--json").json
    assert [run["left_seconds"] for run in again["runs"]] == lefts
    out = protoseg("plan", str(path)).out
    assert "by timings (2 runs); 2 runs unknown." in out
    assert f"Timings: 1 kind of runs on {found['device']}, the median of 2 iterations each" in out
    assert "neither reading images nor evaluating is in them" in out


def test_a_process_that_is_killed_or_breaks_is_told_apart(
    protoseg: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "killed.py").write_text("import os\nos.kill(os.getpid(), 9)")
    (tmp_path / "broken.py").write_text("raise ZeroDivisionError('oh')")
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    spec, device = protoseg.quickstart()[0].spec, Device(GPU, True)

    def fails(module: str) -> Failure:
        monkeypatch.setattr(timings, "MODULE", module)
        found = timings.take(spec, protoseg.lab.runs, device, iterations=1, threads=1)
        assert isinstance(found, Failure)
        return found

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


def test_gpu_hours_come_from_records_first_and_then_from_timings(protoseg: CommandLine) -> None:
    runs = protoseg.quickstart()
    protoseg.record(runs[0], 70.0, cost={"gpu_hours": 0.24, "iterations_per_second": 0.5})
    keep(protoseg, *(timing(run, 36.0) for run in (runs[0], runs[3])))
    data = protoseg("plan", "quickstart", "--json").json
    # Two parametric runs by the record, three of K = 1 by the timing; three of K = 4 by nothing.
    assert data["gpu_hours_by_timings"] == pytest.approx(3 * 400 * 36 / 3600)
    assert data["gpu_hours"] == pytest.approx(2 * 0.24 + 3 * 4.0)
    assert (data["gpu_hours_timed_runs"], data["gpu_hours_unknown_runs"]) == (3, 3)
    assert [run["left_seconds"] for run in data["runs"][1:4]] == [800.0, 800.0, 400 * 36.0]
    out = protoseg("plan", "quickstart").out
    assert (
        "GPU-hours: 0.5 by the records of like runs and 12.0 by timings (3 runs), each run on one "
        "GPU; 3 runs unknown."
    ) in out
    assert (
        "Training time: 27 min by the records of like runs (2 runs) and 12.0 h by timings "
        "(3 runs); 3 runs unknown."
    ) in out
    assert "12.0 h, timed" in out


def test_a_timing_on_a_cpu_tells_no_gpu_hours_and_one_of_other_code_nothing(
    protoseg: CommandLine,
) -> None:
    runs = protoseg.quickstart()
    here = {"device": "CPU, 2 threads", "gpu": False}
    keep(protoseg, timing(runs[0], 2.0, **here), timing(runs[3], 2.0, code="another"))
    (protoseg.lab.runs / timings.FOLDER / "torn.json").write_text('{"kind": ')
    data = protoseg("plan", "quickstart", "--json").json
    assert data["gpu_hours"] is None
    assert [run["left_seconds"] for run in data["runs"]] == [800.0] * 3 + [None] * 6
    # Of a GPU and this CPU the GPU's is taken, unless it is this CPU that was asked for.
    found = [timing(runs[0], 1.0), timing(runs[0], 2.0, **here)]
    kind = workload_digest(runs[0].spec)
    assert timings.chosen(found)[kind].seconds == 1.0
    assert timings.chosen(found, Device("CPU, 2 threads", False))[kind].seconds == 2.0
    newer = timing(runs[0], 3.0, time="2026-02-01T00:00:00+00:00")
    assert timings.chosen([newer, *found])[kind].seconds == 3.0


def test_only_what_nothing_tells_on_that_device_is_timed(protoseg: CommandLine) -> None:
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


def test_a_number_is_told_from_a_matrix(protoseg: CommandLine) -> None:
    answer = protoseg("plan", "--time", "quickstart")
    assert answer.status == 2
    assert "expected a whole number from 1, found 'quickstart'; matrices go before" in answer.err
    assert protoseg("plan", "quickstart", "--time", "0").status == 2


@pytest.mark.parametrize(
    ("change", "like"),
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
def test_which_runs_are_alike(protoseg: CommandLine, change: Any, like: bool) -> None:
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
    assert (workload_of(spec) == workload_of(other)) is like
    assert (workload_digest(spec) == workload_digest(other)) is like
    # A record has no fields that came later; read back from JSON its lists are tuples no more.
    record = json.loads(json.dumps(plain(other, identity=True)))
    assert workload_of(record) == workload_of(other)
