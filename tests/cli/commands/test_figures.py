"""``protoseg figures``."""

from __future__ import annotations

import argparse

import pytest
from synthetic_samples import make_samples, write_samples

from cli.conftest import CommandLine
from protoseg.cli.arguments import TRIAL_FIGURES
from protoseg.cli.command_line import make_parser
from protoseg.report.figures.builder import ALL_TYPES
from protoseg.report.figures.trial_types import TRIAL_TYPES


def test_the_option_kind_accepts_every_type_of_figure() -> None:
    subparsers = argparse._SubParsersAction
    (verbs,) = [action for action in make_parser()._actions if isinstance(action, subparsers)]
    figures = verbs.choices["figures"]
    (figure_type,) = [action for action in figures._actions if action.dest == "kind"]
    assert figure_type.choices == ALL_TYPES
    assert tuple(TRIAL_TYPES) == TRIAL_FIGURES


def test_figures_are_written_into_the_results_folder(protoseg: CommandLine) -> None:
    runs = protoseg.quickstart()
    for run in runs:
        protoseg.record(run, 50.0 + run.spec.seed)
    answer = protoseg("figures", "quickstart", "--kind", "metric", "--kind", "loss", "--json")
    assert (answer.status, answer.err) == (0, "")
    data = answer.json
    assert [*data["figures"]["quickstart"]] == ["metric", "loss"]
    names = [
        f"quickstart{figure_type}.{form}"
        for figure_type in ("", "_loss")
        for form in ("svg", "pdf", "png")
    ]
    folder = protoseg.lab.folder / "figures"
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert [path.rpartition("/")[2] for path in data["written"]["quickstart"]] == names
    rows = data["figures"]["quickstart"]["metric"]["content"]["rows"]
    assert sum(len(point["seeds"]) for _, points in rows for point in points) == len(runs)


def test_without_records_nothing_is_written(protoseg: CommandLine) -> None:
    answer = protoseg("figures", "quickstart")
    assert (answer.status, answer.out) == (1, "")
    assert answer.err.splitlines() == [
        "protoseg figures: quickstart: no run has finished, so there is nothing to draw. "
        "Train with: protoseg sweep quickstart"
    ]
    assert not (protoseg.lab.folder / "figures").exists()


def test_a_damaged_record_is_reported_if_it_is_the_only_one(protoseg: CommandLine) -> None:
    path = protoseg.record(protoseg.quickstart()[0], 50.0)
    path.write_text(path.read_text().replace("50.0", "51.0"))
    answer = protoseg("figures", "quickstart")
    assert answer.status == 1
    nothing, damaged = answer.err.splitlines()
    assert nothing.startswith("quickstart: no run has finished")
    assert damaged.startswith(f"{path}: edited or damaged record")


@pytest.mark.parametrize("options", [["--kind", "bars"], ["--kind"]])
def test_an_unknown_type_of_figure_is_wrong_usage(
    protoseg: CommandLine, options: list[str]
) -> None:
    answer = protoseg("figures", "quickstart", *options)
    assert answer.status == 2


def test_options_of_samples_are_used_or_refused(protoseg: CommandLine) -> None:
    run = protoseg.quickstart()[0]
    state = "s" * 64
    path = protoseg.record(run, 50.0, in_runs=True, provenance={"state_sha256": state})
    classes = run.spec.dataset.classes
    samples = make_samples(run.run_id, state, classes=classes, prototypes=0)
    write_samples(samples, path.with_name("samples.npz"))
    row = ("--row", "Parametric, K = 1")
    answer = protoseg("figures", "quickstart", *row)
    assert answer.status == 2
    assert "--row has no effect without --kind of one of these types: examples" in answer.err
    options = ("--kind", "examples", "--choose", "worst", "--images", "1", *row, "--json")
    answer = protoseg("figures", "quickstart", *options)
    assert (answer.status, answer.err) == (0, "")
    content = answer.json["figures"]["quickstart"]["examples"]["content"]
    worst = int(samples.arrays["image_miou"].argmin())
    assert [image["name"] for image in content["images"]] == [f"images/val/{worst:03}.png"]
    assert content["rows"] == ["Parametric, K = 1"]
    (prediction,) = content["images"][0]["predictions"]
    assert prediction["shape"] == [30, 40]
