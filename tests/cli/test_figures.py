"""``protoseg figures`` as it is called."""

from __future__ import annotations

import argparse

import pytest

from cli.conftest import CommandLine
from protoseg.cli.command_line import parser
from protoseg.report.figures.types import KINDS


def test_the_command_line_offers_every_kind() -> None:
    (verbs,) = [a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)]
    (kind,) = [a for a in verbs.choices["figures"]._actions if a.dest == "kind"]
    assert kind.choices == tuple(KINDS)


def test_figures_are_written_beside_the_results(protoseg: CommandLine) -> None:
    runs = protoseg.quickstart()
    for run in runs:
        protoseg.record(run, 50.0 + run.spec.seed)
    answer = protoseg("figures", "quickstart", "--kind", "metric", "--kind", "loss", "--json")
    assert (answer.status, answer.err) == (0, "")
    found = answer.json
    assert [*found["figures"]["quickstart"]] == ["metric", "loss"]
    names = [f"quickstart{kind}.{form}" for kind in ("", "_loss") for form in ("svg", "pdf", "png")]
    folder = protoseg.lab.folder / "figures"
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert [path.rpartition("/")[2] for path in found["written"]["quickstart"]] == names
    rows = found["figures"]["quickstart"]["metric"]["content"]["rows"]
    assert sum(len(place["seeds"]) for _, places in rows for place in places) == len(runs)


def test_no_records_are_one_sentence_and_nothing_is_written(protoseg: CommandLine) -> None:
    answer = protoseg("figures", "quickstart")
    assert (answer.status, answer.out) == (1, "")
    assert answer.err.splitlines() == [
        "protoseg figures: quickstart: no run has finished, so there is nothing to draw. "
        "Train with: protoseg sweep quickstart"
    ]
    assert not (protoseg.lab.folder / "figures").exists()


def test_a_damaged_record_is_told_where_nothing_else_is_left(protoseg: CommandLine) -> None:
    path = protoseg.record(protoseg.quickstart()[0], 50.0)
    path.write_text(path.read_text().replace("50.0", "51.0"))
    answer = protoseg("figures", "quickstart")
    assert answer.status == 1
    nothing, damaged = answer.err.splitlines()
    assert nothing.startswith("quickstart: no run has finished")
    assert damaged.startswith(f"{path}: edited or damaged record")


@pytest.mark.parametrize("words", [["--kind", "bars"], ["--kind"]])
def test_an_unknown_kind_is_wrong_usage(protoseg: CommandLine, words: list[str]) -> None:
    answer = protoseg("figures", "quickstart", *words)
    assert answer.status == 2
