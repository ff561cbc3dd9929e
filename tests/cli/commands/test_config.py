"""``protoseg config``: names, values with their files, JSON Schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastjsonschema
import pytest
import yaml

from cli.conftest import REPOSITORY, CommandLine
from protoseg.config.hydra.hydra_schemas import config_groups

EXPERIMENTS = REPOSITORY / "experiments"


def test_all_names_are_listed_by_group(protoseg: CommandLine) -> None:
    listed = protoseg("config", "list", "--json").json
    assert {entry["name"] for entry in listed["dataset"]} == {
        path.stem for path in (EXPERIMENTS / "dataset").glob("*.yaml")
    }
    assert {entry["replaces"] for group in listed.values() for entry in group} == {None}
    text = protoseg("config", "list", "schedule").out
    assert "cpu_2000" in text
    assert "camvid" not in text


def test_a_shown_option_has_all_values_and_their_files(protoseg: CommandLine) -> None:
    result = protoseg("config", "show", "dataset/camvid", "--origin")
    lines = result.out.splitlines()
    assert any(line.startswith("ignore_index: 11   # ") for line in lines)
    assert any(line.startswith("label_count: 0   # default") for line in lines)
    shown = yaml.safe_load(protoseg("config", "show", "camvid").out)
    assert shown == protoseg("config", "show", "camvid", "--json").json["values"]
    run = yaml.safe_load(protoseg("config", "show", "run").out)
    assert (run["dataset"], run["seed"]) == ("shapes", 0)


def test_matrices_and_profiles_are_shown_as_written(protoseg: CommandLine) -> None:
    text = (EXPERIMENTS / "matrices" / "quickstart.yaml").read_text()
    assert text in protoseg("config", "show", "matrices/quickstart").out
    profile = protoseg("config", "show", "clusters/one_h200", "--json").json
    assert profile["values"]["gpu_type"] == "h200"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shw"], "Did you mean 'show'?"),
        (["show"], "expected one name, found 0"),
        (["show", "camvit"], "Did you mean 'camvid'?"),
        (["show", "datset/camvid"], "Did you mean 'dataset'?"),
        (["show", "dataset/camvit"], "Did you mean 'dataset/camvid'?"),
        (["show", "released"], "method/released, contrast/released"),
        (["list", "datasets"], "Did you mean 'dataset'?"),
        (["schema", "matrices"], "matrix"),
    ],
)
def test_an_unknown_name_is_refused(
    protoseg: CommandLine, arguments: list[str], message: str
) -> None:
    result = protoseg("config", *arguments)
    assert result.status == 2
    assert message in result.err


def make_validator(protoseg: CommandLine, name: str) -> Any:
    return fastjsonschema.compile(protoseg("config", "schema", name, "--json").json)


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("group", ["matrix", *config_groups()])
def test_the_schema_accepts_all_files(protoseg: CommandLine, group: str) -> None:
    validate = make_validator(protoseg, group)
    folder = EXPERIMENTS / ("matrices" if group == "matrix" else group)
    for path in folder.glob("*.yaml"):
        validate(read_yaml(path))


@pytest.mark.parametrize(
    ("group", "text"),
    [
        ("dataset", "clases: [a]"),
        ("dataset", "ignore_index: -1"),
        ("dataset", "classes: a"),
        ("schedule", "optimizer: Adagrad2"),
        ("schedule", "learning_rate: fast"),
        ("matrix", "base: {method.kapa: 1, datset: camvid}"),
        ("matrix", "base: {schedule.iterations: many}"),
        ("matrix", "rows: [{label: 3}]"),
        ("matrix", "tune: {trial: 3}"),
        ("matrix", "table: {metric: [miou]}"),
    ],
)
def test_the_schema_refuses_wrong_keys_and_values(
    protoseg: CommandLine, group: str, text: str
) -> None:
    validate = make_validator(protoseg, group)
    with pytest.raises(fastjsonschema.JsonSchemaValueException):
        validate(yaml.safe_load(text))
