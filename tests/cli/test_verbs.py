"""What the verbs say of new, finished, failed and damaged runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import DEADLINE

from cli.conftest import CommandLine
from protoseg.cli import context, main
from protoseg.config.identity import run_id_pattern
from protoseg.runs import claim

JSON_CALLS = [
    ["plan", "quickstart"],
    ["status", "quickstart"],
    ["tables", "quickstart"],
    ["explain", "quickstart", "1", "miou"],
    ["data", "list"],
]


@pytest.mark.parametrize("words", JSON_CALLS, ids=" ".join)
@pytest.mark.parametrize("some_done", [False, True])
def test_json_is_all_that_stands_on_standard_output(
    protoseg: CommandLine, words: list[str], some_done: bool
) -> None:
    if some_done:
        protoseg.record(protoseg.quickstart()[0], 70.0)
    answer = protoseg(*words, "--json")
    assert answer.status == 0
    assert answer.json
    assert answer.err == ""


def test_a_plan_of_all_matrices_names_runs_as_the_pattern_has_it(protoseg: CommandLine) -> None:
    answer = protoseg("plan", "--json")
    assert (answer.status, answer.err) == (0, "")
    runs = answer.json["runs"]
    assert len(runs) > 9
    assert all(run_id_pattern().fullmatch(run["run_id"]) for run in runs)


def test_a_new_plan_shows_every_row_and_no_price(protoseg: CommandLine) -> None:
    answer = protoseg("plan", "quickstart", "--jobs", "2")
    assert answer.status == 0
    for label in ("Parametric, K = 1", "ProtoSeg, K = 1", "ProtoSeg, K = 4"):
        assert f" {label} " in answer.out
    assert answer.out.count("3 new") == 3
    assert "9 runs: 9 new." in answer.out
    assert "To train: 9 runs, on this machine 2 at once. Training time unknown" in answer.out


def test_a_plan_counts_what_is_done_wherever_it_lies_and_says_the_price(
    protoseg: CommandLine,
) -> None:
    runs = protoseg.quickstart()
    cost = {"iterations_per_second": 2.0}
    protoseg.record(runs[0], 70.0, cost=cost)
    protoseg.record(runs[1], 71.0, in_runs=True, cost=cost)
    for run in (runs[3], runs[6]):  # of K = 1 and of K = 4
        protoseg.record(run, 72.0, cost={"iterations_per_second": 4.0})
    answer = protoseg("plan", "quickstart")
    assert "2 done, 1 new" in answer.out
    assert "9 runs: 5 new, 4 done." in answer.out
    # One parametric run at 2 it/s and four of prototypes at 4 it/s, 400 iterations each.
    assert "Training time by the records of like runs: 10 min in all." in answer.out
    data = protoseg("plan", "quickstart", "--json").json
    assert data["left_seconds"] == 400 / 2 + 4 * 400 / 4
    assert data["counts"]["done"] == 4
    assert [run["miou"] for run in data["runs"]][:4] == [70.0, 71.0, None, 72.0]
    ignoring = protoseg("plan", "quickstart", "--ignore-records", "--json").json
    assert ignoring["counts"]["done"] == 1, "what lies in the run folders still counts"


def test_a_finished_plan_has_nothing_left(protoseg: CommandLine) -> None:
    for run in protoseg.quickstart():
        protoseg.record(run, 70.0)
    answer = protoseg("plan", "quickstart")
    assert "9 runs: 9 done." in answer.out
    assert "To train" not in answer.out
    assert protoseg("status", "quickstart").status == 0


def test_runs_that_tables_share_are_counted_once(protoseg: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    base = "method: parametric, dataset: shapes_64, augmentation: shapes_64, schedule: shapes_400"
    path.write_text(f"{{base: {{{base}}}, seeds: [0, 5]}}")
    data = protoseg("plan", "quickstart", str(path), "--json").json
    assert (data["listed"], len(data["runs"])) == (11, 10)
    assert data["runs"][0]["matrices"] == ["quickstart", "other"]
    assert "10 runs (11 in the tables, 1 shared)" in protoseg("plan", "quickstart", str(path)).out


def test_status_tells_how_far_and_why(protoseg: CommandLine) -> None:
    runs = protoseg.quickstart()
    protoseg.record(runs[0], 70.25)
    protoseg.lab.fail(runs[1].spec, "out_of_memory", "CUDA out of memory: use a smaller batch")
    protoseg.lab.fail(runs[2].spec, "preempted", "SIGTERM")
    (protoseg.lab.runs / runs[2].run_id / "progress.json").write_text(
        '{"iteration": 60, "iterations": 400, "iterations_per_second": 3.0}'
    )
    held = claim.acquire(protoseg.lab.start(runs[3].spec).claim)
    assert held is not None
    answer = protoseg("status", "quickstart")
    data = protoseg("status", "quickstart", "--json").json
    held.release()
    assert answer.status == 1, "a run has failed"
    lines = {line.split()[0]: line for line in answer.out.splitlines() if line}
    assert "done" in lines[runs[0].run_id]
    assert "400/400" in lines[runs[0].run_id]
    assert lines[runs[0].run_id].endswith("70.25")
    oom = f"{runs[1].run_id}: out_of_memory: CUDA out of memory: use a smaller batch"
    assert oom in answer.out.splitlines()
    assert "failed" in lines[runs[1].run_id]
    assert "interrupted" in lines[runs[2].run_id]
    assert "60/400" in lines[runs[2].run_id]
    assert "2 min" in lines[runs[2].run_id]
    assert "running" in lines[runs[3].run_id]
    assert "5 new, 1 running, 1 interrupted, 1 failed, 1 done" in answer.out
    states = [run["state"] for run in data["runs"]]
    assert states[:5] == ["done", "failed", "interrupted", "running", "new"]
    assert data["runs"][1]["reason"] == "out_of_memory"
    assert data["runs"][2]["left_seconds"] == pytest.approx((400 - 60) / 3)


@pytest.mark.parametrize("width", [60, 80, 300])
def test_a_narrow_terminal_cuts_nothing(
    protoseg: CommandLine, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    run = protoseg.quickstart()[0]
    protoseg.lab.fail(run.spec, "out_of_memory", "CUDA out of memory: use a smaller batch")
    monkeypatch.setattr(context, "PIPE_WIDTH", width)
    answer = protoseg("status", "quickstart", "seed=0")
    together = "".join(answer.out.split())
    assert "…" not in answer.out
    assert together.count("0/400") == 3
    assert f"{run.run_id}:out_of_memory:CUDAoutofmemory:useasmallerbatch" in together
    assert "2 new, 1 failed" in answer.out


@pytest.mark.parametrize("verb", ["plan", "status", "tables"])
@pytest.mark.parametrize("in_runs", [False, True])
def test_a_damaged_record_is_one_sentence_and_the_others_are_shown(
    protoseg: CommandLine, verb: str, in_runs: bool
) -> None:
    first, second, *_ = protoseg.quickstart()
    damaged = protoseg.record(first, 70.0, in_runs=in_runs)
    damaged.write_text(damaged.read_text().replace('"miou": 70.0', '"miou": 99.0'))
    protoseg.record(second, 71.0, in_runs=in_runs)
    answer = protoseg(verb, "quickstart")
    assert answer.status == 1
    assert answer.err.strip() == (
        f"{damaged}: edited or damaged record, its content does not match its digest. "
        "Restore it from a copy, or delete it and run the sweep again."
    )
    assert "99.0" not in answer.out
    assert {"plan": "1 failed, 1 done", "status": "71.00", "tables": "71.00"}[verb] in answer.out
    answer = protoseg(verb, "quickstart", "--json")
    assert answer.status == 1
    assert str(damaged) in json.dumps(answer.json)


def test_the_record_of_another_run_is_not_believed(protoseg: CommandLine) -> None:
    first, second, *_ = protoseg.quickstart()
    path = protoseg.record(first, 70.0)
    path.rename(path.with_name(f"{second.run_id}.json"))
    answer = protoseg("plan", "quickstart")
    assert answer.status == 1
    assert f"is the record of {first.run_id}" in answer.err
    assert "8 new, 1 failed" in answer.out


@pytest.mark.parametrize("verb", ["plan", "status", "tables"])
@pytest.mark.parametrize("option", ["--runs", "--results"])
def test_a_place_that_is_a_file_holds_no_runs(
    protoseg: CommandLine, tmp_path: Path, verb: str, option: str
) -> None:
    file = tmp_path / "file"
    file.touch()
    out = ["--out", str(tmp_path / "out")] if verb == "tables" else []
    answer = protoseg(verb, "quickstart", option, str(file), *out)
    assert (answer.status, answer.err) == (0, "")


def test_odd_files_in_run_folders_stop_nothing(protoseg: CommandLine) -> None:
    runs = protoseg.quickstart()
    for run, name in zip(runs, ("progress.json", "claim.json", "spec.json"), strict=False):
        folder = protoseg.lab.start(run.spec)
        folder.start_attempt({"iteration": None})
        (folder.path / name).write_text("[1, 2]")
    for verb in ("plan", "status", "tables"):
        answer = protoseg(verb, "quickstart")
        assert (answer.status, answer.err) == (0, "")


def test_tables_are_written_in_four_forms_and_printed(
    protoseg: CommandLine, tmp_path: Path
) -> None:
    for number, run in enumerate(protoseg.quickstart()):
        protoseg.record(run, 70.0 + number)
    answer = protoseg("tables", "quickstart")
    assert answer.status == 0
    assert "71.00 ± 1.00" in answer.out
    assert sorted(p.name for p in (tmp_path / "tables").iterdir()) == [
        "quickstart.csv", "quickstart.html", "quickstart.md", "quickstart.tex",
        "quickstart_per_class.csv",
    ]  # fmt: skip
    markdown = protoseg("tables", "quickstart", "--markdown")
    assert markdown.out.strip() == (tmp_path / "tables" / "quickstart.md").read_text().strip()


def test_tables_with_overrides_leave_the_table_of_the_matrix_alone(
    protoseg: CommandLine, tmp_path: Path
) -> None:
    protoseg("tables", "quickstart", "seed=0")
    (place,) = (tmp_path / "tables").iterdir()
    assert place.name.startswith("overrides-")


def test_keep_records_publishes_finished_runs(protoseg: CommandLine, tmp_path: Path) -> None:
    import hashlib

    run = protoseg.quickstart()[0]
    digest = hashlib.sha256(b"counts").hexdigest()
    path = protoseg.record(run, 70.0, in_runs=True, confusion={"sha256": digest})
    (path.parent / "confusion.npz").write_bytes(b"counts")
    assert protoseg("tables", "quickstart", "--keep-records").status == 0
    assert (protoseg.lab.records / f"{run.run_id}.json").read_bytes() == path.read_bytes()
    assert (protoseg.lab.records / f"{run.run_id}.npz").read_bytes() == b"counts"


def test_explain_names_runs_seeds_and_commits(protoseg: CommandLine) -> None:
    runs = protoseg.quickstart()
    for run in runs[:2]:
        protoseg.record(run, 70.0)
    answer = protoseg("explain", "quickstart", "Parametric, K = 1", "miou")
    assert answer.status == 0
    for run in runs[:3]:
        assert run.run_id in answer.out
    assert "0123456" in answer.out, "the commit"
    assert "not run" in answer.out
    assert protoseg("explain", "quickstart", "1", "miou").out == answer.out
    assert "ProtoSeg" in protoseg("explain", "quickstart", "ProtoSeg, K = 1", "delta").out


def test_two_different_results_of_one_run_are_not_mixed(protoseg: CommandLine) -> None:
    run = protoseg.quickstart()[0]
    protoseg.record(run, 70.0)
    protoseg.record(run, 71.0, in_runs=True)
    answer = protoseg("tables", "quickstart")
    assert answer.status == 1
    assert "two different results of run" in answer.err


def test_data_list_says_where_and_whether(protoseg: CommandLine) -> None:
    def states() -> dict[str, str]:
        return {row["name"]: row["state"] for row in protoseg("data", "list", "--json").json}

    assert states()["camvid"] == f"not in {protoseg.data}"
    assert states()["shapes"] == "made by the program when needed"
    (protoseg.data / "camvid").mkdir(parents=True)
    assert states()["camvid"] == f"in {protoseg.data / 'camvid'}"
    assert "camvid" in protoseg("data", "list").out


def test_data_check_of_nothing_an_empty_and_a_wrong_folder(protoseg: CommandLine) -> None:
    root = protoseg.data / "camvid"
    answer = protoseg("data", "check", "camvid")
    assert answer.status == 1
    assert f"{root}: the folder of the data set 'camvid' is missing. Put the data" in answer.err
    root.mkdir(parents=True)
    answer = protoseg("data", "check", "camvid")
    assert answer.status == 1
    assert "is missing" in answer.err
    for kind in ("images", "annotations"):
        for split in ("train", "val", "test"):
            (root / kind / split).mkdir(parents=True)
    (root / "images" / "val" / "notes.txt").touch()
    answer = protoseg("data", "check", "camvid")
    assert answer.status == 1
    assert "no images ending in '.jpg'" in answer.err
    problems = protoseg("data", "check", "camvid", "--json").json["problems"]
    assert len(problems) == 1
    assert "Traceback" not in answer.err


def test_data_check_of_shapes_is_fine(protoseg: CommandLine) -> None:
    small = [
        "dataset.generator={name: shapes, version: 1, seed: 0, size: 32, train: 2, val: 1}",
        "dataset.counts={train: 2, val: 1}",
        "dataset.digest=unpinned",
    ]
    answer = protoseg("data", "check", "shapes", *small)
    assert (answer.status, answer.err) == (0, "")
    assert "shapes: fine, in " in answer.out
    (report,) = protoseg("data", "check", "shapes", *small, "--json").json["reports"]
    assert len(report["digest"]) == 64
    answer = protoseg("data", "check", "shapes", *small[:2], f"dataset.digest={'0' * 64}")
    assert answer.status == 1
    assert "0" * 64 in answer.err


def test_doctor_names_what_is_there_and_what_to_do(
    protoseg: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from protoseg.cli.commands import doctor

    monkeypatch.setattr(doctor, "_mmseg", lambda: doctor.Finding("mmseg", "ok", "not looked at"))
    monkeypatch.setattr(doctor, "_torch", lambda: [doctor.Finding("torch", "ok", "")])
    answer = protoseg("doctor", "--json")
    assert answer.status == 0
    findings = {finding["subject"]: finding for finding in answer.json}
    assert {"python", "SLURM", "run folders", "data: camvid", "data: shapes"} <= set(findings)
    for finding in findings.values():
        assert set(finding) == {"subject", "state", "found", "todo"}
        assert finding["state"] in ("ok", "absent", "broken")
        assert finding["state"] == "ok" or finding["todo"], "it says what to do"
    assert findings["data: camvid"]["state"] == "absent"
    assert findings["weights: mobilenet_v2"]["state"] == "absent"
    text = protoseg("doctor").out
    assert all(subject in text for subject in findings)
    monkeypatch.setattr(
        doctor, "_mmseg", lambda: doctor.Finding("mmseg", "broken", "no", "Install it.")
    )
    answer = protoseg("doctor")
    assert answer.status == 1
    assert "Install it." in answer.out


def test_doctor_survives_a_torch_that_does_not_import(
    protoseg: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from protoseg.cli.commands import doctor

    monkeypatch.setattr(doctor, "_mmseg", lambda: doctor.Finding("mmseg", "ok", ""))
    monkeypatch.setitem(sys.modules, "torch", None)
    answer = protoseg("doctor")
    assert answer.status == 1
    assert "does not import" in answer.out


def test_a_defect_keeps_its_traceback(
    protoseg: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no mistake of the user is not dressed up as one."""
    from protoseg.cli.commands import sweeps

    monkeypatch.setattr(sweeps, "read_plan", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["plan", *protoseg.paths, "quickstart"])


def test_watching_a_finished_sweep_ends(protoseg: CommandLine) -> None:
    for run in protoseg.quickstart():
        protoseg.record(run, 70.0)
    answer = protoseg("status", "quickstart", "--watch")
    assert answer.status == 0
    assert "9 done" in answer.out


def test_a_plan_reads_and_writes_nothing(protoseg: CommandLine, tmp_path: Path) -> None:
    def files() -> list[Path]:
        return sorted(tmp_path.rglob("*"))

    before = files()
    for words in (["plan"], ["status", "quickstart"], ["explain", "quickstart", "1"]):
        assert protoseg(*words).status == 0
    protoseg("data", "list")
    assert files() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_record_without_permission_is_one_sentence(protoseg: CommandLine) -> None:
    path = protoseg.record(protoseg.quickstart()[0], 70.0)
    path.chmod(0)
    answer = protoseg("plan", "quickstart")
    assert answer.status == 1
    assert "cannot be read: Permission denied" in answer.err


def test_the_installed_command_is_the_same(protoseg: CommandLine) -> None:
    command = Path(sys.executable).parent / "protoseg"
    if not command.exists():
        pytest.skip("protoseg is not installed beside this Python")
    words = ["plan", *protoseg.paths, "quickstart", "--json"]
    result = subprocess.run([command, *words], capture_output=True, text=True, timeout=DEADLINE)
    assert (result.returncode, result.stdout) == (0, protoseg("plan", "quickstart", "--json").out)
