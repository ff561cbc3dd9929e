"""Text stays as typed, whatever YAML makes of it; names of a table fit values or are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from protoseg.config.compose import Composer
from protoseg.config.hydra.folders import ConfigFolders
from protoseg.config.load_matrix import load_matrix
from protoseg.config.matrix import Matrix
from protoseg.config.overrides import Setting, parse_overrides
from protoseg.errors import UsageError
from protoseg.launch.profile.profile import load_profile

TYPED = ("off", "on", "no", "Yes", "010", "1e3", "1.10", "0x1F", "1:30", "12_3", ".5", "01234567")
BASE = "base: {backbone: tiny, decoder: segformer_64, schedule: quickstart}\n"


def write_option(experiments: Path, group: str, name: str, source: str, extra: str) -> None:
    text = (experiments / group / f"{source}.yaml").read_text(encoding="utf-8")
    (experiments / group / f"{name}.yaml").write_text(text + extra, encoding="utf-8")


def test_class_names_and_checksums_stay_as_typed(copied_experiments: Path) -> None:
    classes = f"classes: [{', '.join(TYPED)}]\n"
    (copied_experiments / "dataset" / "odd.yaml").write_text(
        f"defaults: [schema, _self_]\nname: 010\ndigest: unpinned\n{classes}"
    )
    write_option(
        copied_experiments, "backbone", "odd", "tiny", "weights: 1.10\nweights_sha256: 01234567\n"
    )
    settings = [Setting("dataset", "odd"), Setting("backbone", "odd")]
    spec = Composer(copied_experiments).spec(settings, "test")
    assert spec.dataset.classes == TYPED
    assert spec.dataset.name == "010"
    assert (spec.backbone.weights, spec.backbone.weights_sha256) == ("1.10", "01234567")


def test_quotes_are_asked_for_where_hydra_composes(copied_experiments: Path) -> None:
    path = copied_experiments / "dataset" / "odd.yaml"
    path.write_text(
        "# @package dataset\ndefaults: [schema, _self_]\nname: odd\ndigest: unpinned\n"
        "classes: [ground, off]\n"
    )
    with pytest.raises(UsageError) as error:
        Composer(copied_experiments).spec([Setting("dataset", "odd")], "test")
    assert str(error.value) == (
        f"{path}: classes[1]: YAML reads off without quotes as a number or a truth value, but "
        'text is expected. Write "off".'
    )
    path.write_text(path.read_text().replace("off", '"off"'))
    spec = Composer(copied_experiments).spec([Setting("dataset", "odd")], "test")
    assert spec.dataset.classes == ("ground", "off")


@pytest.fixture
def load(composer: Composer, tmp_path: Path):
    def load_text(text: str, *overrides: str) -> Matrix:
        path = tmp_path / "m.yaml"
        path.write_text(BASE + text, encoding="utf-8")
        return load_matrix(composer, str(path), overrides)

    return load_text


def test_labels_titles_and_names_of_a_matrix_stay_as_typed(load) -> None:
    rows = "".join(f"- {{label: {t}, method.kappa: 0.{i + 1}}}\n" for i, t in enumerate(TYPED))
    table = "table: {caption: 1e3, baseline: {label: no}, names: {010: 0x1F, label: 1:30}}\n"
    matrix = load(f"title: 1.10\nrows:\n{rows}exclude: [{{label: off}}]\n{table}")
    assert [run.axes["label"] for run in matrix.runs] == list(TYPED[1:])
    assert matrix.title == "1.10"
    assert (matrix.table.caption, matrix.table.baseline) == ("1e3", {"label": "no"})
    assert matrix.table.names == {"010": "0x1F", "label": "1:30"}


def test_text_keys_of_a_spec_stay_as_typed_in_a_matrix(load) -> None:
    matrix = load("grid: {dataset.digest: [010, 1e3], dataset.name: [on]}\n")
    assert [run.spec.dataset.digest for run in matrix.runs] == ["010", "1e3"]
    assert matrix.runs[0].spec.dataset.name == "on"
    assert load("grid: {method.kappa: [1e-1, 0.2]}\n").runs[0].spec.method.kappa == 0.1


@pytest.mark.parametrize(
    ("axis", "names", "expected"),
    [
        ("augmentation.photometric: [true, false]", "{on: with, no: without}",
         {"true": "with", "false": "without"}),
        ("method.momentum: [0.999, 1.0]", "{1.0: frozen}", {"1": "frozen"}),
        ("method.momentum: [0.999, 1.0]", "{method.momentum=1.0: frozen, method.momentum: m}",
         {"method.momentum=1": "frozen", "method.momentum": "m"}),
        ("method.kappa: [0.05, 0.1]", "{method.kappa=5e-2: usual, 1e-1: more}",
         {"method.kappa=0.05": "usual", "0.1": "more"}),
        ("dataset: [shapes, shapes_64]", "{shapes_64: small}", {"shapes_64": "small"}),
    ],
)  # fmt: skip
def test_names_fit_values_in_every_spelling(load, axis: str, names: str, expected: dict) -> None:
    base = f"grid: {{{axis}}}\n"
    matrix = load(f"{base}table: {{names: {names}}}\n")
    assert matrix.table.names == expected


def test_a_name_of_no_value_is_refused(load) -> None:
    with pytest.raises(UsageError) as error:
        load("grid: {method.kappa: [0.05, 0.1]}\ntable: {names: {0.5: mistyped}}\n")
    assert str(error.value) == (
        "m.yaml: table.names: '0.5' is neither an axis nor a value of one. "
        "Known: method.kappa: 0.05, 0.1. Correct it, or remove it."
    )
    with pytest.raises(UsageError, match=r"'5e-2' and another key both name '0\.05'"):
        load("grid: {method.kappa: [0.05, 0.1]}\ntable: {names: {'0.05': a, 5e-2: b}}\n")
    with pytest.raises(UsageError, match=r"YAML reads two of the keys 0\.05, 5e-2 as the same"):
        load("grid: {method.kappa: [0.05, 0.1]}\ntable: {names: {0.05: a, 5e-2: b}}\n")


def test_a_name_of_a_value_that_an_override_replaces_is_accepted(load) -> None:
    text = "grid: {method.kappa: [0.05, 0.1]}\ntable: {names: {0.05: usual}}\n"
    assert load(text, "method.kappa=0.2,0.3").table.names == {"0.05": "usual"}


def test_an_override_whose_text_is_lost_asks_for_quotes(composer: Composer) -> None:
    def compose_name(text: str) -> str:
        ((_, settings),) = parse_overrides([f"dataset.name={text}"])
        return composer.spec(settings, "test").dataset.name

    with pytest.raises(UsageError) as error:
        compose_name("1.10")
    assert str(error.value) == (
        "test: dataset.name: expected text, found 1.1. Put the text in quotes."
    )
    assert [compose_name(text) for text in ('"1.10"', "010", "off")] == ["1.10", "010", "off"]


@pytest.mark.parametrize("typed", ["010", "1e3", "0x1F", "12_3", "on"])
def test_a_number_for_sbatch_stays_as_typed_or_needs_quotes(tmp_path: Path, typed: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(f"sbatch: {{nice: {typed}}}\n")
    with pytest.raises(UsageError, match=rf"sbatch\.nice: YAML reads {typed} without quotes"):
        load_profile(ConfigFolders(tmp_path), "site")
    path.write_text(f"sbatch: {{nice: '{typed}', exclusive: true, gres-flags: 100}}\n")
    profile = load_profile(ConfigFolders(tmp_path), "site")
    assert profile.sbatch == {"nice": typed, "exclusive": True, "gres-flags": 100}
