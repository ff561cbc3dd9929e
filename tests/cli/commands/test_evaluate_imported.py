"""``protoseg evaluate`` with weights from elsewhere, and with another data set."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from inference.finished import make_finished_run
from training.small import BASE, GENERATOR, small_spec

from cli.conftest import CommandLine, CommandResult
from protoseg.cli.commands import data as data_verb
from protoseg.cli.evaluation.imported_weights import require_same_data_set
from protoseg.config.fields import to_plain
from protoseg.datasets import shapes
from protoseg.errors import ProtosegError
from protoseg.inference.export import export_run
from protoseg.inference.imported.config import read_config
from protoseg.report.imported_rows import has_same_data
from protoseg.report.verify.imported import check_imported
from protoseg.runs.folder import RunFolder
from protoseg.runs.record import read_record
from protoseg.runs.results.evaluation import read_evaluation
from protoseg.runs.results.imported import FORMAT

SPEC = ("method=paper", "evaluation.scale=[72,72]")
DATA_SET = tuple(text for text in BASE if text.startswith("dataset."))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_finished_run(tmp_path_factory.mktemp("runs"), data, *SPEC)


@pytest.fixture(scope="module")
def exported(finished: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("exported") / "k3"
    export_run(finished, target)
    return target


@pytest.fixture
def weights(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported folder that a test may change."""
    return Path(shutil.copytree(exported, tmp_path / "elsewhere"))


@pytest.fixture
def evaluate(protoseg: CommandLine, weights: Path, data: Path) -> Callable[..., CommandResult]:
    def call(*arguments: str, split: str = "val") -> CommandResult:
        files = ("--config", str(weights / "config.py"), "--checkpoint", str(weights / "model.pth"))
        where = ("--dataset", "shapes", "--split", split, "--data", str(data))
        return protoseg("evaluate", *files, *where, *DATA_SET, *arguments)

    return call


def evaluation_path(protoseg: CommandLine) -> Path:
    (path,) = (protoseg.lab.runs / "imported").glob("*.json")
    return path


def change_weights(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = torch.load(folder / "model.pth", weights_only=True)
    torch.save(change(content), folder / "model.pth")


def test_exported_weights_have_the_metrics_of_the_run(
    evaluate: Callable[..., CommandResult], protoseg: CommandLine, finished: RunFolder
) -> None:
    result = evaluate()
    assert (result.status, result.err) == (0, "")
    path = evaluation_path(protoseg)
    evaluation = FORMAT.read_evaluation(path)
    expected = read_record(finished.record)
    assert evaluation["metrics"] == expected["metrics"]
    assert evaluation["per_class"] == expected["per_class"]
    assert path.with_name(f"{path.stem}.npz").read_bytes() == finished.confusion.read_bytes()
    assert evaluation["pipeline"] == [{"type": "Resize", "scale": [72, 72], "keep_ratio": True}]
    assert f"mIoU {expected['metrics']['miou']:.2f}" in result.out
    assert f"imported: [{{label: NAME, evaluation: {path.stem}}}]" in result.out
    before = path.read_bytes()
    again = evaluate()
    assert again.status == 0
    assert f"Already evaluated: {path}" in again.out
    assert path.read_bytes() == before


def test_an_evaluation_with_other_settings_of_the_data_set_is_not_taken_for_this_one(
    evaluate: Callable[..., CommandResult], protoseg: CommandLine
) -> None:
    evaluate()
    path = evaluation_path(protoseg)
    before = path.read_bytes()
    result = evaluate("dataset.reduce_zero_label=true")
    assert result.status == 1
    assert f"{path}: was made with other settings of shapes: reduce_zero_label" in result.err
    assert path.read_bytes() == before


def test_an_evaluation_of_an_earlier_version_lacks_the_fields_of_today(tmp_path: Path) -> None:
    dataset = small_spec().dataset
    before = to_plain(dataset, identity=True)
    assert "flip_pairs" not in before
    require_same_data_set({"dataset": before}, dataset, tmp_path)
    mirrored = dataclasses.replace(dataset, flip_pairs=(("disk", "box"),))
    with pytest.raises(ProtosegError, match="other settings of shapes: flip_pairs"):
        require_same_data_set({"dataset": before}, mirrored, tmp_path)


def test_weights_with_the_prefix_of_ddp_can_be_loaded(
    evaluate: Callable[..., CommandResult],
    protoseg: CommandLine,
    weights: Path,
    finished: RunFolder,
) -> None:
    def wrap(content: dict[str, Any]) -> dict[str, Any]:
        state = {f"module.{key}": value for key, value in content["state_dict"].items()}
        return {**state, "module.auxiliary_head.conv_seg.bias": torch.zeros(1)}

    change_weights(weights, wrap)
    assert evaluate().status == 0
    expected = read_record(finished.record)
    assert FORMAT.read_evaluation(evaluation_path(protoseg))["metrics"] == expected["metrics"]


class Code:
    """An object whose pickle runs code when it is read."""

    def __reduce__(self) -> Any:
        return (print, ("code of the checkpoint",))


def rename_classes(*names: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    meta = {"dataset_meta": {"classes": list(names), "palette": None}}
    return lambda content: {**content, "meta": meta}


def drop_prototypes(content: dict[str, Any]) -> dict[str, Any]:
    state = content["state_dict"]
    del state["decode_head.bank.prototypes"]
    state["decode_head.conv_seg.weight"] = torch.zeros(2)
    state["backbone.stages.0.0.weight"] = torch.zeros(3)
    return content


CLASSES = ("ground", "disk", "box", "triangle", "ring", "bar")
CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], tuple[str, ...]]] = {
    "code": (
        lambda content: {**content, "meta": Code()},
        ("holds pickled Python objects", "weights_only=False", "torch.save({'state_dict'"),
    ),
    "no weights": (lambda content: [1, 2], ("holds a list, expected a dict of weights",)),
    "keys": (
        drop_prototypes,
        (
            "1 are missing in the file (decode_head.bank.prototypes)",
            "1 of the file are not in the network (decode_head.conv_seg.weight)",
            "1 have another shape (backbone.stages.0.0.weight (3,), network (16, 3, 3, 3))",
        ),
    ),
    "order": (
        rename_classes(*reversed(CLASSES)),
        ("has the classes of shapes in another order: bar, ring, triangle and 3 more",),
    ),
    "names": (
        rename_classes("Ground", "disc", *CLASSES[2:]),
        ("was trained on other classes than those of shapes: disc (here disk)", "--same-classes"),
    ),
}


@pytest.mark.parametrize("fault", CHANGES)
def test_weights_that_do_not_fit_are_refused(
    fault: str, evaluate: Callable[..., CommandResult], protoseg: CommandLine, weights: Path
) -> None:
    change, expected = CHANGES[fault]
    change_weights(weights, change)
    result = evaluate()
    assert result.status == 1
    for text in expected:
        assert text in result.err
    assert result.err.count("\n") == 1
    assert "code of the checkpoint" not in result.out
    assert not (protoseg.lab.runs / "imported").exists()


def test_the_message_about_code_has_the_command_that_converts_the_file(
    evaluate: Callable[..., CommandResult],
    protoseg: CommandLine,
    weights: Path,
    finished: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change_weights(weights, lambda content: {**content, "message_hub": Code()})
    command = evaluate().err.rstrip().partition('python -c "')[2].removesuffix('"')
    monkeypatch.chdir(weights)
    exec(command, {})
    converted = torch.load(weights / "weights.pth", weights_only=True)
    assert converted["meta"]["dataset_meta"]["classes"] == list(CLASSES)
    (weights / "weights.pth").replace(weights / "model.pth")
    assert evaluate().status == 0
    metrics = FORMAT.read_evaluation(evaluation_path(protoseg))["metrics"]
    assert metrics == read_record(finished.record)["metrics"]


def test_classes_under_other_names_are_accepted_if_asked(
    evaluate: Callable[..., CommandResult], weights: Path
) -> None:
    change_weights(weights, rename_classes("floor", *CLASSES[1:]))
    assert evaluate().status == 1
    assert evaluate("--same-classes").status == 0


@pytest.mark.parametrize("fault", ["cut", "text", "plain pickle", "missing"])
def test_damaged_weights_are_refused(
    fault: str, evaluate: Callable[..., CommandResult], protoseg: CommandLine, weights: Path
) -> None:
    path = weights / "model.pth"
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif fault == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif fault == "plain pickle":
        path.write_bytes(pickle.dumps({"a": 1}))
    else:
        path.unlink()
    result = evaluate()
    assert result.status in (1, 2)
    expected = "there is no such file" if fault == "missing" else "model.pth: "
    assert expected in result.err
    assert result.err.count("\n") == 1
    assert not (protoseg.lab.runs / "imported").exists()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("'num_classes': 6", "'num_classes': 7", "its network has 7 classes, but shapes has 6"),
        ("'Resize'", "'RandomResize'", "test_pipeline: RandomResize is refused."),
        ("'Resize'", "'Rezise'", "test_pipeline: Rezise: mmseg has no transform of this name"),
        ("'keep_ratio': True", "'keep': True", "test_pipeline: Resize: "),
        ("test_pipeline", "pipeline", "has no test_pipeline"),
        ("model = dict(", "network = dict(", "has no 'model' with a type"),
        ("'PrototypeHead'", "'PrototypHead'", "mmseg cannot build its model"),
        ("model = dict(", "model = dict((", "mmengine cannot read this config"),
        (
            "'LoadImageFromFile'",
            "'LoadImageFromFile', 'color_type': 'grayscale'",
            "LoadImageFromFile has the argument 'color_type'",
        ),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(
    old: str, new: str, expected: str, evaluate: Callable[..., CommandResult], weights: Path
) -> None:
    path = weights / "config.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    result = evaluate()
    assert result.status == 2
    assert expected in result.err


def test_arguments_are_checked_first(
    evaluate: Callable[..., CommandResult], protoseg: CommandLine, weights: Path
) -> None:
    assert "unknown split 'test'" in evaluate(split="test").err
    unlabelled = evaluate("dataset.labels=[10,11,12,13,14,15]")
    assert unlabelled.status == 1
    assert "no pixel of split 'val' has a class" in unlabelled.err
    config = ("--config", str(weights / "config.py"))
    for arguments, expected in {
        config: "evaluate: --checkpoint is missing.",
        ("--checkpoint", "a.pth"): "evaluate: --config is missing.",
        (*config, "--checkpoint", "a.pth"): "evaluate: --dataset is missing.",
        (*config, "--checkpoint", "a.pth", "--dataset", "shape"): "unknown data set 'shape'",
        (*config, "--checkpoint", "a.pth", "--dataset", "shapes"): "there is no such file",
        (*config, "--checkpoint", "a", "--dataset", "shapes", "run"): "'run' is named besides",
        ("quickstart", "--same-classes"): "--same-classes needs --config and --checkpoint",
    }.items():
        result = protoseg("evaluate", *arguments, "--split", "val")
        assert result.status == 2
        assert expected in result.err


def test_the_digest_of_a_config_is_that_of_its_network(weights: Path) -> None:
    path = weights / "config.py"
    before = read_config(path).sha256
    path.write_text("# another comment\nauxiliary = 3\n" + path.read_text())
    assert read_config(path).sha256 == before
    path.write_text(path.read_text().replace("(72, 72)", "(72, 73)"))
    assert read_config(path).sha256 != before


@pytest.fixture
def matrix(protoseg: CommandLine, finished: RunFolder, tmp_path: Path) -> Callable[[str], str]:
    """Makes a matrix of the finished run with an imported row."""
    shutil.copytree(finished.path, protoseg.lab.runs / finished.run_id)

    def write(evaluation: str, **table: Any) -> str:
        base = dict(text.split("=", 1) for text in (*BASE, *SPEC))
        content = {
            "title": "One run",
            "base": {key: yaml.safe_load(value) for key, value in base.items()},
            "rows": [{"label": "ProtoSeg"}],
            "seeds": [0],
            "table": {
                "metrics": ["miou", "aacc", "parameters", "seconds"],
                "imported": [{"label": "Theirs", "evaluation": evaluation}],
                **table,
            },
        }
        path = tmp_path / "one.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


def test_a_table_shows_imported_weights_with_their_origin(
    evaluate: Callable[..., CommandResult],
    protoseg: CommandLine,
    matrix: Callable[..., str],
    tmp_path: Path,
) -> None:
    evaluate()
    path = evaluation_path(protoseg)
    evaluation = FORMAT.read_evaluation(path)
    result = protoseg("tables", matrix(path.stem), "--keep-records", "--markdown")
    assert (result.status, result.err) == (0, "")
    (row,) = [line for line in result.out.splitlines() if line.startswith("| Theirs")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    metrics = evaluation["metrics"]
    learnable = evaluation["parameters"]["learnable"] / 1e6
    assert cells == [
        "Theirs",
        f"{metrics['miou']:.2f}<sup>a</sup>",
        f"{metrics['aacc']:.2f}",
        f"{learnable:.2f}",
        "",
    ]
    sha256 = evaluation["weights"]["sha256"][:12]
    assert (
        f"<sup>a</sup> Imported weights: model.pth, SHA-256 {sha256}, not trained here and not "
        "tested against other rows; network of config.py; evaluated on shapes val (4 images), "
        "whole image, Resize (scale 72×72, keep\\_ratio true)."
    ) in result.out
    explained = protoseg("explain", str(tmp_path / "one.yaml"), "Theirs", "miou")
    assert f"Imported weights: model.pth, SHA-256 {sha256}" in explained.out
    assert check_imported(tmp_path).problems == []
    (table,) = (tmp_path / "tables").glob("one.csv")
    verified = protoseg("verify", str(tmp_path / "one.yaml"), "--json").json
    (check,) = [check for check in verified["checks"] if check["group"] == "tables"]
    assert check["problems"] == []
    table.write_text(table.read_text().replace(repr(metrics["miou"]), "99.9"))
    assert "one.csv" in protoseg("verify", str(tmp_path / "one.yaml")).err


def test_verify_finds_a_changed_imported_evaluation(
    evaluate: Callable[..., CommandResult],
    protoseg: CommandLine,
    matrix: Callable[..., str],
    tmp_path: Path,
) -> None:
    evaluate()
    name = evaluation_path(protoseg).stem
    protoseg("tables", matrix(name), "--keep-records")
    path, counts = (tmp_path / "imported" / f"{name}{suffix}" for suffix in (".json", ".npz"))
    original = path.read_bytes()

    def problems() -> str:
        return " ".join(problem.message for problem in check_imported(tmp_path).problems)

    assert problems() == ""
    content = json.loads(original)
    content["metrics"]["miou"] += 1
    path.write_text(json.dumps(content))
    assert "edited or damaged imported evaluation" in problems()
    # A digest that fits the changed number: the counts give another one.
    del content["digest"]
    path.write_text(json.dumps(FORMAT.sealed.seal(content)))
    assert "its counts give" in problems()
    path.write_bytes(original)
    counts.write_bytes(counts.read_bytes()[:-1])
    assert "the confusion counts do not match the record's digest" in problems()
    path.unlink()
    assert "belongs to no evaluation" in problems()


def test_other_data_and_missing_evaluations_show_no_number(
    evaluate: Callable[..., CommandResult], protoseg: CommandLine, matrix: Callable[..., str]
) -> None:
    assert evaluate(split="train").status == 0
    result = protoseg("tables", matrix(evaluation_path(protoseg).stem), "--markdown")
    (row,) = [line for line in result.out.splitlines() if line.startswith("| Theirs")]
    assert "*other data*<sup>a</sup>" in row
    assert "evaluated on shapes train (16 images)" in result.out
    missing = protoseg("tables", matrix("nothing"))
    assert missing.status == 1
    assert "one: table.imported: there is no evaluation nothing in" in missing.err
    refused = protoseg("tables", matrix("nothing", rows=[], columns=["label"]))
    assert "table.imported: a row of imported weights has one value" in refused.err


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("name", "circles"), ("classes", list(reversed(CLASSES))), ("ignore_index", 254)),
        *(("labels", [5, 4, 3, 2, 1, 0]), ("split", "train"), ("data_digest", "0" * 64)),
    ],
)
def test_other_images_or_labels_are_other_data(key: str, value: Any) -> None:
    spec = small_spec(*SPEC)
    evaluation: dict[str, Any] = {
        "dataset": to_plain(spec.dataset),
        "split": "val",
        "provenance": {"data_digest": spec.dataset.digest},
    }
    assert has_same_data(evaluation, spec)
    part = {"split": evaluation, "data_digest": evaluation["provenance"]}
    part.get(key, evaluation["dataset"])[key] = value
    assert not has_same_data(evaluation, spec)


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes ``--dataset other`` the built-in data set with another seed."""

    def use(**changes: Any) -> None:
        generator = {**GENERATOR, "seed": 5}
        dataset = dataclasses.replace(
            small_spec(*SPEC).dataset,
            **{
                "name": "other",
                "generator": generator,
                "digest": shapes.generator_digest(generator),
                "train_split": "val",
                **changes,
            },
        )
        monkeypatch.setattr(data_verb, "compose_data_set", lambda *_: dataset)

    return use


def test_a_run_is_evaluated_on_another_data_set(
    protoseg: CommandLine,
    finished: RunFolder,
    matrix: Callable[..., str],
    other: Callable[..., None],
    data: Path,
    tmp_path: Path,
) -> None:
    matrix("")
    other()
    arguments = ("--dataset", "other", "--split", "val", "--data", str(data))
    result = protoseg("evaluate", finished.run_id, *arguments)
    assert (result.status, result.err) == (0, "")
    assert f"{finished.run_id}  other val: 4 images" in result.out
    path = protoseg.lab.runs / "evaluations" / f"{finished.run_id}.other@val.json"
    evaluation = read_evaluation(path)
    own = read_record(finished.record)
    assert evaluation["dataset"]["name"] == "other"
    assert evaluation["metrics"] != own["metrics"]
    assert evaluation["provenance"]["data_digest"] != own["provenance"]["data_digest"]
    before = path.read_bytes()
    again = protoseg("evaluate", finished.run_id, *arguments)
    assert "Already evaluated on other val: 1 of 1 runs." in again.out
    assert path.read_bytes() == before
    # It does not count as an evaluation on a split of the run's data set.
    split = protoseg("tables", str(tmp_path / "one.yaml"), "--split", "val")
    assert "has no evaluation on val" in split.err


def test_a_data_set_with_other_classes_is_refused(
    protoseg: CommandLine,
    finished: RunFolder,
    matrix: Callable[..., str],
    other: Callable[..., None],
    data: Path,
) -> None:
    matrix("")
    for classes, expected in {
        ("ground", "disk", "box", "triangle", "ring", "star"): "lacks bar and adds star",
        ("disk", "ground", "box", "triangle", "ring", "bar"): "has another order of the classes",
    }.items():
        other(classes=classes)
        result = protoseg(
            *("evaluate", finished.run_id, "--dataset", "other", "--split", "val"),
            *("--data", str(data)),
        )
        assert result.status == 2
        assert f"dataset other: {expected}. {finished.run_id} was trained" in result.err
    assert not (protoseg.lab.runs / "evaluations").exists()
