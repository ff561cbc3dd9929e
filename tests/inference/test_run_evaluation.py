"""``protoseg evaluate`` of checkpoints and with augmentation: equal to the files of ``predict``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cli.conftest import CommandLine
from training.small import BASE, make_folder, record_of, small_spec, work

from inference.conftest import RUNS, SHORT
from inference.finished import make_finished_run
from inference.predicted_files import mean_iou, read_pairs
from protoseg import files
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import seal
from protoseg.runs.results.evaluation import FILES, name_variant, read_evaluation

SCALES = ("--tta", "--scales", "0.5,1.25")
SPEC = ("method=paper", *SHORT, "evaluation.every=2", "schedule.learning_rate=0.003")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Path) -> RunFolder:
    """A finished run with a checkpoint of each iteration before the last two, and a best model."""
    folder = make_folder(
        tmp_path_factory.mktemp("trained"), small_spec(*SPEC), data, checkpoint_seconds=0.0
    )
    status, output = work(folder)
    assert status == 0, output
    return folder


@pytest.fixture
def run(protoseg: CommandLine, trained: RunFolder) -> RunFolder:
    """A copy of the run in the runs folder of a call."""
    path = protoseg.lab.runs / trained.run_id
    shutil.copytree(trained.path, path)
    return RunFolder(path)


def predict_miou(protoseg: CommandLine, out: Path, data: Path, name: object, *options: str) -> Any:
    images = next(data.glob("shapes*")) / "images" / "val"
    arguments = ("predict", str(name), str(images), "--into", str(out), "--ids", "original")
    result = protoseg(*arguments, *options)
    assert (result.status, result.err) == (0, "")
    return mean_iou(read_pairs(out, data), len(small_spec().dataset.classes))


def evaluate(protoseg: CommandLine, data: Path, name: object, *options: str) -> Any:
    return protoseg("evaluate", str(name), "--split", "val", "--data", str(data), *options)


def list_evaluations(protoseg: CommandLine) -> dict[str, bytes]:
    folder = protoseg.lab.runs / "evaluations"
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prototype", "slide"])
def test_augmentation_has_the_miou_of_the_predicted_files(
    protoseg: CommandLine, data: Path, tmp_path: Path, name: str
) -> None:
    run = make_finished_run(protoseg.lab.runs, data, *RUNS[name], "schedule.iterations=12")
    record = run.record.read_bytes()
    result = evaluate(protoseg, data, run.run_id, *SCALES)
    assert (result.status, result.err) == (0, "")
    assert f"{run.run_id}  val, 4 passes: 4 images, mIoU " in result.out
    (path,) = (protoseg.lab.runs / "evaluations").glob("*.json")
    evaluation = read_evaluation(path)
    assert evaluation["prediction"]["scales"] == [0.5, 1.25]
    assert evaluation["prediction"]["flip"] is True
    expected = predict_miou(protoseg, tmp_path / "out", data, run.run_id, *SCALES)
    assert evaluation["metrics"]["miou"] == expected
    assert evaluation["metrics"]["miou"] != record_of(run)["metrics"]["miou"]
    assert run.record.read_bytes() == record


def test_each_evaluation_has_its_own_file(
    protoseg: CommandLine, run: RunFolder, data: Path
) -> None:
    for options in ((), SCALES, ("--tta", "--scales", "1"), ("--tta", "--scales", "0.5,1.250")):
        assert evaluate(protoseg, data, run.run_id, *options).status == 0
    before = list_evaluations(protoseg)
    variants = [name_variant(prediction={"scales": s, "flip": True}) for s in ([0.5, 1.25], [1])]
    names = [f"{run.run_id}.val", *(f"{run.run_id}.val.{variant}" for variant in variants)]
    assert sorted(before) == sorted(f"{name}.json" for name in names)
    again = evaluate(protoseg, data, run.run_id, *SCALES)
    assert "Already evaluated on val, 4 passes: 1 of 1 runs." in again.out
    assert f"imported: [{{label: NAME, evaluation: {names[1]}}}]" in again.out
    assert list_evaluations(protoseg) == before


@pytest.mark.slow
def test_a_checkpoint_has_the_miou_of_the_predicted_files(
    protoseg: CommandLine, run: RunFolder, data: Path, tmp_path: Path
) -> None:
    (best,) = run.checkpoints.glob("best_*.pth")
    older, last = sorted(run.checkpoints.glob("iter_*.pth"))
    for number, path in enumerate((best, older)):
        for options in ((), SCALES):
            result = evaluate(protoseg, data, path, *options, "--json")
            (entry,) = result.json["evaluations"]
            assert entry["name"].startswith(f"{run.run_id}.val.{path.stem}")
            assert entry["checkpoint"]["file"] == path.stem
            out = tmp_path / f"{number}{len(options)}"
            assert entry["miou"] == predict_miou(protoseg, out, data, path, *options)
    assert len(list_evaluations(protoseg)) == 4
    # The last checkpoint is the model of the record.
    (entry,) = evaluate(protoseg, data, last, "--json").json["evaluations"]
    assert (entry["name"], entry["new"]) == (f"{run.run_id}.val", True)
    assert entry["miou"] == record_of(run)["metrics"]["miou"]
    (entry,) = evaluate(protoseg, data, run.run_id, "--json").json["evaluations"]
    assert entry["new"] is False


def test_a_checkpoint_with_other_weights_is_refused(
    protoseg: CommandLine, run: RunFolder, data: Path
) -> None:
    (best,) = run.checkpoints.glob("best_*.pth")
    assert evaluate(protoseg, data, best).status == 0
    before = list_evaluations(protoseg)
    content = torch.load(best, weights_only=True)
    next(iter(content["model"].values())).add_(1)
    torch.save(content, best)
    entry = json.loads(best.with_suffix(".json").read_text())
    best.with_suffix(".json").write_text(json.dumps({**entry, "sha256": files.file_digest(best)}))
    result = evaluate(protoseg, data, best)
    assert result.status == 1
    assert f"than {best.name} has now" in result.err
    assert list_evaluations(protoseg) == before


def test_an_older_checkpoint_never_replaces_a_damaged_one(
    protoseg: CommandLine, run: RunFolder, data: Path
) -> None:
    older, last = sorted(run.checkpoints.glob("iter_*.pth"))
    last.write_bytes(last.read_bytes()[:-9])
    result = evaluate(protoseg, data, run.run_id)
    assert result.status == 1
    assert f"the newest valid checkpoint is {older.name}, not the one of the record" in result.err
    assert list_evaluations(protoseg) == {}


def test_an_unfinished_run_is_evaluated_on_its_own_split(
    protoseg: CommandLine, run: RunFolder, data: Path, tmp_path: Path
) -> None:
    record = run.record.rename(tmp_path / "record.json")
    last = max(run.checkpoints.glob("iter_*.pth"))
    other = protoseg("evaluate", str(last), "--split", "train", "--data", str(data))
    assert other.status == 2
    assert "its run has not finished, so it is evaluated on the split val of shapes" in other.err
    result = evaluate(protoseg, data, last)
    assert (result.status, result.err) == (0, "")
    assert "imported" not in result.out
    record.rename(run.record)
    assert len(list_evaluations(protoseg)) == 1
    assert evaluate(protoseg, data, last).status == 0
    assert len(list_evaluations(protoseg)) == 2  # now that of the record


def write_matrix(path: Path, **table: Any) -> str:
    base = dict(text.split("=", 1) for text in (*BASE, *SPEC))
    content = {
        "title": "One run",
        "base": {key: yaml.safe_load(value) for key, value in base.items()},
        "rows": [{"label": "ProtoSeg"}],
        "seeds": [0],
        "table": table,
    }
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_tables_show_augmentation_and_checkpoints(
    protoseg: CommandLine, run: RunFolder, data: Path, tmp_path: Path
) -> None:
    matrix = write_matrix(tmp_path / "one.yaml")
    missing = protoseg("tables", matrix, "--split", "val", *SCALES)
    assert missing.status == 1
    assert "Run protoseg evaluate one --split val --tta, with the same --scales." in missing.err
    (entry,) = evaluate(protoseg, data, matrix, *SCALES, "--json").json["evaluations"]
    options = ("--split", "val", *SCALES, "--keep-records", "--markdown")
    result = protoseg("tables", matrix, *options)
    assert (result.status, result.err) == (0, "")
    assert f"{entry['miou']:.2f}" in result.out
    assert "mean probabilities over the scales 0.5 + 1.25, and flipped" in result.out
    assert "single scale" not in result.out
    variant = entry["name"].rpartition(".")[2]
    assert (tmp_path / "tables" / f"one_on_val_{variant}.md").is_file()
    # A checkpoint and an augmentation as rows of the usual table.
    (best,) = run.checkpoints.glob("best_*.pth")
    (other,) = evaluate(protoseg, data, best, "--json").json["evaluations"]
    imported = [
        {"label": "Best", "evaluation": other["name"]},
        {"label": "Four passes", "evaluation": entry["name"]},
    ]
    write_matrix(tmp_path / "one.yaml", imported=imported)
    result = protoseg("tables", matrix, "--keep-records", "--markdown")
    assert (result.status, result.err) == (0, "")
    assert f"{other['miou']:.2f}" in result.out
    assert f"best checkpoint of iteration {int(best.stem[5:])}, weights " in result.out
    assert protoseg("tables", matrix, *options).status == 0
    verified = protoseg("verify", matrix, "--json").json
    assert verified["sound"], verified
    counts = {check["group"]: check["count"] for check in verified["checks"]}
    assert counts["evaluations"] == 2
    # Another number in the committed table.
    table = tmp_path / "tables" / f"one_on_val_{variant}.csv"
    table.write_text(table.read_text().replace(f"{entry['miou']:.2f}"[:4], "99.9"))
    assert table.name in protoseg("verify", matrix).err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scales", "1,2"), "evaluate: --scales is used with --tta only"),
        (("--tta", "--scales", "0"), "expected different scales such as"),
        (("--tta", "--config", "a.py"), "evaluate: --tta is for runs"),
    ],
)
def test_wrong_options_are_refused(
    protoseg: CommandLine, data: Path, options: tuple[str, ...], message: str
) -> None:
    result = evaluate(protoseg, data, "some", *options)
    assert result.status == 2
    assert message in result.err


def test_published_values_are_not_beside_an_augmentation(
    protoseg: CommandLine, run: RunFolder, data: Path, tmp_path: Path
) -> None:
    published = {"file": "one", "match": {"label": "label"}}
    matrix = write_matrix(tmp_path / "one.yaml", published=published)
    assert evaluate(protoseg, data, matrix, *SCALES).status == 0
    result = protoseg("tables", matrix, "--split", "val", *SCALES, "--markdown")
    assert (result.status, result.err) == (0, "")
    assert "Published" not in result.out


def test_overrides_without_a_matrix_are_refused(
    protoseg: CommandLine, run: RunFolder, data: Path
) -> None:
    (best,) = run.checkpoints.glob("best_*.pth")
    result = evaluate(protoseg, data, best, "evaluation=slide_512")
    assert result.status == 2
    assert "evaluation=slide_512: changes a matrix or a run, but only checkpoints are" in result.err
    assert not list_evaluations(protoseg)


def test_a_checkpoint_of_another_training_of_a_recorded_run_is_refused(
    protoseg: CommandLine, run: RunFolder, data: Path, tmp_path: Path
) -> None:
    """As of a reproduction that gave another result: its evaluation would have the run's name."""
    other = RunFolder(tmp_path / "other" / run.run_id)
    shutil.copytree(run.path, other.path)
    (best,) = other.checkpoints.glob("best_*.pth")
    assert evaluate(protoseg, data, best).status == 0, "the same training in another folder"
    before = list_evaluations(protoseg)
    content = {key: value for key, value in record_of(other).items() if key != "digest"}
    other.record.write_text(json.dumps(seal({**content, "started": "2020-01-01T00:00:00+00:00"})))
    for path in other.checkpoints.glob("*.pth"):
        result = evaluate(protoseg, data, path)
        assert (result.status, "has another record in the runs" in result.err) == (2, True)
    assert list_evaluations(protoseg) == before


def test_a_published_evaluation_has_the_record_of_its_run(
    protoseg: CommandLine, run: RunFolder, data: Path, tmp_path: Path
) -> None:
    """A table may show a run of another matrix as an imported row."""
    (entry,) = evaluate(protoseg, data, run.run_id, *SCALES, "--json").json["evaluations"]
    imported = [{"label": "Four passes", "evaluation": entry["name"]}]
    matrix = write_matrix(tmp_path / "other.yaml", imported=imported)
    content = yaml.safe_load(Path(matrix).read_text())
    content["seeds"] = [7]
    Path(matrix).write_text(yaml.safe_dump(content))
    protoseg("tables", matrix, "--keep-records")
    assert (tmp_path / "records" / f"{run.run_id}.json").is_file()
    assert (tmp_path / "evaluations" / f"{entry['name']}.json").is_file()
    # Another evaluation of this name is not taken in silence.
    path = protoseg.lab.runs / "evaluations" / f"{entry['name']}.json"
    changed = {key: value for key, value in json.loads(path.read_text()).items() if key != "digest"}
    changed["metrics"]["miou"] = 1.0
    path.write_text(json.dumps(FILES.sealed.seal(changed)))
    assert "different evaluations" in protoseg("tables", matrix).err
