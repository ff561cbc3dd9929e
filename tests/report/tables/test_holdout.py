"""Tables, explanations and plans of runs that are evaluated on a holdout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from protoseg.cli.views.plan import render_plan
from protoseg.errors import ProtosegError
from protoseg.planning.plan import Plan, PlanEntry
from protoseg.report.explanation import explain_cell
from protoseg.report.tables.cells import describe_data
from protoseg.report.tables.samples import describe_protocol
from protoseg.runs.folder import Status
from protoseg.runs.states import State
from report.lab import Lab, make_matrix, make_spec

RULE = {"share": 0.2, "blocks": 30, "gap": 10}
TEXT = "camvid holdout (20% of train, blocks of 30, gap 10, seed 0)"
PROTOCOL = f"{TEXT}, 3 classes, whole image, single scale, no flip"


def make_holdout_spec(seed: int = 0, **changes: Any) -> Any:
    return make_spec(seed, evaluation={"split": "holdout", "holdout": {**RULE, **changes}})


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_a_protocol_describes_the_holdout() -> None:
    assert describe_protocol(make_holdout_spec()) == PROTOCOL
    assert describe_protocol(make_spec()).startswith("camvid val (101 images, 3 classes), whole")
    assert describe_data(make_holdout_spec()) == "camvid holdout"


@pytest.mark.parametrize("other", [make_spec(), make_holdout_spec(seed=0, gap=5)])
def test_a_table_does_not_mix_a_holdout_with_other_data(lab: Lab, other: Any) -> None:
    matrix = make_matrix([(make_holdout_spec(), {"label": "a"}), (other, {"label": "b"})])
    with pytest.raises(ProtosegError, match=r"mixes two evaluation protocols.*evaluation.holdout"):
        lab.table(matrix)


def test_the_table_and_the_explanation_name_the_holdout(lab: Lab) -> None:
    planned = [(make_holdout_spec(seed), {"label": "a"}) for seed in range(2)]
    for spec, _ in planned:
        lab.finish(spec, 60.0 + spec.seed)
    matrix = make_matrix(planned)
    table = lab.table(matrix)
    assert f"Evaluation: {PROTOCOL}." in [note.text for note in table.footnotes]
    explanation = explain_cell(matrix, table, "a", "miou", lab.store)
    assert explanation.notes == (f"Evaluation: {PROTOCOL}.",)


def test_the_plan_names_the_holdout_once_per_matrix() -> None:
    matrix = make_matrix([(make_holdout_spec(seed), {"label": "a"}) for seed in range(2)])
    entries = tuple(PlanEntry(run, Status(State.NEW), ("test",), None) for run in matrix.runs)
    shown = [str(part) for part in render_plan(Plan(entries, 2, []), [matrix], "here").renderables]
    assert shown.count(f"Evaluation: {TEXT}.") == 1
