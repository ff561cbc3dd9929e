"""``protoseg evaluate``: finished runs on another split, and the tables of these evaluations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from training.small import BASE, make_folder, record_of, small_spec, work

from cli.conftest import CommandLine
from protoseg.report.verify.evaluations import check_evaluations
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import publish, seal
from protoseg.runs.results.evaluation import read_evaluation

SPEC = ("method=paper", "schedule.iterations=6")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data folder in which the built-in data set is generated once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = make_folder(tmp_path_factory.mktemp("finished"), small_spec(*SPEC), data)
    status, output = work(folder)
    assert status == 0, output
    return folder


@pytest.fixture
def run(protoseg: CommandLine, finished: RunFolder) -> RunFolder:
    """The finished run in the runs folder of a call."""
    path = protoseg.lab.runs / finished.run_id
    shutil.copytree(finished.path, path)
    return RunFolder(path)


@pytest.fixture
def matrix(tmp_path: Path) -> str:
    """A matrix of the finished run alone."""
    base = dict(text.split("=", 1) for text in (*BASE, *SPEC))
    content = {
        "title": "One run",
        "base": {key: yaml.safe_load(value) for key, value in base.items()},
        "rows": [{"label": "ProtoSeg"}],
        "seeds": [0],
    }
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def evaluate(protoseg: CommandLine, name: str, split: str, data: Path) -> Any:
    return protoseg("evaluate", name, "--split", split, "--data", str(data))


def path_of(protoseg: CommandLine, run: RunFolder, split: str) -> Path:
    return protoseg.lab.runs / "evaluations" / f"{run.run_id}.{split}.json"


def test_the_split_of_the_record_has_the_same_metrics(
    protoseg: CommandLine, run: RunFolder, data: Path
) -> None:
    before = run.record.read_bytes()
    result = evaluate(protoseg, run.run_id, "val", data)
    assert (result.status, result.err) == (0, "")
    path = path_of(protoseg, run, "val")
    evaluation, record = read_evaluation(path), record_of(run)
    assert evaluation["metrics"] == record["metrics"]
    assert evaluation["per_class"] == record["per_class"]
    assert path.with_suffix(".npz").read_bytes() == run.confusion.read_bytes()
    assert evaluation["record"] == record["digest"]
    assert evaluation["choice"] == ""
    assert run.record.read_bytes() == before


def test_another_split_has_its_own_images_and_is_evaluated_once(
    protoseg: CommandLine, run: RunFolder, data: Path
) -> None:
    assert evaluate(protoseg, run.run_id, "train", data).status == 0
    path = path_of(protoseg, run, "train")
    before = path.read_bytes()
    assert read_evaluation(path)["metrics"]["images"] == 16
    again = evaluate(protoseg, run.run_id, "train", data)
    assert again.status == 0
    assert "Already evaluated on train: 1 of 1 runs." in again.out
    assert path.read_bytes() == before


def test_a_table_shows_the_split(
    protoseg: CommandLine, run: RunFolder, matrix: str, data: Path, tmp_path: Path
) -> None:
    missing = protoseg("tables", matrix, "--split", "train")
    assert missing.status == 1
    assert (
        f"{run.run_id}: has no evaluation on train. Run protoseg evaluate one --split train."
        in missing.err
    )
    evaluate(protoseg, matrix, "train", data)
    result = protoseg("tables", matrix, "--split", "train", "--keep-records", "--markdown")
    assert (result.status, result.err) == (0, "")
    miou = read_evaluation(path_of(protoseg, run, "train"))["metrics"]["miou"]
    assert f"{miou:.2f}" in result.out
    assert "shapes train" in result.out
    assert "The models of the table one (val), evaluated on train, each once." in result.out
    assert (tmp_path / "tables" / "one_on_train.md").is_file()
    verified = protoseg("verify", matrix, "--json").json
    assert verified["sound"], verified
    counts = {check["group"]: check["count"] for check in verified["checks"]}
    assert counts["evaluations"] == 1
    # Another number in a committed table.
    table = tmp_path / "tables" / "one_on_train.csv"
    table.write_text(table.read_text().replace(f"{miou:.2f}"[:4], "99.9"))
    assert "one_on_train.csv" in protoseg("verify", matrix).err


def test_verify_reports_a_changed_evaluation(
    protoseg: CommandLine, run: RunFolder, matrix: str, data: Path, tmp_path: Path
) -> None:
    evaluate(protoseg, matrix, "train", data)
    protoseg("tables", matrix, "--split", "train", "--keep-records")
    path = tmp_path / "evaluations" / f"{run.run_id}.train.json"
    original = path.read_bytes()

    def problems() -> str:
        checks = protoseg("verify", matrix, "--json").json["checks"]
        (check,) = [check for check in checks if check["group"] == "evaluations"]
        return " ".join(problem["message"] for problem in check["problems"])

    assert problems() == ""
    content = json.loads(original)
    content["metrics"]["miou"] += 1
    path.write_text(json.dumps(content))
    assert "edited or damaged evaluation, its content does not match its digest" in problems()
    path.write_bytes(original)
    counts = path.with_suffix(".npz")
    counts.write_bytes(counts.read_bytes()[:-1])
    assert "the confusion counts do not match the record's digest" in problems()
    counts.unlink()
    assert "the confusion counts of" in problems()


def test_another_model_is_refused(protoseg: CommandLine, run: RunFolder, data: Path) -> None:
    record = json.loads(run.record.read_text())
    evaluate(protoseg, run.run_id, "train", data)
    del record["digest"]
    run.record.write_text(json.dumps(seal({**record, "attempts": 2})))
    result = evaluate(protoseg, run.run_id, "train", data)
    assert result.status == 1
    assert "is of another result of" in result.err
    assert "Move it away and evaluate again." in result.err


def test_a_run_with_metrics_on_the_way_is_verified(
    protoseg: CommandLine, data: Path, tmp_path: Path
) -> None:
    folder = make_folder(protoseg.lab.runs, small_spec(*SPEC, "evaluation.every=3"), data)
    assert work(folder)[0] == 0
    assert evaluate(protoseg, folder.run_id, "train", data).status == 0
    (protoseg.lab.runs / "evaluations").rename(tmp_path / "evaluations")
    publish(folder.path, protoseg.lab.records)
    assert check_evaluations(tmp_path).problems == []


def test_a_trial_is_not_evaluated_alone(protoseg: CommandLine, data: Path) -> None:
    spec = small_spec(*SPEC, "schedule.stop_after=4")
    folder = make_folder(protoseg.lab.runs, spec, data)
    result = evaluate(protoseg, folder.run_id, "train", data)
    assert result.status == 2
    assert "is evaluated on a holdout or ends early, as trials of a search are" in result.err


def test_other_data_are_refused(
    protoseg: CommandLine, run: RunFolder, data: Path, tmp_path: Path
) -> None:
    record = json.loads(run.record.read_text())
    del record["digest"]
    record["provenance"]["data_digest"] = "0" * 64
    run.record.write_text(json.dumps(seal(record)))
    result = evaluate(protoseg, run.run_id, "train", data)
    assert result.status == 1
    assert "has other data (digest " in result.err


@pytest.mark.parametrize("fault", ["record", "checkpoint", "weights", "split", "operand", "both"])
def test_what_cannot_be_evaluated_is_refused(
    fault: str, protoseg: CommandLine, run: RunFolder, matrix: str, data: Path
) -> None:
    if fault == "record":
        run.record.unlink()
        result = evaluate(protoseg, matrix, "train", data)
        expected = "1 of 1 runs have no record, for example"
    elif fault == "checkpoint":
        shutil.rmtree(run.checkpoints)
        result = evaluate(protoseg, matrix, "train", data)
        expected = "1 of 1 runs have no checkpoint, for example"
    elif fault == "weights":
        record = json.loads(run.record.read_text())
        del record["digest"]
        record["provenance"]["state_sha256"] = "0" * 64
        run.record.write_text(json.dumps(seal(record)))
        result = evaluate(protoseg, matrix, "train", data)
        expected = "differs from the model that"
    elif fault == "split":
        result = evaluate(protoseg, matrix, "test", data)
        expected = "unknown split 'test'"
    elif fault == "operand":
        result = protoseg("evaluate", matrix)
        expected = "evaluate: no split is named. Add --split NAME, e.g. --split test."
    else:
        result = protoseg("tables", matrix, "--split", "train", "--best")
        expected = "tables: --best and --split exclude each other."
    assert result.status in (1, 2)
    assert expected in result.err
    assert not (protoseg.lab.runs / "evaluations").exists()
